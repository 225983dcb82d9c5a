"""The place of each node in a YAML text, so that an edit changes one node and nothing else.

A new dump would rewrite quotes, spacing, anchors and comments all over a user's file. This module keeps the text and
knows the span of every node. Aliases are never followed, so that a few lines of them cannot become gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from roofml.util.errors import InputError

MOST_CHARACTERS = 150_000
"""The parser reads some 200,000 a second, and a file is parsed before and after its edit."""
MAX_DEPTH = 100
"""Of lists and mappings within each other; the parser takes time with the square of it."""

_PREFIX = "tag:yaml.org,2002:"
_FITTING = {
    "str": re.compile(r"(?s).*"),
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
"""Tag of a scalar -> what may be tagged so."""


@dataclass
class Node:
    """A node and its span text[start:end], without anchor or tag. A node in block style ends with its last child."""

    kind: str
    """scalar, sequence, mapping or alias."""
    start: int
    end: int
    flow: bool = False
    value: str = ""
    """The content of a scalar, or the anchor's name of an alias."""
    plain: bool = True
    anchor: str | None = None
    tag: str | None = None
    keys: list[Node] = field(default_factory=list["Node"])
    children: list[Node] = field(default_factory=list["Node"])
    places: dict[str, int] = field(default_factory=dict[str, int])
    """Key of a mapping -> its place in `keys` and `children`."""

    def get(self, key: str) -> Node | None:
        """Return the value of `key` in a mapping, or None if it has no such key."""
        place = self.places.get(key)
        return None if place is None else self.children[place]

    def key(self, key: str) -> Node:
        """Return the node of the key itself."""
        return self.keys[self.places[key]]

    def walk(self) -> Iterator[Node]:
        """Yield this node and all nodes below it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [*node.keys, *node.children]

    def outline(self) -> tuple[object, ...]:
        """Return what the node says, without its place: equal of two nodes that say the same, written the same way."""
        children = tuple(child.outline() for child in (*self.keys, *self.children))
        return (self.kind, self.flow, self.value, self.plain, self.anchor, self.tag, len(self.keys), children)

    @property
    def is_empty(self) -> bool:
        """Whether the node is nothing or a written null."""
        null = self.value in {"", "~", "null", "Null", "NULL"}
        return self.kind == "scalar" and self.plain and self.tag is None and null


@dataclass(frozen=True)
class Document:
    """A YAML text of one document whose top level is a mapping in block style, or is empty."""

    text: str
    root: Node | None
    end: int
    """Index at which a section can be appended."""
    used: frozenset[str] = frozenset()
    """The anchors that an alias uses."""


def parse(text: str, path: Path, most: int = MOST_CHARACTERS) -> Document:
    """Return the nodes of `text`. Raises InputError, naming `path` and line, for a text that is no `Document`."""
    if len(text) > most:
        raise InputError(f"{path}: {len(text)} characters, expected at most {most}")
    alone = re.search(r"\r(?!\n)", text)
    if alone is not None:
        raise InputError(f"{path}: line {line_number(text, alone.start())}: a carriage return that ends no line")
    try:
        return _Parser(text, path).document()
    except InputError:
        raise
    except (YAMLError, ValueError, AssertionError) as error:  # it asserts that it knows the version of a %YAML line
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: {line}not valid YAML: {problem}") from None


class _Parser:
    """The nodes of one text, made from the parser's events as they come."""

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path
        self.events: Iterator[Any] = iter(YAML(typ="safe", pure=True).parse(text))
        self.anchors: set[str] = set()
        self.used: set[str] = set()

    def error(self, event: Any, problem: str) -> InputError:
        return InputError(f"{self.path}: line {event.start_mark.line + 1}: {problem}")

    def document(self) -> Document:
        next(self.events)  # the stream's start
        if not _is(next(self.events), DocumentStartEvent):
            return Document(self.text, None, len(self.text))
        root = self.node(next(self.events), 0)
        last = next(self.events)
        end = last.start_mark.index if _is(last, DocumentEndEvent) and last.explicit else len(self.text)
        if _is(next(self.events), DocumentStartEvent):
            raise InputError(f"{self.path}: more than one YAML document")
        if root.is_empty:
            return Document(self.text, None, end)
        if root.kind != "mapping" or root.flow:
            raise InputError(f"{self.path}: expected a mapping in block style at the top level")
        return Document(self.text, root, end, frozenset(self.used))

    def node(self, event: Any, depth: int) -> Node:
        """Return the node that begins with this event, having taken all of its events."""
        start, end = event.start_mark.index, event.end_mark.index
        if _is(event, AliasEvent):
            name = str(event.anchor)
            if name not in self.anchors:
                raise self.error(event, f"alias *{name} of an anchor that is not there")
            self.used.add(name)
            return Node("alias", start, end, value=name)
        anchor = None if event.anchor is None else str(event.anchor)
        if anchor is not None:
            self.anchors.add(anchor)
        start = _after_properties(self.text, start, event)
        tag = self.tag(event)
        if _is(event, ScalarEvent):
            plain = not event.style
            return Node("scalar", start, end, value=str(event.value), plain=plain, anchor=anchor, tag=tag)
        if depth >= MAX_DEPTH:
            raise self.error(event, f"nested more than {MAX_DEPTH} deep")
        kind = "sequence" if _is(event, SequenceStartEvent) else "mapping"
        node = Node(kind, start, end, bool(event.flow_style), anchor=anchor, tag=tag)
        self.fill(node, _is(event, MappingStartEvent), depth)
        return node

    def fill(self, node: Node, is_mapping: bool, depth: int) -> None:
        """Give a list or mapping its children."""
        while not _is(event := next(self.events), CollectionEndEvent):
            if is_mapping:
                key = self.node(event, depth + 1)
                if key.kind != "scalar":
                    raise self.error(event, "expected a plain key")
                if key.value in node.places and key.value != "<<":
                    raise self.error(event, f"key {key.value[:80]!r} is there twice")
                node.places[key.value] = len(node.keys)
                node.keys.append(key)
                event = next(self.events)
            node.children.append(self.node(event, depth + 1))
        if node.flow:
            node.end = event.end_mark.index
        elif node.children:
            node.end = max(node.children[-1].end, node.keys[-1].end if node.keys else 0)

    def tag(self, event: Any) -> str | None:
        """Return the tag as it is written. Raises InputError for one that the node does not fit."""
        if event.tag is None:
            return None
        tag = str(event.tag)
        name = tag.removeprefix(_PREFIX)
        if _is(event, ScalarEvent):
            fits = name == "!" or (name in _FITTING and _FITTING[name].fullmatch(str(event.value)))
        else:
            fits = name in {"!", "seq" if _is(event, SequenceStartEvent) else "map"}
        if not fits:
            raise self.error(event, f"tag {name[:60]!r} does not fit what it stands at")
        return tag


def _is(event: Any, kind: type) -> bool:
    """Whether an event is of a kind. (The parser's events have no types that a checker could follow.)"""
    return isinstance(event, kind)


def _after_properties(text: str, start: int, event: Any) -> int:
    """Return the index where a node's content begins, after its anchor and tag."""
    if event.anchor is None and event.tag is None:
        return start
    match = re.compile(r"(?:[&!][^\s,\[\]{}]*(?:[ \t]+|(?=\r?\n)|$))*").match(text, start)
    return min(match.end(), event.end_mark.index) if match and match.end() > start else start


def line_number(text: str, index: int) -> int:
    """Return the number of the line of `index`, from 1."""
    return text.count("\n", 0, index) + 1


def line_start(text: str, index: int) -> int:
    """Return the index where the line of `index` begins."""
    return text.rfind("\n", 0, index) + 1


def line_end(text: str, index: int) -> int:
    """Return the index after the line break of the line of `index`, or the end of the text if it has none."""
    line_break = text.find("\n", index)
    return len(text) if line_break < 0 else line_break + 1
