"""A CSV file of requests, read block by block: numbers become arrays at once, so that a long trace takes little memory.

Lines and cells are bounded, so that a file of zeros or without line breaks is refused at its start.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roofml.traces.arrow_csv import MOST_DIGITS, read_columns
from roofml.traces.limits import MOST_REQUESTS
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, open_file, refuse

BLOCK = 8192
"""Rows that are held as text at a time."""
HEAD = 65_536
"""Bytes by which a file is judged before it is read."""
LONG = 1 << 20
"""Bytes from which a file is first tried as a whole."""
LONGEST_LINE = 1_000_000
"""Characters."""


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a CSV file by column. Arrays and lists have one entry a row."""

    path: Path
    lines: Ints
    """The line on which each row starts."""
    counts: Mapping[str, Ints]
    """Columns of whole numbers of at least 0."""
    words: Mapping[str, Sequence[str]]
    numbers: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    """Columns of numbers of at least 0; NaN where a cell is empty."""

    def refuse(self, row: int, column: str, expected: str) -> InputError:
        """The error for one bad cell."""
        numbers = self.counts if column in self.counts else self.numbers
        cell = str(numbers[column][row]) if column in numbers else self.words[column][row]
        return _bad_cell(self.path, int(self.lines[row]), column, cell, expected)

    def one_of(self, column: str, allowed: tuple[str, ...]) -> Sequence[str]:
        """A column of fixed words. Raises InputError naming line and column for any other."""
        cells = self.words[column]
        if not set(cells) <= set(allowed):
            row = next(row for row, cell in enumerate(cells) if cell not in allowed)
            raise self.refuse(row, column, f"one of {', '.join(allowed)}")
        return cells


def read_table(
    path: Path,
    check_names: Callable[[Path, list[str]], None],
    counts: Sequence[str],
    words: Sequence[str],
    what: str = "a TraceV2",
    numbers: Sequence[str] = (),
) -> Table:
    """The columns `counts` (whole numbers), `numbers` and `words` of a CSV file; those that it lacks are left out.

    `check_names` raises InputError for a header line with other columns than expected. So does this, naming file and
    line, for a file that is no CSV, a row of another length and a count that is none.
    """
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        try:
            head = file.read(max(HEAD, LONG))
            _check_head(path, head[:HEAD], what)
            kept = _Kept(counts, words, numbers)
            if len(head) >= LONG:
                file.seek(0)
                at_once = _read_at_once(path, file, head, check_names, kept)
                if at_once is not None:
                    return at_once
            file.seek(0)
            with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
                return _read(path, text, check_names, kept, what)
        except OSError as error:
            refuse(path, error)


class _Kept(NamedTuple):
    """Names of the columns that are kept."""

    counts: Sequence[str]
    words: Sequence[str]
    numbers: Sequence[str]


def _check_head(path: Path, head: bytes, what: str) -> None:
    if not head.strip():
        raise InputError(f"{path}: empty, expected {what} header line and rows")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}), expected {what} CSV file") from None
    if b"\0" in head:
        raise InputError(f"{path}: holds zero bytes, expected {what} CSV file")


def _read_at_once(
    path: Path, file: io.BufferedReader, head: bytes, check_names: Callable[[Path, list[str]], None], kept: _Kept
) -> Table | None:
    """The table of a long file in which nothing has to be judged cell by cell; None of any other."""
    first = head.removeprefix(codecs.BOM_UTF8).split(b"\n", 1)[0]
    if b"\n" not in head or not first.isascii() or b'"' in first or b"\r" in first:
        return None
    names = first.decode("ascii").split(",")
    check_names(path, names)
    here = [[name for name in asked if name in names] for asked in kept]
    if len(set(names)) < len(names) or not any(here):
        return None
    counts, words, numbers = here
    found = read_columns(file, counts, numbers, words, longest_line=LONGEST_LINE, most_rows=MOST_REQUESTS)
    if found is None:
        return None
    lines = np.arange(2, found.rows + 2, dtype=np.int64)
    return Table(path, lines, found.counts, found.words, found.numbers)


