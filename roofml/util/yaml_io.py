"""Reading small YAML strictly: safe types, no alias bombs, tags or duplicate keys; errors name the line.

The parser's events are turned into values in one pass; scalars are those of YAML 1.2's core schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)

from roofml.util.errors import InputError
from roofml.util.reading import LONGEST_NUMBER, read_text

MOST_BYTES = 1_000_000
"""The parser reads some 200 kB a second."""
MAX_DEPTH = 100
"""Of lists and mappings within each other; the parser takes time with the square of it."""

MOST_VALUES = 1_000_000
"""Values of a text, every alias written out."""

T = TypeVar("T")

_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_WHOLE = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in `path`, as plain dicts, lists, strings and numbers.

    Raises InputError for a missing, oversized, deeply nested, binary or invalid file, for anchors and aliases (a few
    lines of them can expand to gigabytes, and no file of ours needs them), for tags, for duplicate keys, for more than
    one document and for a top level that is not a mapping.
    """
    return parse_mapping(read_text(path, MOST_BYTES), path)


def parse_mapping(text: str, path: Path) -> dict[str, Any]:
    """The mapping in a text; `path` names it in errors. Raises InputError as `read_mapping`."""
    loaded = _parsed(text, path, lambda: _document(_Events(text, path)))
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a mapping at the top level, found {type(loaded).__name__}")
    mapping = cast("dict[object, Any]", loaded)
    for key in mapping:
        if not isinstance(key, str):
            raise InputError(f"{path}: key {key!r}: expected a string")
    return cast("dict[str, Any]", mapping)


def parse_documents(text: str, path: Path) -> list[object]:
    """All documents of a text that other tools wrote, of whatever kind.

    Anchors, aliases and merge keys (`<<`) are followed: an alias is the same object again, and takes no memory.
    Raises InputError as `read_mapping`, and where the values, each alias written out, are more than MOST_VALUES.
    """
    events = _Events(text, path, aliases=True)
    return _parsed(text, path, lambda: _documents(events))


def _parsed(text: str, path: Path, parse: Callable[[], T]) -> T:
    """What `parse` gives. Raises InputError, naming the line, for what the parser refuses."""
    if len(text) > MOST_BYTES:
        raise InputError(f"{path}: {len(text)} characters of YAML, expected at most {MOST_BYTES}")
    try:
        return parse()
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: {line}not valid YAML: {problem}") from None
    except InputError:
        raise
    except (ValueError, AssertionError, LookupError, TypeError) as error:  # the parser's own, of a `%YAML 1.3` for one
        raise InputError(f"{path}: not valid YAML: {(str(error) or type(error).__name__).splitlines()[0]}") from None


class _Events:
    """The parser's events, each checked for what no file of ours needs."""

    def __init__(self, text: str, path: Path, *, aliases: bool = False) -> None:
        self.path = path
        self.aliases = aliases
        self.anchored: dict[str, object] = {}
        self.sizes: dict[str, int] = {}
        """Values within each anchored one, every alias written out."""
        self.values = 0
        self.left: Iterator[Event] = iter(YAML(typ="safe", pure=True).parse(text))
        self.depth = 0

    def next(self) -> Event:
        event = next(self.left)
        if getattr(event, "anchor", None) and not self.aliases:
            raise self.error(event, "anchors and aliases are not accepted")
        tag = cast("object", getattr(event, "tag", None))
        if isinstance(event, CollectionStartEvent | ScalarEvent) and tag is not None and str(tag) != "!":
            raise self.error(event, f"tags are not accepted, found {str(tag)[:60]!r}")
        self.depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if self.depth > MAX_DEPTH:
            raise self.error(event, f"nested more than {MAX_DEPTH} deep")
        return event

    def count(self, event: Event, values: int) -> None:
        """Count values that were read. Raises InputError for more than MOST_VALUES."""
        self.values += values
        if self.values > MOST_VALUES:
            raise self.error(event, f"aliases expand to more than {MOST_VALUES} values")

    def error(self, event: Event, problem: str) -> InputError:
        return InputError(f"{self.path}: line {event.start_mark.line + 1}: {problem}")


def _document(events: _Events) -> object:
    events.next()  # the stream's start
    if not isinstance(events.next(), DocumentStartEvent):
        return None
    value = _value(events, events.next())
    if isinstance(events.next(), DocumentEndEvent):
        following = events.next()
        if isinstance(following, DocumentStartEvent):
            raise events.error(following, "a second document, expected one")
    return value


def _documents(events: _Events) -> list[object]:
    events.next()  # the stream's start
    documents: list[object] = []
    while isinstance(events.next(), DocumentStartEvent):
        documents.append(_value(events, events.next()))
        events.next()  # the document's end
        events.anchored.clear()
    return documents


def _value(events: _Events, event: Event) -> object:
    anchor = cast("str | None", getattr(event, "anchor", None))
    if isinstance(event, AliasEvent):
        if anchor not in events.anchored:
            raise events.error(event, f"alias {str(anchor)[:60]!r} of what is not there, or not complete yet")
        events.count(event, events.sizes[anchor])
        return events.anchored[anchor]
    before = events.values
    events.count(event, 1)
    value = _new_value(events, event)
    if anchor:
        events.anchored[anchor], events.sizes[anchor] = value, events.values - before
    return value


def _new_value(events: _Events, event: Event) -> object:
    if isinstance(event, ScalarEvent):
        return _scalar(events, event)
    if isinstance(event, MappingStartEvent):
        mapping: dict[object, object] = {}
        merged: list[object] = []
        while not isinstance(start := events.next(), CollectionEndEvent):
            if not isinstance(start, ScalarEvent):
                raise events.error(start, "a list or mapping as a key, expected a plain one")
            key = _scalar(events, start)
            if key == "<<" and events.aliases:
                value = _value(events, events.next())
                merged += cast("list[object]", value) if isinstance(value, list) else [value]
                continue
            if key in mapping:
                raise events.error(start, f"key {str(key)[:80]!r} is there twice")
            mapping[key] = _value(events, events.next())
        for other in merged:
            if not isinstance(other, dict):
                raise events.error(event, "a merge key (<<) of what is no mapping")
            mapping = {**cast("dict[object, object]", other), **mapping}
        return mapping
    items: list[object] = []
    while not isinstance(start := events.next(), CollectionEndEvent):
        items.append(_value(events, start))
    return items


def _scalar(events: _Events, event: ScalarEvent) -> str | float | bool | None:
    text = str(cast("object", event.value))
    if event.style or event.tag is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text) or _OTHER_BASE.fullmatch(text):
        if len(text) > LONGEST_NUMBER:
            raise events.error(event, f"a number of {len(text)} digits, expected at most {LONGEST_NUMBER}")
        return int(text) if _WHOLE.fullmatch(text) else int(text, 0)
    return float(text) if _NUMBER.fullmatch(text) else text
