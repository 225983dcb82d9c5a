"""Fields of JSON that other tools wrote: a value of the expected kind, None where it is not there, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roofml.traces.limits import MOST_TOKENS
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_line

LARGEST = 1e18
"""No number that is read is larger, in any unit."""
LONGEST = 400
"""Characters of a text that is kept."""


def as_mapping(path: Path | str, value: object, name: str) -> dict[str, Any]:
    """A value that is an object. Raises InputError naming the field for another."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]  # of JSON, whose keys are texts
    raise InputError(f"{path}: {name} is {shown(value)}, expected an object")


def mapping(path: Path | str, parent: Mapping[str, Any], name: str, prefix: str = "") -> dict[str, Any]:
    """The object under `name`; empty where there is none or null. Raises InputError for another kind."""
    value: object = parent.get(name)
    return {} if value is None else as_mapping(path, value, prefix + name)


def items(path: Path | str, parent: Mapping[str, Any], name: str, prefix: str = "") -> list[Any]:
    """The list under `name`; empty where there is none or null. Raises InputError for another kind."""
    value: object = parent.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        return value  # pyright: ignore[reportUnknownVariableType]
    raise InputError(f"{path}: {prefix}{name} is {shown(value)}, expected a list")


def number(path: Path | str, parent: Mapping[str, Any], name: str, prefix: str = "") -> float | None:
    """The finite number under `name`; None where there is none, null or NaN. Raises InputError for another kind."""
    value: object = parent.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        raise InputError(f"{path}: {prefix}{name} is {shown(value)}, expected a number")
    return float(value)


def count(path: Path | str, parent: Mapping[str, Any], name: str, prefix: str = "") -> int | None:
    """The whole number of at least 0 under `name`; None where there is none. Raises InputError for another."""
    value = number(path, parent, name, prefix)
    if value is None:
        return None
    if value != int(value) or not 0 <= value <= MOST_TOKENS:
        raise InputError(f"{path}: {prefix}{name} is {value:.17g}, expected a whole number from 0 to {MOST_TOKENS}")
    return int(value)


def text(value: object) -> str | None:
    """A text that says something, on one line; None for anything else."""
    return for_line(value)[:LONGEST] or None if isinstance(value, str) else None
