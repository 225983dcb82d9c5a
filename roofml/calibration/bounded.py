"""Linear least squares within bounds."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from roofml.util.arrays import Floats

Reals = NDArray[np.floating[Any]]


def solved_within(matrix: Reals, wanted: Reals, low: Reals, high: Reals) -> Floats:
    """x between `low` and `high` for which `matrix` x is nearest to `wanted`, as `scipy.optimize.lsq_linear` finds it.

    Its first try is the solution without bounds; scipy, which is slow to load, is asked where that lies outside.
    """
    free = np.linalg.lstsq(matrix, wanted, rcond=-1)[0]
    if np.all((free >= low) & (free <= high)):
        return np.asarray(free, np.float64)
    from scipy.optimize import lsq_linear  # pyright: ignore[reportUnknownVariableType]

    return np.asarray(cast("Any", lsq_linear(matrix, wanted, bounds=(low, high))).x, np.float64)
