"""Reading a small YAML mapping strictly: safe types, no alias bombs, no duplicate keys, errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from roofml.util.errors import InputError

MAX_BYTES = 4_000_000
MAX_DEPTH = 100
"""Of lists and mappings within each other; the parser takes time with the square of it."""


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in `path`, as plain dicts, lists, strings and numbers.

    Raises InputError for a missing, oversized, deeply nested, binary or invalid file, for anchors and aliases (a few
    lines of them can expand to gigabytes, and no file of ours needs them), for duplicate keys and for a top level that
    is not a mapping.
    """
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MAX_BYTES else b""
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size} bytes, expected at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    yaml = YAML(typ="safe", pure=True)
    depth = 0
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            line = event.start_mark.line + 1
            if getattr(event, "anchor", None):
                raise InputError(f"{path}: line {line}: anchors and aliases are not accepted")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InputError(f"{path}: line {line}: nested more than {MAX_DEPTH} deep")
        loaded: object = yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: {line}not valid YAML: {problem}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a mapping at the top level, found {type(loaded).__name__}")
    mapping = cast("dict[object, Any]", loaded)
    for key in mapping:
        if not isinstance(key, str):
            raise InputError(f"{path}: key {key!r}: expected a string")
    return cast("dict[str, Any]", mapping)
