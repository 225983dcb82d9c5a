"""Values in the JSON that clients write: each checked for what it has to be, or refused by its name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from roofml.traces.limits import MOST_REQUESTS, MOST_TIME_US, MOST_TOKENS
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.util.names import shown

Object = Mapping[str, Any]


def number(source: str, parent: Object, name: str, most: float = 1e15) -> float | None:
    """A number from 0 to `most`; None where it is absent, null or NaN. Raises InputError for anything else."""
    value: object = parent.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InputError(f"{source}: {name}: {shown(value)}, expected a number from 0 to {most:g}")
    return float(value)


def count(source: str, parent: Object, name: str, most: int = MOST_REQUESTS) -> int | None:
    """A whole number from 0 to `most`; None where it is absent or null. Raises InputError for anything else."""
    value = number(source, parent, name, most)
    if value is None:
        return None
    if value != int(value):
        raise InputError(f"{source}: {name}: {shown(value)}, expected a whole number")
    return int(value)


def rate(source: str, parent: Object, name: str) -> float | None:
    """Requests a second; `inf`, as text or as a number, where all are sent at once. None where it is absent or null."""
    value: object = parent.get(name)
    if value in ("inf", "Infinity", math.inf):
        return math.inf
    if isinstance(value, str):
        try:
            return number(source, {name: float(value)}, name)
        except ValueError:
            raise InputError(f"{source}: {name}: {shown(value)}, expected a number or inf") from None
    return number(source, parent, name)


def word(parent: Object, name: str) -> str | None:
    """A text that says something; None of anything else."""
    value: object = parent.get(name)
    return value if isinstance(value, str) and value.strip() else None


def column(source: str, parent: Object, name: str, requests: int | None = None) -> list[Any] | None:
    """A list with one entry a request; None where it is absent, null or empty.

    Raises InputError for anything else, and for a list of another length than `requests`, where that is known.
    """
    value: object = parent.get(name)
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise InputError(f"{source}: {name}: {shown(value)}, expected a list")
    entries = cast("list[Any]", value)
    if requests is not None and len(entries) != requests:
        raise InputError(f"{source}: {name}: {len(entries)} entries, expected {requests}, one a request")
    if len(entries) > MOST_REQUESTS:
        raise InputError(f"{source}: {name}: {len(entries)} entries, expected at most {MOST_REQUESTS}")
    return entries


def times_us(source: str, name: str, seconds: list[Any], per_second: float = 1e6) -> Floats:
    """Times in µs, NaN where one is null; of numbers of a unit that has so many µs. Shape (requests,).

    Raises InputError, naming the request, for what is no number, and for a time that no clock has.
    """
    values = _floats(source, name, seconds, math.nan) * per_second
    bad = np.isinf(values) | (np.abs(np.nan_to_num(values)) >= MOST_TIME_US)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{source}: {name}: request {row + 1}: {shown(seconds[row])}, beyond every clock")
    return values


def counts(source: str, name: str, values: list[Any]) -> Ints:
    """Whole numbers of tokens, 0 where one is null. Shape (requests,). Raises InputError, naming the request."""
    found = _floats(source, name, values, 0.0)
    bad: Bools = ~((found >= 0) & (found <= MOST_TOKENS) & (found == np.rint(found)))
    if bad.any():
        row = int(np.argmax(bad))
        expected = f"a whole number from 0 to {MOST_TOKENS}"
        raise InputError(f"{source}: {name}: request {row + 1}: {shown(values[row])}, expected {expected}")
    return found.astype(np.int64)


def _floats(source: str, name: str, values: list[Any], absent: float) -> Floats:
    """Numbers as an array, those that are null as `absent`. Raises InputError, naming the request, for other things."""
    if not set(map(type, values)) <= {int, float, type(None)}:
        row, value = next(
            (row, value) for row, value in enumerate(values) if type(value) not in (int, float, type(None))
        )
        raise InputError(f"{source}: {name}: request {row + 1}: {shown(value)}, expected a number")
    try:
        return np.array([absent if value is None else value for value in values], np.float64)
    except OverflowError:
        raise InputError(f"{source}: {name}: a number that no clock or counter has") from None
