"""Tables as few points with straight lines between them: what an artifact holds of a table of thousands of numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roofml.util.arrays import Floats

CLOSE = 1e-13
"""Relative: how far the lines may be from the table. Step times are met to 1e-9."""


def knots(table: Floats) -> tuple[list[int], list[float]]:
    """(places, values) of points such that straight lines between them meet the whole table, of two numbers or more.

    The last two points are the last two numbers: past its end a table goes on with its last slope.
    """
    last = len(table) - 1
    if last < 1:
        raise ValueError(f"a table of {len(table)} numbers: expected at least 2")
    places, here = [0], 0
    while here < last - 1:
        here = _furthest(lambda end, start=here: _meets(table, start, end), here + 1, last - 1)
        places.append(here)
    return [*places, last], [float(table[place]) for place in (*places, last)]


def _meets(table: Floats, start: int, end: int) -> bool:
    """Whether the line from one number to another meets those between."""
    share = np.arange(1, end - start) / (end - start)
    between = table[start] + share * (table[end] - table[start])
    return bool(np.all(np.abs(between - table[start + 1 : end]) <= CLOSE * np.abs(table[start + 1 : end])))


def _furthest(meets: Callable[[int], bool], first: int, last: int) -> int:
    """The furthest place found that a line meets, by doubling and then halving; `first` always is one."""
    good, step = first, 1
    while good + step <= last and meets(good + step):
        good += step
        step *= 2
    while step > 0:
        if good + step <= last and meets(good + step):
            good += step
        step //= 2
    return good
