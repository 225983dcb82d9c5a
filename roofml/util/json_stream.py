"""Large JSON files, a part at a time: lines of one object each, or one document that is walked and not held.

A file of a million requests takes no more memory than its largest part. Everything is read through the bounded opener.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson

from roofml.util.errors import InputError
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, open_file, parse_json, parse_quickly, refuse

LONGEST_PART = 64 * 2**20
"""Most bytes of a line, and most characters of a part of a document that is read as a whole."""
STRICT_LINES = 200
"""First lines in which a key may not stand twice. Who writes keys twice does so from the first line on."""
TRIES = 4
"""Places at which a block of a list is cut in trial, and blocks after which that is given up."""
BLOCK = 2**20
"""Bytes that are read at a time."""
_NO_SPACE = re.compile(r"[^ \t\r\n]")
_OF_NUMBERS = frozenset("0123456789.eE+-")
_MARK = "\ufeff"


def json_lines(path: Path, most: int = MOST_BYTES_OF_A_TABLE) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, the object on it) of a file of one JSON object a line; blank lines are left out.

    Raises InputError naming file and line for a line that is no JSON object, or is longer than LONGEST_PART.
    """
    with open_file(path, most) as file:
        number = 0
        try:
            while line := file.readline(LONGEST_PART):
                number += 1
                if len(line) == LONGEST_PART:
                    raise InputError(f"{path}: line {number}: longer than {LONGEST_PART} bytes")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.strip():
                    continue
                place = f"{path}: line {number}"
                # An error in the last line is most often a file that was cut.
                cut = "" if line.endswith(b"\n") else "; the file is cut short"
                try:
                    parsed = (parse_json if number <= STRICT_LINES else parse_quickly)(line, place)
                except InputError as error:
                    raise InputError(f"{error}{cut}") from None
                if not isinstance(parsed, dict):
                    raise InputError(f"{place}: expected a JSON object")
                yield number, cast("dict[str, Any]", parsed)
        except OSError as error:
            refuse(path, error)


class JsonDocument:
    """One JSON document, walked from its start. What is entered must be walked to its end before what comes after it.

    `members` and `items` enter an object or a list; `value` reads a part as a whole. Every InputError names the file.
    """

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self._path, self._file = path, file
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._text, self._place, self._before = "", 0, 0
        self._ended = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._unique)
        if self.next() == _MARK:
            self._place += 1

    def next(self) -> str:
        """The first character of what comes next; empty at the end of the file. Nothing is read."""
        while True:
            found = _NO_SPACE.search(self._text, self._place)
            self._place = found.start() if found is not None else len(self._text)
            if found is not None:
                return found.group()
            if not self._more():
                return ""

    def members(self) -> Iterator[str]:
        """Enter an object: the names in it, each to be followed by a walk of its value."""
        self._take("{", "an object")
        seen: set[str] = set()
        if self.next() == "}":
            self._place += 1
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise self._wrong("expected a name in quotes")
            if name in seen:
                raise InputError(f"{self._path}: key {name[:80]!r} is there twice")
            seen.add(name)
            self._take(":", "':'")
            yield name
            if self._separator("}"):
                return

    def items(self) -> Iterator[int]:
        """Enter a list: the places in it from 0, each to be followed by a walk of its value."""
        self._take("[", "a list")
        if self.next() == "]":
            self._place += 1
            return
        place = 0
        while True:
            yield place
            place += 1
            if self._separator("]"):
                return

    def elements(self) -> Iterator[object]:
        """All of a list, each as a whole and several times as fast as by `items` and `value`.

        After the first STRICT_LINES, of a key given twice the last counts.
        """
        self._take("[", "a list")
        if self.next() == "]":
            self._place += 1
            return
        count, failures = 0, 0
        while True:
            self.next()
            several = self._several() if count >= STRICT_LINES and failures < TRIES else None
            if several:
                yield from several
                count += len(several)
            else:
                failures += several is not None
                yield self.value()
                count += 1
            if self._separator("]"):
                return

    def _several(self) -> list[object] | None:
        """The objects of a list that come next, as far as they were read; empty if they cannot be told apart.

        None where too few were read. A cut between two braces is right if what is before it is a list of its own: in
        a text, or deeper, its brackets would not match.
        """
        if len(self._text) - self._place < BLOCK // 2:
            self._more()
        end = len(self._text)
        for _ in range(TRIES):
            end = max(self._text.rfind(between, self._place, end) for between in ("}, {", "},{", "},\n"))
            if end < 0:
                return None
            try:
                found: list[object] = orjson.loads(f"[{self._text[self._place : end + 1]}]")
            except orjson.JSONDecodeError:
                continue
            self._place = end + 1
            return found
        return []

    def value(self) -> object:
        """What comes next, as a whole."""
        self.next()
        size = BLOCK
        while True:
            try:
                found, end = self._decoder.raw_decode(self._text, self._place)
                # A number that the block ends with may go on in the next: 1 with .5, or with e3.
                whole = end < len(self._text) and self._text[end] not in _OF_NUMBERS
                if whole or not self._more(size):
                    self._place = end
                    return cast("object", found)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - 16
                if not cut:
                    raise self._wrong(error.msg, error.pos) from None
                if not self._more(size):
                    raise self._wrong(f"{error.msg}: the file is cut short", error.pos) from None
            except RecursionError:
                raise InputError(f"{self._path}: not valid JSON: nested too deep") from None
            except InputError:
                raise
            except ValueError as error:  # a whole number of thousands of digits
                raise InputError(f"{self._path}: not valid JSON: {error}") from None
            if len(self._text) - self._place > LONGEST_PART:
                raise self._wrong(f"more than {LONGEST_PART} characters in one part", self._place)
            size *= 2

    def end(self) -> None:
        """Raise InputError unless the document ends here."""
        if self.next():
            raise self._wrong("more text after its end")

    def _separator(self, closing: str) -> bool:
        """Whether the list or object closes here; else the comma is taken."""
        character = self.next()
        if character not in (",", closing):
            raise self._wrong(f"expected ',' or '{closing}'" if character else "the file is cut short")
        self._place += 1
        return character == closing

    def _take(self, character: str, expected: str) -> None:
        found = self.next()
        if found != character:
            raise self._wrong(f"expected {expected}" if found else "the file is cut short")
        self._place += 1

    def _more(self, size: int = 0) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        try:
            raw = self._file.read(size or BLOCK)
            text = self._decode.decode(raw, final=not raw)
        except UnicodeDecodeError:
            raise InputError(f"{self._path}: not UTF-8 text") from None
        except OSError as error:
            refuse(self._path, error)
        self._ended = not raw
        self._before += self._place
        self._text, self._place = self._text[self._place :] + text, 0
        return bool(raw)

    def _wrong(self, what: str, place: int | None = None) -> InputError:
        where = self._before + (self._place if place is None else place)
        return InputError(f"{self._path}: not valid JSON: {what} (character {where})")

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{self._path}: key {twice[:80]!r} is there twice")
        return result
