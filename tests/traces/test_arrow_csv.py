"""Long files are read by Arrow, and to the same end as cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roofml.traces import csv_table
from roofml.traces.csv_table import Table, read_table
from roofml.util.errors import InputError

COUNTS, WORDS, NUMBERS = ("id", "tokens"), ("status", "message"), ("time",)
HEADER = "id,status,other,tokens,message,time"


def read(path: Path, monkeypatch: pytest.MonkeyPatch, long: int) -> Table | str:
    """The table, or the error, where files from `long` bytes on are tried as a whole."""
    monkeypatch.setattr(csv_table, "LONG", long)
    try:
        return read_table(path, lambda _, __: None, COUNTS, WORDS, "a", NUMBERS)
    except InputError as error:
        return str(error)


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """What a file says at once, and cell by cell."""
    return read(path, monkeypatch, 8), read(path, monkeypatch, 1 << 22)


def check_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> Table | str:
    at_once, by_cell = both(path, monkeypatch)
    if isinstance(by_cell, str):
        assert at_once == by_cell
        return by_cell
    assert isinstance(at_once, Table)
    np.testing.assert_array_equal(at_once.lines, by_cell.lines)
    for columns, others in ((at_once.counts, by_cell.counts), (at_once.numbers, by_cell.numbers)):
        assert columns.keys() == others.keys()
        for name, values in columns.items():
            np.testing.assert_array_equal(values, others[name])
            assert values.dtype == others[name].dtype
    assert {name: list(cells) for name, cells in at_once.words.items()} == {
        name: list(cells) for name, cells in by_cell.words.items()
    }
    return by_cell


CELLS = st.one_of(
    st.integers(0, 10**18).map(str),
    st.sampled_from(
        [
            *("", "ok", "error", "-1", "-0", "+3", " 4", "5 ", "1_0", "007", "1.5", "1e3", "inf", "nan", "NaN", "null"),
            *('"a,b"', '"a""b"', '"a\nb"', 'a"b', '"a"b', "\t", "é", "٣", "\x00", "\r", "0x10", "9" * 19, "true"),
            "0X1f",
        ]
    ),
)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=4), ending=st.booleans())
def test_any_file_says_the_same_both_ways(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], ending: bool
) -> None:
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    text = "\n".join([HEADER, *(",".join(row) for row in rows)]) + ("\n" if ending else "")
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as monkeypatch:
        check_same(path, monkeypatch)


GOOD = "\n".join([HEADER, *(f"{i},ok,x,{i % 7},{'' if i % 3 else 'late'},{i / 8}" for i in range(300))]) + "\n"


def test_a_good_file_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    path.write_text(GOOD, encoding="utf-8")
    monkeypatch.setattr(csv_table, "_read", None)  # cell by cell cannot be
    found = read(path, monkeypatch, 8)
    assert isinstance(found, Table)
    assert found.counts["id"].tolist() == list(range(300))
    assert found.lines[-1] == 301
    assert found.words["message"][:4] == ["late", "", "", "late"]


@pytest.mark.parametrize(
    "spoiled",
    [
        GOOD.replace("\n7,ok", "\n\n7,ok"),
        GOOD.replace("\n7,ok", "\n7,o\u00e9k"),
        GOOD.replace("\n7,ok", "\n7,ok,,"),
        GOOD.replace("\n7,ok", "\n-7,ok"),
        GOOD.replace("\n7,ok", "\n0x7,ok"),
        GOOD.replace("\n7,ok", '\n7,"o\nk"'),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n7,ok", "\n7,ok" + "k" * 1_000_000),
        GOOD + "\n\n",
        GOOD[:-5],
        "\ufeff" + GOOD,
    ],
    ids=["blank", "letters", "cells", "negative", "hexadecimal", "break", "ends", "long", "blank end", "cut", "mark"],
)
def test_what_has_to_be_judged_is_judged_cell_by_cell(
    spoiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(spoiled, encoding="utf-8", newline="")
    check_same(path, monkeypatch)


def test_bytes_that_are_no_text_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(GOOD.replace("\n250,ok,x", "\n250,ok,\udcff", 1).encode("utf-8", "surrogateescape"))
    found = check_same(path, monkeypatch)
    assert isinstance(found, str)
    assert "not UTF-8" in found
