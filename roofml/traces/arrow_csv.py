"""The columns of a long CSV file at once, by Arrow: for files in which nothing has to be judged cell by cell.

It is many times faster than the `csv` module and makes no Python object of a cell. What Arrow would read otherwise than
that module, or where a file is wrong and an error has to say where, is left to the caller: it gets None.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from roofml.util.arrays import Floats, Ints

BLOCK = 8 << 20
"""Bytes that are parsed at a time."""
MOST_DIGITS = 18
"""Digits of the longest whole number that is read; more digits do not fit into 64 bits."""
UNSURE = (b"\0", b"\r", b",-", b"\n-", b",+", b"\n+", b" ,", b", ", b"\n ", b" \n", b"\t", b'""', b"0x", b"0X")
"""What Arrow and the `csv` module may read differently: signs and spaces at the ends of cells, odd line ends, and what
Arrow takes for hexadecimal."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a file, each (rows,)."""

    counts: Mapping[str, Ints]
    numbers: Mapping[str, Floats]
    words: Mapping[str, list[str]]
    rows: int


def read_columns(
    file: io.BufferedReader,
    counts: Sequence[str],
    numbers: Sequence[str],
    words: Sequence[str],
    *,
    longest_line: int,
    most_rows: int,
) -> Columns | None:
    """The columns `counts` (whole numbers of at least 0), `numbers` (of at least 0, NaN where empty) and `words`.

    The file stands at its start, and its first line has these columns. None where a line is blank or longer than
    `longest_line` characters, there are more than `most_rows`, or a cell is none of its kind or may be none.
    """
    arrow: Any = import_module("pyarrow")
    csv: Any = import_module("pyarrow.csv")
    watched = _Watched(file, longest_line)
    kinds = dict.fromkeys(counts, arrow.int64()) | dict.fromkeys(numbers, arrow.float64())
    kinds |= dict.fromkeys(words, arrow.dictionary(arrow.int32(), arrow.string()))
    try:
        reader: Any = csv.open_csv(
            arrow.PythonFile(watched, mode="r"),
            read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK),
            parse_options=csv.ParseOptions(newlines_in_values=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=kinds, include_columns=list(kinds), null_values=[""], strings_can_be_null=False
            ),
        )
        if list(reader.schema.names) != list(kinds):
            return None
        grown = _Grown(counts, numbers, words)
        if not all(grown.add(batch) and grown.rows <= most_rows and not watched.unsure for batch in reader):
            return None
        arrow.default_memory_pool().release_unused()
    except (arrow.ArrowException, OSError, ValueError):
        return None
    if watched.unsure or not watched.ended or grown.rows == 0 or watched.line_ends != grown.rows + 1:
        return None
    return grown.columns()


class _Watched(io.RawIOBase):
    """A file whose bytes are looked at while they are read: for lines, and for what must not be in them."""

    def __init__(self, file: io.BufferedReader, longest_line: int) -> None:
        super().__init__()
        self._file = file
        self._longest = longest_line
        self._since = 0
        """Bytes since the last line end."""
        self._tail = b""
        self._text = codecs.getincrementaldecoder("utf-8")()
        self.line_ends = 0
        """Lines so far, an unfinished last one too once the file has ended."""
        self.unsure = False
        self.ended = False

    def readable(self) -> bool:
        """True: Arrow asks."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        block = self._file.read(size)
        if block:
            self._look_at(block)
        elif not self.ended:
            self.ended = True
            self.line_ends += self._since > 0
        return block

    def _look_at(self, block: bytes) -> None:
        across = self._tail + block[:1]
        if any(pattern in block or pattern in across for pattern in UNSURE) or _odd_quotes(block):
            self.unsure = True
        if not block.isascii() or self._text.getstate()[0]:
            try:
                self._text.decode(block)
            except UnicodeDecodeError:
                self.unsure = True
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        self.line_ends += len(ends)
        if len(ends):
            longest = max(self._since + int(ends[0]), int(np.diff(ends).max(initial=0)))
            self._since = len(block) - int(ends[-1]) - 1
        else:
            self._since += len(block)
            longest = self._since
        self.unsure |= longest >= self._longest
        self._tail = block[-1:]


def _odd_quotes(block: bytes) -> bool:
    """Whether a quote stands elsewhere than at an end of a cell."""
    if b'"' not in block:
        return False
    whole = np.frombuffer(block, np.uint8)
    at = np.flatnonzero(whole == ord('"'))
    separators = np.array([ord(","), ord("\n")], np.uint8)
    before = np.isin(whole[np.maximum(at - 1, 0)], separators) | (at == 0)
    after = np.isin(whole[np.minimum(at + 1, len(whole) - 1)], separators) | (at == len(whole) - 1)
    return bool((~(before | after)).any())


def _cells(values: Any) -> Any:
    """(rows,) an Arrow column of numbers, none of which is missing.

    Arrow's own `to_numpy`, and its scalars, import pandas where it is installed: more than a second.
    """
    return np.from_dlpack(values)


def _with_gaps(values: Any) -> Floats:
    """(rows,) an Arrow column of floating-point numbers, NaN where a cell is empty."""
    if not values.null_count:
        return _cells(values)
    there = _cells(values.is_valid().cast("int8"))
    cells = np.frombuffer(values.buffers()[1], np.float64)[values.offset : values.offset + len(values)]
    return np.where(there, cells, np.nan)


class _Grown:
    """Columns that grow by Arrow's batches, in place: at no time is a column there twice."""

    def __init__(self, counts: Sequence[str], numbers: Sequence[str], words: Sequence[str]) -> None:
        self.rows = 0
        self._counts = {name: np.zeros(0, np.int64) for name in counts}
        self._numbers = {name: np.zeros(0) for name in numbers}
        self._codes = {name: np.zeros(0, np.int32) for name in words}
        self._texts: dict[str, dict[str, int]] = {name: {} for name in words}
        """Column -> text -> its code."""

    def add(self, batch: Any) -> bool:
        """Add a batch's rows; whether its cells are all of their kinds."""
        rows = slice(self.rows, self.rows + int(batch.num_rows))
        self.rows = rows.stop
        for columns in (self._counts, self._numbers, self._codes):
            for column in columns.values():
                if len(column) < self.rows:
                    column.resize(max(2 * len(column), self.rows), refcheck=False)
        for name, counts in self._counts.items():
            values = batch.column(name)
            if values.null_count:
                return False
            counts[rows] = _cells(values)
            if len(values) and not (counts[rows].min() >= 0 and counts[rows].max() < 10**MOST_DIGITS):
                return False
        for name, numbers in self._numbers.items():
            values = batch.column(name)
            numbers[rows] = _with_gaps(values)
            good = (numbers[rows] >= 0) & (numbers[rows] < np.inf)
            if int(good.sum()) + int(values.null_count) != len(values):
                return False
        for name, codes in self._codes.items():
            values, known = batch.column(name), self._texts[name]
            ours = [known.setdefault(text, len(known)) for text in values.dictionary.to_pylist()]
            codes[rows] = np.array(ours, np.int32)[_cells(values.indices)]
        return True

    def columns(self) -> Columns:
        """What has been added."""
        for columns in (self._counts, self._numbers, self._codes):
            for column in columns.values():
                column.resize(self.rows, refcheck=False)
        words = {name: np.array(list(self._texts[name]), object)[codes].tolist() for name, codes in self._codes.items()}
        return Columns(self._counts, self._numbers, words, self.rows)
