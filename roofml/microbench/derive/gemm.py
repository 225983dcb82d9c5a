"""Matrix products -> gemm.csv: ideal over measured time by n and k, at a few M."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.curves import at_sizes, robust_sd
from roofml.microbench.derive.dtypes import DTYPES
from roofml.microbench.derive.family import Derived, Family
from roofml.util.arrays import Floats

GEMM_TOKENS = (1, 16, 32, 48, 64, 128, 256, 512, 1024, 4096)


def gemm(table: Any, gpu: Gpu) -> Derived:
    """Lines of gemm.csv, and the relative error of a matrix predicted from its four neighbours in n and k.

    Efficiencies are at most 1: a small matrix measured again and again sits in the cache, where a step never finds it.
    """
    lines: list[str] = []
    errors: list[Floats] = []
    m = np.array(GEMM_TOKENS, float)
    for source_dtype, (dtype, size) in DTYPES.items():
        rows = table[table.gemm_dtype == source_dtype]
        if dtype not in gpu.flops_per_us or rows.empty:
            continue
        times = 1e3 * rows.pivot_table(index=["n", "k"], columns="m", values="latency", aggfunc="min")
        efficiencies: dict[tuple[int, int], Floats] = {}
        for (n, k), row in times.iterrows():
            ideal = np.maximum(2 * m * n * k / gpu.flops_per_us[dtype], size * n * k / gpu.bandwidth_bytes_per_us)
            efficiencies[n, k] = np.minimum(1.0, ideal / at_sizes(row, GEMM_TOKENS))
            lines.append(f"{dtype},{n},{k}," + ",".join(f"{v:.3g}" for v in efficiencies[n, k]))
        grid = sorted({n for n, _ in efficiencies})
        for (n, k), efficiency in efficiencies.items():
            i, j = grid.index(n), grid.index(k) if k in grid else 0
            neighbours = [
                efficiencies.get((grid[i + di], grid[j + dj]))
                for di, dj in ((-1, 0), (1, 0), (0, -1), (0, 1))
                if 0 <= i + di < len(grid) and 0 <= j + dj < len(grid)
            ]
            logs = [np.log(neighbour) for neighbour in neighbours if neighbour is not None]
            if n >= 1024 and k >= 1024 and len(logs) == 4:
                errors.append(np.log(efficiency) - np.mean(logs, axis=0))
    return Derived(["dtype,n,k," + ",".join(f"m{m}" for m in GEMM_TOKENS), *lines], robust_sd(np.array(errors)))


FAMILIES = (Family("gemm", "gemm", ("gemm_dtype", "m", "n", "k", "latency"), gemm, needed=True),)
