"""Curves through measurements: times that never fall, interpolation in logarithms, robust spreads, straight lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.util.arrays import Floats

UNKNOWN_SD = 0.1
"""Relative standard deviation of a table whose shapes have no neighbours to be predicted from."""


def never_falling(sizes: Floats, times: Floats) -> Floats:
    """Times that never fall with size: the measured ones without gross outliers, by isotonic regression of logarithms.

    A time is an outlier if it is above that of the next larger size and more than a tenth above linear growth from the
    next smaller one (an H100 product of 2,048 tokens took four times as long as that of 4,096).
    """
    logs = np.log(times)
    for i in range(1, len(logs) - 1):
        if logs[i] > logs[i + 1] + 0.05 and logs[i] > logs[i - 1] + np.log(sizes[i] / sizes[i - 1]) + 0.1:
            logs[i] = 0.5 * (logs[i - 1] + logs[i + 1])
    return np.exp(np.asarray(isotonic_regression(logs).x, np.float64))


def at_sizes(row: Any, targets: Sequence[int]) -> Floats:
    """Times of `row` (a pandas Series indexed by size) at the sizes `targets`, interpolated in logarithms."""
    measured = row.dropna()
    sizes = np.asarray(measured.index, np.float64)
    times = never_falling(sizes, np.asarray(measured, np.float64))
    return np.exp(np.interp(np.log(targets), np.log(sizes), np.log(times)))


def robust_sd(errors: Floats) -> float:
    """1.48 times the median absolute error; `UNKNOWN_SD` without errors."""
    if errors.size == 0:
        return UNKNOWN_SD
    return 1.4826 * float(np.nanmedian(np.abs(errors)))


def straight_line(times: Floats, items: Floats, ideal: Floats, short: Any) -> tuple[float, float, float, float]:
    """(fixed µs, µs an item, MBU, relative sd) of times ≈ fixed + item·items + ideal/MBU; least relative squares.

    The fit uses the shortest contexts (`short`), which cost only the launch and the items, and those too large for a
    cache (40 µs of ideal time: 130 MB on an H100). Between them a kernel measured alone finds its keys in the cache.
    """
    rows = short | (ideal > 40)
    matrix = np.column_stack((np.ones_like(times), items, ideal))
    weights = np.ones(int(rows.sum()))
    solution = np.zeros(3)
    for _ in range(10):
        solution = np.asarray(nnls((matrix[rows] / times[rows, None]) * weights[:, None], weights)[0], np.float64)
        errors = matrix[rows] @ solution / times[rows] - 1
        weights = 1 / np.sqrt(np.maximum(1, np.abs(errors) / (3 * robust_sd(errors) + 1e-3)))
    fixed, item, slope = map(float, solution)
    return fixed, item, 1 / max(slope, 1e-3), robust_sd(matrix[rows] @ solution / times[rows] - 1)
