"""Mutations: one small, random change of bytes, of a text, of a JSON-like tree or of a table of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, cast

Tree = Any
"""Dicts, lists, strings, numbers, booleans and None."""

TEXTS = (
    *("", " ", "text", "1", "-1", "0.5", "nan", "inf", "true", "null", "~", "[]", "{}", "1e400", "0x10", "1_000"),
    *(
        "../x",
        "/dev/zero",
        ".hidden",
        "a b",
        "a/b",
        "a\\b",
        "a\nb",
        "a\tb",
        "a\r",
        "$(id)",
        "`id`",
        "'",
        '"',
        "${HOME}",
    ),
    *(
        "\x1b[31mred",
        "\x00",
        "\x7f",
        "\u202eright",
        "\u2028",
        "\ufeff",
        "\ud800",
        "é",
        "漢字",
        "😀",
        "x" * 300,
        "x" * 5000,
    ),
    *("*", "&a", "!!bool x", "# c", "- a", "a: b", "%s", "{0}", "[bold]", "[/red]", "\\", ",", ";", "|", "0" * 400),
)
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 10, 100, 1000, 4096, 65_537, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**18),
    *(-(2**63), 10**30, 10**299, -(10**40), 10**310, 0.0, -0.0, 0.5, 1.0, 1.5, -2.5, 1e-9, 5e-324, 1e18, 1e19, 1e300),
    *(1e308, -1e308, math.nan, math.inf, -math.inf),
)
SHAPES: tuple[Tree, ...] = (
    *(None, True, False, [], {}, [None], [[]], [{}], [1], ["x"], [-1], [1, 2, 3], ["a", "a"], [math.nan], [10**30]),
    *({"a": 1}, {"": None}, {"a": {"b": []}}, {"name": "x"}, {"intValue": "5"}, {"type": None}, [[1, 2], [3]]),
)
TOKENS = (
    *(
        b"",
        b"\n",
        b"\r\n",
        b"\r",
        b"\t",
        b" ",
        b"\x00",
        b"\xff",
        b"\xfe\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
    ),
    *(
        b"\x1b[2J",
        b"\xe2\x80\xae",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b'"',
        b"'",
        b",",
        b":",
        b": ",
        b"- ",
        b"? ",
        b"# ",
        b"#",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a",
        b"!!bool ",
        b"!!int ",
        b"!x ",
        b"<<: ",
        b"|\n",
        b">-\n",
        b"---\n",
        b"...\n",
    ),
    *(
        b"%YAML 1.3\n---\n",
        b"%TAG ! x\n",
        b"@",
        b"`",
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"-",
        b"1e400",
        b"9" * 400,
    ),
    *(
        b"[" * 200,
        b"{" * 200,
        b"{a: " * 120,
        b"\\u0000",
        b"\\ud800",
        b"\\",
        b"=",
        b"0x",
        b".5",
        b"1_0",
        b"~",
        b'""',
        b"''",
    ),
)


def any_value(random: Random) -> Tree:
    """A value that a field would not expect."""
    kind = random.randrange(10)
    if kind < 3:
        return random.choice(TEXTS)
    if kind < 7:
        return random.choice(NUMBERS)
    if kind < 9:
        shape = random.choice(SHAPES)
        return list(cast("list[Tree]", shape)) if isinstance(shape, list) else _copied(shape)
    return nested(random.choice((2, 10, 60, 99, 101)), random)


def _copied(shape: Tree) -> Tree:
    return dict(cast("dict[str, Tree]", shape)) if isinstance(shape, dict) else shape


def nested(depth: int, random: Random) -> Tree:
    """Lists or mappings within each other."""
    value: Tree = random.choice((1, "x", None))
    in_lists = random.random() < 0.5
    for _ in range(depth):
        value = [value] if in_lists else {"a": value}
    return value


def mutate_tree(root: Tree, random: Random, donors: Sequence[Tree] = ()) -> Tree:
    """The tree with one change somewhere; `donors` are other trees that keys and values may come from."""
    if not isinstance(root, dict | list) or not root or random.random() < 0.01:
        return any_value(random)
    parent, key = _place(root, random)
    value = parent[key]
    kind = random.randrange(12)
    if kind < 4:
        parent[key] = any_value(random)
    elif kind < 6:
        parent[key] = _near(value, random)
    elif kind == 6:
        del parent[key]
    elif kind == 7:
        _rename(parent, key, random)
    elif kind == 8:
        other, place = _place(root, random)
        other[place] = value if not isinstance(value, dict | list) else any_value(random)
    elif kind == 9:
        parent[key] = [value] if random.random() < 0.5 else {"a": value}
    elif kind == 10:
        _repeat(parent, key, random)
    else:
        _transplant(root, parent, random, donors)
    return cast("Tree", root)


def _place(root: Tree, random: Random) -> tuple[Any, Any]:
    """A container in the tree, and a key or an index of it."""
    at: Any = root
    while True:
        is_mapping = isinstance(at, dict)
        key: Any = random.choice(list(cast("dict[str, Tree]", at))) if is_mapping else random.randrange(len(at))
        child: Any = at[key]
        if isinstance(child, dict | list) and child and random.random() < 0.8:
            at = child  # pyright: ignore[reportUnknownVariableType]
            continue
        return at, key


def _near(value: Tree, random: Random) -> Tree:
    """A value of the same meaning or of nearly the same size."""
    if isinstance(value, bool) or value is None:
        return random.choice((not value, str(value), int(bool(value))))
    if isinstance(value, int | float):
        makers = (
            lambda: -value,
            lambda: value + 1,
            lambda: value - 1,
            lambda: str(value),
            lambda: value * random.choice((2, 3, 10, 1000, 10**6, 10**9)),
            lambda: value // 2 if isinstance(value, int) else value / 2,
            lambda: float(value),
            lambda: value * 1.0000001,
        )
        try:
            return random.choice(makers)()
        except (OverflowError, ValueError):
            return 0
    if isinstance(value, str):
        makers_of_text = (
            lambda: value.upper(),
            lambda: value[:-1],
            lambda: value + random.choice(TEXTS),
            lambda: random.choice(TEXTS) + value,
            lambda: value * 2,
            lambda: f" {value} ",
        )
        return random.choice(makers_of_text)()
    return any_value(random)


def _rename(parent: Any, key: Any, random: Random) -> None:
    if isinstance(parent, dict):
        mapping = cast("dict[str, Tree]", parent)
        new = random.choice((str(key) + "s", str(key).upper(), random.choice(TEXTS), f" {key}"))
        mapping[new] = mapping.pop(key)
    else:
        parent.reverse()


def _repeat(parent: Any, key: Any, random: Random) -> None:
    """Another entry like this one: under a new name, or again and again in a list."""
    if isinstance(parent, dict):
        parent[random.choice((f"{key}2", str(key).swapcase(), random.choice(TEXTS)))] = parent[key]
    else:
        parent[key:key] = [parent[key]] * random.choice((1, 2, 30))


def _transplant(root: Tree, parent: Any, random: Random, donors: Sequence[Tree]) -> None:
    donor = random.choice(donors) if donors else root
    if not isinstance(donor, dict | list) or not donor:
        return
    source, place = _place(donor, random)
    value = source[place]
    if isinstance(value, dict | list):
        value = any_value(random)
    if isinstance(parent, dict):
        parent[place if isinstance(place, str) else "a"] = value
    else:
        parent.append(value)


def mutate_bytes(raw: bytes, random: Random) -> bytes:
    """The bytes with one change somewhere."""
    size = len(raw)
    at = random.randrange(size + 1)
    kind = random.randrange(9)
    if kind == 0 and size:
        place = min(at, size - 1)
        return raw[:place] + bytes([raw[place] ^ (1 << random.randrange(8))]) + raw[place + 1 :]
    if kind == 1:
        return raw[:at] + raw[at + random.choice((1, 2, 8, 40)) :]
    if kind in (2, 3):
        return raw[:at] + random.choice(TOKENS) + raw[at:]
    if kind == 4:
        token = random.choice(TOKENS)
        return raw[:at] + token + raw[at + len(token) :]
    if kind == 5:
        end = min(size, at + random.choice((1, 10, 100)))
        return raw[:end] + raw[at:end] * random.choice((1, 2, 20)) + raw[end:]
    if kind == 6:
        return raw[:at]
    return _mutate_line(raw, random)


def _mutate_line(raw: bytes, random: Random) -> bytes:
    """A line left out, said twice, moved, or with its words replaced."""
    lines = raw.split(b"\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        head, colon, _ = lines[at].partition(b":")
        lines[at] = head + colon + b" " + str(random.choice(NUMBERS)).encode()
    else:
        head, colon, _ = lines[at].partition(b":")
        lines[at] = head + colon + b" " + random.choice(TEXTS).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


Rows = list[list[str]]
"""A CSV table: the first row has the names."""
FACTORS = (0.001, 0.01, 0.1, 0.5, 0.9, 1.1, 2, 10, 1000, 1_000_000)


def mutate_rows(rows: Rows, random: Random) -> Rows:
    """The table with one change: of a cell, a row, a column or of all times."""
    if not rows or not rows[0]:
        return [["a"]]
    kind = random.randrange(12)
    row, column = random.randrange(len(rows)), random.randrange(len(rows[0]))
    if kind < 4:
        if column < len(rows[row]):
            rows[row][column] = _cell(rows[row][column], random)
    elif kind < 7:
        _mutate_column(rows, column, random)
    elif kind == 7:
        del rows[row]
    elif kind == 8:
        rows.insert(row, list(rows[random.randrange(len(rows))]))
    elif kind == 9:
        _mutate_times(rows, random)
    elif kind == 10:
        for one in rows:
            if column < len(one):
                del one[column]
    else:
        for one in rows:
            one.insert(column, one[random.randrange(len(one))] if one else "")
    return rows


def _cell(cell: str, random: Random) -> str:
    if cell.isascii() and cell.isdecimal() and len(cell) < 30 and random.random() < 0.6:
        value = int(cell)
        return str(random.choice((-value, value + 1, max(0, value - 1), int(value * random.choice(FACTORS)), 0, 1)))
    return random.choice((random.choice(TEXTS), str(random.choice(NUMBERS)), cell + " ", cell + "0", "true", "error"))


def _mutate_column(rows: Rows, column: int, random: Random) -> None:
    """Every cell of a column: the same, scaled, moved or shuffled."""
    cells = [row[column] for row in rows[1:] if column < len(row)]
    whole = [int(cell) for cell in cells if cell.isascii() and cell.isdecimal() and len(cell) < 30]
    factor, offset = random.choice(FACTORS), random.choice((-(10**6), -1, 1, 10**6, 10**12))
    kind = random.randrange(4)
    if kind == 0 or len(whole) < len(cells):
        cells = [_cell(cells[0] if cells else "", random)] * len(cells)
    elif kind == 1:
        cells = [str(int(value * factor)) for value in whole]
    elif kind == 2:
        cells = [str(max(0, value + offset)) for value in whole]
    else:
        random.shuffle(cells)
    for row, cell in zip((row for row in rows[1:] if column < len(row)), cells, strict=False):
        row[column] = cell


def _mutate_times(rows: Rows, random: Random) -> None:
    """All columns of times by one factor or one offset: another unit, another clock."""
    columns = [place for place, name in enumerate(rows[0]) if name.endswith("_time_us")]
    factor, offset = random.choice(FACTORS), random.choice((0, 0, -(10**6), 10**6, 10**13))
    for row in rows[1:]:
        for column in columns:
            if column < len(row) and row[column].isascii() and row[column].isdecimal() and len(row[column]) < 30:
                row[column] = str(max(0, int(int(row[column]) * factor) + offset))