def _read(
    path: Path,
    text: io.TextIOWrapper,
    check_names: Callable[[Path, list[str]], None],
    kept: _Kept,
    what: str,
) -> Table:
    reader: Any = csv.reader(_lines(path, text, what), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        names: list[str] = next(reader, list[str]())  # a byte order mark alone is no line
        check_names(path, names)
        columns = _Columns(path, names, kept)
        line = reader.line_num
        for row in reader:
            # A quoted message may hold line breaks: a row is named by the line it starts on.
            start, line = line + 1, reader.line_num
            if not row:
                continue
            if len(row) != len(names):
                cut = "; the file is cut short" if _has_ended(reader) else ""
                raise InputError(f"{path}: line {start}: {len(row)} cells, expected {len(names)}{cut}")
            rows.append(row)
            lines.append(start)
            if len(rows) == BLOCK:
                columns.add(rows, lines)
                rows, lines = [], []
        if rows:
            columns.add(rows, lines)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text (after line {reader.line_num})") from None
    return columns.table()


def _lines(path: Path, text: io.TextIOWrapper, what: str) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise InputError(f"{path}: line {number}: longer than {LONGEST_LINE} characters")
        if "\0" in line:
            raise InputError(f"{path}: line {number}: holds zero bytes, expected {what} CSV file")
        if number > 2 * MOST_REQUESTS:
            raise InputError(f"{path}: more than {number - 1} lines, expected at most {MOST_REQUESTS} requests")
        yield line


def _has_ended(reader: Iterator[list[str]]) -> bool:
    """Whether only blank lines are left."""
    try:
        return not any(reader)
    except csv.Error:
        return False


class _Columns:
    """The columns that are kept, growing by blocks of rows."""

    def __init__(self, path: Path, names: Sequence[str], kept: _Kept) -> None:
        self.path = path
        self.place = {name: place for place, name in enumerate(names)}
        self.lines: list[Ints] = []
        self.counts: dict[str, list[Ints]] = {name: [] for name in kept.counts if name in self.place}
        self.numbers: dict[str, list[Floats]] = {name: [] for name in kept.numbers if name in self.place}
        self.words: dict[str, list[str]] = {name: [] for name in kept.words if name in self.place}
        self.same: dict[str, str] = {}
        self.requests = 0

    def add(self, rows: list[list[str]], lines: list[int]) -> None:
        self.requests += len(rows)
        if self.requests > MOST_REQUESTS:
            raise InputError(f"{self.path}: more than {MOST_REQUESTS} requests")
        cells = list(zip(*rows, strict=True))
        self.lines.append(np.array(lines, dtype=np.int64))
        for name, blocks in self.counts.items():
            blocks.append(self._whole(name, cells[self.place[name]], lines))
        for name, found in self.numbers.items():
            found.append(self._numbers(name, cells[self.place[name]], lines))
        for name, words in self.words.items():
            column = cells[self.place[name]]
            words.extend(map(self.same.setdefault, column, column))  # equal texts are held once

    def _whole(self, name: str, cells: Sequence[str], lines: Sequence[int]) -> Ints:
        # One test of the joined cells is fast; the search for the bad one is needed only to refuse the file.
        joined = "".join(cells)
        if not (joined.isascii() and joined.isdecimal() and all(cells) and max(map(len, cells)) <= MOST_DIGITS):
            for line, cell in zip(lines, cells, strict=True):
                if not (cell.isascii() and cell.isdecimal() and len(cell) <= MOST_DIGITS):
                    raise _bad_cell(self.path, line, name, cell, "a whole number of at least 0")
        return np.array(list(map(int, cells)), dtype=np.int64)

    def _numbers(self, name: str, cells: Sequence[str], lines: Sequence[int]) -> Floats:
        try:
            if "_" in "".join(cells):
                raise ValueError
            found = np.array([float(cell) if cell else np.nan for cell in cells])
            good = bool((np.isnan(found) | ((found >= 0) & (found < np.inf))).all())
        except ValueError:
            good, found = False, np.zeros(0)
        if not good:
            for line, cell in zip(lines, cells, strict=True):
                if not _is_number(cell):
                    raise _bad_cell(self.path, line, name, cell, "a number of at least 0, or nothing")
        return found

    def table(self) -> Table:
        if not self.requests:
            raise InputError(f"{self.path}: no rows after the header line, expected one a request")
        counts = {name: np.concatenate(blocks) for name, blocks in self.counts.items()}
        numbers = {name: np.concatenate(blocks) for name, blocks in self.numbers.items()}
        return Table(self.path, np.concatenate(self.lines), counts, self.words, numbers)


def _is_number(cell: str) -> bool:
    try:
        return not cell or ("_" not in cell and not float(cell) < 0 and float(cell) != np.inf)
    except ValueError:
        return False


def _bad_cell(path: Path, line: int, column: str, cell: str, expected: str) -> InputError:
    found = repr(cell if len(cell) <= 40 else cell[:40] + "...")
    return InputError(f"{path}: line {line}: {column} is {found}, expected {expected}")
