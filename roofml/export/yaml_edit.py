"""The place of each node in a YAML text, so that an edit changes one node and nothing else.

A new dump would rewrite quotes, spacing, anchors and comments all over a user's file. This module keeps the text and
knows the span of every node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from roofml.util.errors import InputError


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
    keys: list[Node] = field(default_factory=list["Node"])
    children: list[Node] = field(default_factory=list["Node"])

    def get(self, key: str) -> Node | None:
        """Return the value of `key` in a mapping, or None if it has no such key."""
        return next((value for name, value in zip(self.keys, self.children, strict=True) if name.value == key), None)

    def key(self, key: str) -> Node:
        """Return the node of the key itself."""
        return next(name for name in self.keys if name.value == key)

    def walk(self) -> Iterator[Node]:
        """Yield this node and all nodes below it."""
        yield self
        for child in (*self.keys, *self.children):
            yield from child.walk()

    @property
    def is_empty(self) -> bool:
        """Whether the node is nothing or a written null."""
        return self.kind == "scalar" and self.plain and self.value in {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True)
class Document:
    """A YAML text of one document whose top level is a mapping in block style, or is empty."""

    text: str
    root: Node | None
    end: int
    """Index at which a section can be appended."""


def parse(text: str, path: Path) -> Document:
    """Return the nodes of `text`. Raises InputError, naming `path` and line, for a text that is no `Document`."""
    loader = YAML(typ="safe", pure=True)
    try:
        events: list[Any] = list(loader.parse(text))
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: {line}not valid YAML: {problem}") from None
    names = [type(event).__name__ for event in events]
    if names.count("DocumentStartEvent") > 1:
        raise InputError(f"{path}: more than one YAML document")
    if "DocumentStartEvent" not in names:
        return Document(text, None, len(text))
    last = events[names.index("DocumentEndEvent")]
    end = last.start_mark.index if last.explicit else len(text)
    root, _ = _node(events, names.index("DocumentStartEvent") + 1, text, path)
    if root.is_empty:
        return Document(text, None, end)
    if root.kind != "mapping" or root.flow:
        raise InputError(f"{path}: expected a mapping in block style at the top level")
    return Document(text, root, end)


def _node(events: list[Any], at: int, text: str, path: Path) -> tuple[Node, int]:
    """Return the node whose events begin at index `at`, and the index after them."""
    event = events[at]
    name = type(event).__name__
    start, end = event.start_mark.index, event.end_mark.index
    if name == "AliasEvent":
        return Node("alias", start, end, value=event.anchor), at + 1
    start = _after_properties(text, start, event)
    if name == "ScalarEvent":
        return Node("scalar", start, end, value=event.value, plain=not event.style, anchor=event.anchor), at + 1
    node = Node("sequence" if name == "SequenceStartEvent" else "mapping", start, end, bool(event.flow_style))
    node.anchor = event.anchor
    at += 1
    while type(events[at]).__name__ not in {"SequenceEndEvent", "MappingEndEvent"}:
        if node.kind == "mapping":
            key, at = _node(events, at, text, path)
            if key.kind != "scalar":
                raise InputError(f"{path}: line {line_number(text, key.start)}: expected a plain key")
            if any(other.value == key.value and key.value != "<<" for other in node.keys):
                raise InputError(f"{path}: line {line_number(text, key.start)}: key {key.value!r} is there twice")
            node.keys.append(key)
        child, at = _node(events, at, text, path)
        node.children.append(child)
    if node.flow:
        node.end = events[at].end_mark.index
    elif node.children:
        node.end = max(node.children[-1].end, node.keys[-1].end if node.keys else 0)
    return node, at + 1


def _after_properties(text: str, start: int, event: Any) -> int:
    """Return the index where a node's content begins, after its anchor and tag."""
    if event.anchor is None and getattr(event, "tag", None) is None:
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
