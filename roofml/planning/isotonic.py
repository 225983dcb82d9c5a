"""Isotonic regression: the rising curve nearest to points that rise in the mean alone, and where it crosses a level."""

from __future__ import annotations

import numpy as np

from roofml.util.arrays import Floats


def rising(values: Floats) -> Floats:
    """The nearest values, in least squares, none of which is below the one before: pool adjacent violators. (n,)"""
    sums: list[float] = []
    counts: list[int] = []
    for value in values.tolist():
        sums.append(value)
        counts.append(1)
        while len(sums) > 1 and sums[-2] * counts[-1] >= sums[-1] * counts[-2]:
            last, count = sums.pop(), counts.pop()
            sums[-1] += last
            counts[-1] += count
    return np.repeat(np.divide(sums, counts), counts)


def crossing(places: Floats, values: Floats, level: float = 0.0) -> float | None:
    """Where the rising curve through (places, values), both (n,) and places ascending, first reaches `level`.

    Between two places it is a line. None where it stays below; the first place where it begins above.
    """
    curve = rising(values)
    if curve[0] >= level:
        return float(places[0])
    above = np.flatnonzero(curve >= level)
    if not len(above):
        return None
    after = int(above[0])
    before = after - 1
    share = (level - curve[before]) / (curve[after] - curve[before])
    return float(places[before] + share * (places[after] - places[before]))
