"""Kernel tables: measured over ideal time by shape, and what holds for a shape between and outside those measured.

A shape in between is interpolated in the logarithm of size and time, so that what is larger never takes less; beyond
the largest measured its efficiency holds, which is the roofline's slope, and what is smaller than the smallest takes as
long as that one. Every answer has a relative standard deviation: that of predicting a measured shape from its
neighbours, and more for every doubling outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roofml.util.arrays import Floats

SD_PER_DOUBLING = 0.05
"""Added in quadrature for every doubling of a size between a shape and the nearest that was measured."""
SD_OF_OTHER_DTYPE = 0.15
"""The same where another data type's efficiency stands in."""
STANDS_IN = "bfloat16"
"""Whose efficiency a data type takes that was not measured."""
AS_FAST = {"float16": "bfloat16"}
"""The same kernels at the same rates."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One file of `bench_data`: rows of a shape's sizes and what was measured for it."""

    path: str
    about: Mapping[str, str]
    """Provenance: kernel, gpu, source, engine, licence, date, sd."""
    dtype: tuple[str, ...]
    """(rows,) data type of the weights or of the cache; empty strings where the kernel has none."""
    sizes: Floats
    """(rows, sizes) in the order of the file's columns."""
    values: Floats
    """(rows, values)"""

    @property
    def sd(self) -> float:
        """Relative standard deviation inside the measured range."""
        return float(self.about.get("sd", "0.1"))

    def nearest(self, dtype: str, sizes: Sequence[float]) -> tuple[Floats, float]:
        """Values of the shape nearest in the logarithm of each size, and their relative standard deviation."""
        known = np.array([found == AS_FAST.get(dtype, dtype) for found in self.dtype])
        sd = self.sd
        if not known.any():
            known, sd = np.array([found in {STANDS_IN, ""} for found in self.dtype]), math.hypot(sd, SD_OF_OTHER_DTYPE)
        distance = np.abs(np.log2(self.sizes[known] / np.asarray(sizes, np.float64))).sum(axis=1)
        row = int(np.argmin(distance))
        return self.values[known][row], math.hypot(sd, SD_PER_DOUBLING * float(distance[row]))


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

    def at(self, dtype: str, n: int, k: int) -> tuple[Floats, float]:
        """Measured over ideal time of a matrix at each M of `tokens`, shape (knots,), and its relative sd."""
        dtype, sd = AS_FAST.get(dtype, dtype), self.sd
        if dtype not in self.slowdown:
            dtype, sd = STANDS_IN, math.hypot(sd, SD_OF_OTHER_DTYPE)
        (i, a, small_n, out_n), (j, b, small_k, out_k) = _place(self.n, n), _place(self.k, k)
        grid = np.log(self.slowdown[dtype])
        low = (1 - b) * grid[i, j] + b * grid[i, j + 1]
        high = (1 - b) * grid[i + 1, j] + b * grid[i + 1, j + 1]
        slowdown = np.exp((1 - a) * low + a * high) * small_n * small_k
        return slowdown, math.hypot(sd, SD_PER_DOUBLING * (out_n + out_k))


def _place(grid: Floats, size: float) -> tuple[int, float, float, float]:
    """Where `size` lies in `grid`: cell, share of it in the logarithm, how much smaller than the smallest it is, and
    how many doublings outside."""
    inside = float(np.clip(size, grid[0], grid[-1]))
    cell = int(np.clip(np.searchsorted(grid, inside) - 1, 0, len(grid) - 2))
    share = math.log(inside / grid[cell]) / math.log(grid[cell + 1] / grid[cell])
    return cell, share, max(1.0, grid[0] / size), abs(math.log2(size / inside))


@dataclass(frozen=True, eq=False)
class DecodeAttention:
    """One layer's decode attention, of R requests with their keys and values in memory, takes
    fixed_us + item_us·max(0, R·kv_heads - SMs) + bytes/(mbu·bandwidth)."""

    fixed_us: float
    """Launch, and the shortest a kernel runs."""
    item_us: float
    """For each pair of request and KV head beyond one for every streaming multiprocessor."""
    mbu: float
    sd: float
