"""Peek: what a file is like, by its first bytes alone, for readers that have to tell their format from others."""

from __future__ import annotations

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from roofml.util.reading import first_bytes

HEAD = 65_536
"""Bytes that are looked at."""
DEEPEST = 4
"""Names within names that are told."""
_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\[\]]|\n')
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Peek:
    """What the beginning of a file shows."""

    head: bytes
    """Its first bytes, decompressed."""
    paths: frozenset[str] = frozenset()
    """Of JSON: the names in its first object, or the first of its list, with the names that they are inside of before
    them: `metadata.version`. Lists have no names: what is in one is in what the list is in."""
    is_list: bool = False
    """JSON whose top level is a list."""
    columns: tuple[str, ...] = ()
    """Of anything else: the cells of its first line, if it has several."""

    def has(self, *paths: str) -> bool:
        """Whether all of these names are there."""
        return self.paths.issuperset(paths)


def peek(path: Path) -> Peek:
    """The beginning of a file; nothing of a folder, or of what cannot be read. It raises nothing."""
    return _peek(first_bytes(path, HEAD))


@functools.lru_cache(maxsize=16)
def _peek(head: bytes) -> Peek:
    text = head.removeprefix(_MARK).lstrip()
    if text[:1] in (b"{", b"["):
        return Peek(head, _paths(text), is_list=text[:1] == b"[")
    line = text.split(b"\n", 1)[0].rstrip(b"\r")
    if b"\0" in line or len(line) == HEAD:
        return Peek(head)
    try:
        cells = next(csv.reader([line.decode("utf-8", "replace")]), list[str]())
    except csv.Error:
        cells = []
    return Peek(head, columns=tuple(cell.strip() for cell in cells) if len(cells) > 1 else ())


def _paths(text: bytes) -> frozenset[str]:
    """Names in the first object, with those that they are inside of."""
    found: set[str] = set()
    outermost = int(text[:1] == b"[")
    names: list[str] = []  # of the open objects and lists, "" for those without
    last = ""
    for token in _TOKEN.finditer(text):
        what = token.group()
        if what in (b"{", b"["):
            names.append(last)
            last = ""
        elif what in (b"}", b"]"):
            if names:
                names.pop()
            last = ""
            if what == b"}" and len(names) == outermost:
                break  # the first object has ended
        elif token.group(2) is not None:
            last = token.group(1).decode("utf-8", "replace")
            above = [name for name in names if name]
            if len(above) < DEEPEST:
                found.add(".".join([*above, last]))
        elif what != b"\n":
            last = ""
    return frozenset(found)
