"""Kernel tables: measured over ideal time by shape, and the rules for shapes between and outside the measured ones.

A shape between measured ones is interpolated in the logarithms of size and time, so that a larger shape never takes
less time. Beyond the largest measured shape its efficiency holds, which is the roofline's slope. A shape smaller than
the smallest takes as long as the smallest. Every answer has a relative standard deviation: that of predicting a
measured shape from its neighbours, and more for every doubling outside the measured range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from roofml.util.arrays import Floats

SD_PER_DOUBLING = 0.05
"""Relative sd added in quadrature for every doubling of a size between a shape and the nearest measured one."""
SD_OF_OTHER_DTYPE = 0.15
"""Relative sd added in quadrature if another data type's efficiency stands in."""
STANDS_IN = "bfloat16"
"""Data type whose efficiency stands in for that of an unmeasured data type."""
AS_FAST = {"float16": "bfloat16"}
"""Data type -> the type that runs the same kernels at the same rates."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One file of `bench_data`: each row has the sizes of a shape and the values measured for it."""

    path: str
    about: Mapping[str, str]
    """Provenance: kernel, gpu, source, engine, licence, date, sd."""
    dtype: tuple[str, ...]
    """(rows,) data type of the weights or of the cache; empty strings where the kernel has none."""
    sizes: Floats
    """(rows, sizes) in the order of the file's columns."""
    values: Floats
    """(rows, values) in the order of the file's columns."""
    version_sd: Floats | None = None
    """(rows,) relative sd of having been measured with another version of the engine (`kernel_drift`)."""

    @property
    def sd(self) -> float:
        """Relative standard deviation inside the measured range."""
        return float(self.about.get("sd", "0.1"))

    def nearest(self, dtype: str, sizes: Sequence[float]) -> tuple[Floats, float]:
        """Values of the shape nearest in the logarithm of each size, and their relative standard deviation."""
        row, sd = self.nearest_row(dtype, sizes)
        return self.values[row], sd

    def nearest_row(self, dtype: str, sizes: Sequence[float]) -> tuple[int, float]:
        """Number of the row of that shape, and the relative standard deviation of its values for `sizes`."""
        dtypes, sd = np.array(self.dtype), self.sd
        rows = np.flatnonzero(dtypes == AS_FAST.get(dtype, dtype))
        if not rows.size:
            rows, sd = np.flatnonzero(np.isin(dtypes, [STANDS_IN, ""])), math.hypot(sd, SD_OF_OTHER_DTYPE)
        distance = np.abs(np.log2(self.sizes[rows] / np.asarray(sizes, np.float64))).sum(axis=1)
        nearest = int(np.argmin(distance))
        row = int(rows[nearest])
        if self.version_sd is not None:
            sd = math.hypot(sd, float(self.version_sd[row]))
        return row, math.hypot(sd, SD_PER_DOUBLING * float(distance[nearest]))


@dataclass(frozen=True, eq=False)
class GemmTable:
    """Matrix products (M x k) times (k x n)."""

    tokens: Floats
    """(knots,) M, ascending."""
    n: Floats
    k: Floats
    slowdown: Mapping[str, Floats]
    """Data type -> (n, k, knots) measured over ideal time."""
    sd: float
    source: str = ""
    version_sd: Mapping[str, float] = field(default_factory=dict[str, float])
    """Data type -> relative sd of having been measured with another version of the engine (`kernel_drift`)."""

    element_us: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    """Data type -> (knots,) ideal time of one element of a matrix at each M of `tokens`, µs."""

    def times(self, ratios: Mapping[str, Floats]) -> GemmTable:
        """The table with every slowdown times a ratio (n, k, knots), so that time still never falls with size."""
        changed: dict[str, Floats] = {}
        for dtype, slowdown in self.slowdown.items():
            ideal = self.n[:, None, None] * self.k[None, :, None] * self.element_us[dtype]
            changed[dtype] = rising(ideal * slowdown * ratios[dtype]) / ideal
        return replace(self, slowdown=changed)

    def at(self, dtype: str, n: float, k: float) -> tuple[Floats, float]:
        """Measured over ideal time of a matrix at each M of `tokens`, shape (knots,), and its relative sd."""
        dtype, sd = AS_FAST.get(dtype, dtype), self.sd
        if dtype not in self.slowdown:
            dtype, sd = STANDS_IN, math.hypot(sd, SD_OF_OTHER_DTYPE)
        (i, a, small_n, out_n), (j, b, small_k, out_k) = _place(self.n, n), _place(self.k, k)
        grid = np.log(self.slowdown[dtype])
        low = (1 - b) * grid[i, j] + b * grid[i, j + 1]
        high = (1 - b) * grid[i + 1, j] + b * grid[i + 1, j + 1]
        slowdown = np.exp((1 - a) * low + a * high) * small_n * small_k
        sd = math.hypot(sd, self.version_sd.get(dtype, 0.0))
        return slowdown, math.hypot(sd, SD_PER_DOUBLING * (out_n + out_k))


def rising(times: Floats) -> Floats:
    """Times that never fall along any axis, between the largest of all smaller sizes and the smallest of all larger.

    The geometric mean of the two: either alone would pass one slow or one quick measurement on to all beyond it.
    """
    above, below = times, times
    for axis in range(times.ndim):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return np.sqrt(above * below)


def _place(grid: Floats, size: float) -> tuple[int, float, float, float]:
    """(cell of `grid` with `size`, share of the cell in logarithms, smallest size over `size` if above 1, doublings
    outside of the grid)."""
    inside = float(np.clip(size, grid[0], grid[-1]))
    cell = int(np.clip(np.searchsorted(grid, inside) - 1, 0, len(grid) - 2))
    share = math.log(inside / grid[cell]) / math.log(grid[cell + 1] / grid[cell])
    return cell, share, max(1.0, grid[0] / size), abs(math.log2(size / inside))


@dataclass(frozen=True, eq=False)
class DecodeAttention:
    """Decode attention of one layer over `bytes` of keys and values of R requests. Its time, µs, is
    fixed_us + item_us·max(0, R·kv_heads - SMs) + bytes/(mbu·bandwidth)."""

    fixed_us: float
    """Time of the launch and of the shortest kernel, µs."""
    item_us: float
    """Time of each pair of request and KV head beyond one pair a streaming multiprocessor, µs."""
    mbu: float
    """Share of the memory bandwidth that the kernel reaches."""
    sd: float
