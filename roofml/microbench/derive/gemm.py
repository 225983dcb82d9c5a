"""Matrix products -> gemm.csv: ideal over measured time by format, n and k, at a few M."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.formats import FORMATS
from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.bounds import MANY_ROWS, LeftOut, possible, unusable
from roofml.microbench.derive.curves import at_sizes, robust_sd
from roofml.microbench.derive.dtypes import FORMATS_MEASURED
from roofml.microbench.derive.family import Derived, Family
from roofml.microbench.derive.known_bad import without_known_bad
from roofml.util.arrays import Floats

GEMM_TOKENS = (1, 16, 32, 48, 64, 128, 256, 512, 1024, 4096)
COLUMNS = ("gemm_dtype", "m", "n", "k", "latency")
SMALL, PADDED = 16, 8
"""Beyond the first M only its multiples of the second count: a step's tokens are padded to the size of a CUDA graph.
Sizes between, one more than a kernel's tile, take up to a third longer."""
LEAST_SIDE = 32
"""Narrower products, of routers and gates, take as long as the narrowest here: their launch."""
MOST_MISSING = 0.5
"""An n that was measured with less than this share of the k of the others is left out, and the other way round: a grid
with most cells missing has no shape of its own there."""
WIDE = 1024
"""Matrices of at least so many rows and columns: their times are not those of a launch."""


def gemm(table: Any, gpu: Gpu) -> Derived:
    """Lines of gemm.csv, and the relative error of a matrix predicted from its four neighbours in n and k.

    Efficiencies are at most 1: a small matrix measured again and again sits in the cache, where a step never finds it.
    """
    left_out = LeftOut()
    table = without_known_bad(table, "gemm", left_out)
    lines: list[str] = []
    errors: list[Floats] = []
    for source, format in FORMATS_MEASURED.items():
        efficiencies: dict[tuple[int, int], Floats] = {}
        for (n, k), times in times_of(table, source, gpu, left_out).items():
            ideal = np.maximum(*_ideal(format, np.array(GEMM_TOKENS, float), n, k, gpu))
            efficiencies[n, k] = np.minimum(1.0, ideal / times)
            lines.append(f"{format},{n},{k}," + ",".join(f"{v:.3g}" for v in efficiencies[n, k]))
        errors += _errors_of_neighbours(efficiencies)
    header = "dtype,n,k," + ",".join(f"m{m}" for m in GEMM_TOKENS)
    return Derived([header, *lines], robust_sd(np.array(errors)), left_out.about())


def _ideal(format: str, m: Floats, n: int, k: int, gpu: Gpu) -> tuple[Floats, Floats]:
    """Least times of the datasheet, µs: of the arithmetic, and of reading the weights."""
    kind = FORMATS[format]
    reading = kind.weight_bytes * n * k / gpu.bandwidth_bytes_per_us
    return 2 * m * n * k / gpu.flops_rate(gpu.computes_in(kind.flops_dtype)), np.full_like(m, reading)


def times_of(table: Any, source: str, gpu: Gpu, left_out: LeftOut) -> dict[tuple[int, int], Floats]:
    """(n, k) -> times at `GEMM_TOKENS`, µs, of a format; empty where it was not measured or no server would use it."""
    rows = table[table.gemm_dtype == source]
    format = FORMATS_MEASURED[source]
    kind = FORMATS[format]
    found: dict[tuple[int, int], Floats] = {}
    if rows.empty or kind.flops_dtype not in gpu.flops_per_us:
        return found
    reason = "" if source == "bfloat16" else _why_unusable(table, rows, kind.flops_dtype == "bfloat16")
    if reason:
        left_out.count(f"of {source}: {reason}", len(rows))
        return found
    rows = rows[((rows.m <= SMALL) | (rows.m % PADDED == 0)) & (rows.n >= LEAST_SIDE) & (rows.k >= LEAST_SIDE)]
    for side, other in (("n", "k"), ("k", "n")):
        partners = rows.groupby(side)[other].nunique()
        rows = rows[rows[side].isin(partners[partners >= MOST_MISSING * partners.max()].index)]
    if rows.empty:
        return found
    times = 1e3 * rows.pivot_table(index=["n", "k"], columns="m", values="latency", aggfunc="min")
    for (n, k), row in times.iterrows():
        m = np.asarray(row.index, np.float64)
        compute, reading = _ideal(format, m, n, k, gpu)
        weights = np.full_like(m, kind.weight_bytes * n * k)
        row.loc[:] = possible(m, np.asarray(row, np.float64), compute, reading, weights, left_out)
        if row.notna().sum() >= 2:
            found[int(n), int(k)] = at_sizes(row, GEMM_TOKENS)
    return found


def _why_unusable(table: Any, rows: Any, unpacked: bool) -> str:
    """Why no server would use the kernels of `rows`, by the bfloat16 ones of `table`; nothing if one would."""
    wide = table[table.gemm_dtype == "bfloat16"]
    if wide.empty:
        return ""
    own, other = (
        part[(part.n >= WIDE) & (part.k >= WIDE) & (part.m >= MANY_ROWS)].groupby(["m", "n", "k"]).latency.min()
        for part in (rows, wide)
    )
    return unusable((own / other).dropna().to_numpy(float), rows.latency.min(), wide.latency.min(), unpacked)


def _errors_of_neighbours(efficiencies: dict[tuple[int, int], Floats]) -> list[Floats]:
    """Logarithms of measured efficiencies less the mean of the four neighbours', of matrices that have all four."""
    grids = [sorted({shape[axis] for shape in efficiencies}) for axis in (0, 1)]
    errors: list[Floats] = []
    for (n, k), efficiency in efficiencies.items():
        i, j = grids[0].index(n), grids[1].index(k)
        if min(n, k) < WIDE or not (0 < i < len(grids[0]) - 1 and 0 < j < len(grids[1]) - 1):
            continue
        beside = [(grids[0][i - 1], k), (grids[0][i + 1], k), (n, grids[1][j - 1]), (n, grids[1][j + 1])]
        if all(shape in efficiencies for shape in beside):
            mean = np.mean([np.log(efficiencies[shape]) for shape in beside], axis=0)
            errors.append(np.log(efficiency) - mean)
    return errors


FAMILIES = (Family("gemm", "gemm", COLUMNS, gemm, needed=True),)
