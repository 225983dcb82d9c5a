"""Mixtures of experts -> moe.csv: ideal over measured time of the fused kernel by shape, at a few M."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.curves import at_sizes, robust_sd
from roofml.microbench.derive.dtypes import DTYPES
from roofml.microbench.derive.family import Derived, Family
from roofml.util.arrays import Floats

MOE_TOKENS = (1, 8, 32, 64, 128, 256, 512, 2048, 8192)
SMALLEST_SHARE = 0.05
"""Share of the roofline below which a row is a failed measurement, or of a shape that nobody serves."""


def moe(table: Any, gpu: Gpu) -> Derived:
    """Lines of moe.csv, and the relative error of a shape predicted from the same experts of another width.

    Routing is even if that was measured, else the least skewed that was. The ideal time is that of the experts that
    even routing is expected to hit.
    """
    table = table[table.moe_ep_size == 1]
    even = "balanced" if (table.distribution == "balanced").any() else sorted(table.distribution.unique())[0]
    table = table[table.distribution == even].assign(inter=table.inter_size // table.moe_tp_size)
    lines: list[str] = []
    errors: list[Floats] = []
    shape, m = ["num_experts", "topk", "hidden_size", "inter"], np.array(MOE_TOKENS, float)
    for source_dtype, (dtype, size) in DTYPES.items():
        rows = table[table.moe_dtype == source_dtype]
        if dtype not in gpu.flops_per_us or rows.empty:
            continue
        times = 1e3 * rows.pivot_table(index=shape, columns="num_tokens", values="latency", aggfunc="min")
        previous: tuple[tuple[int, ...], Floats] | None = None
        for (experts, top_k, hidden, inter), row in times.iterrows():
            hit = experts * (1 - (1 - top_k / experts) ** m)
            compute = 6 * m * top_k * hidden * inter / gpu.flops_per_us[dtype]
            ideal = np.maximum(compute, 3 * hit * hidden * inter * size / gpu.bandwidth_bytes_per_us)
            efficiency = np.minimum(1.0, ideal / at_sizes(row, MOE_TOKENS))
            if efficiency.max() < SMALLEST_SHARE:
                continue
            lines.append(f"{dtype},{experts},{top_k},{hidden},{inter}," + ",".join(f"{v:.3g}" for v in efficiency))
            if previous is not None and previous[0] == (experts, top_k, hidden):
                errors.append(np.log(efficiency) - np.log(previous[1]))
            previous = ((experts, top_k, hidden), efficiency)
    header = "dtype,experts,top_k,hidden,inter," + ",".join(f"m{m}" for m in MOE_TOKENS)
    return Derived([header, *lines], robust_sd(np.array(errors)))


COLUMNS = (
    "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size",
    "distribution", "latency",
)  # fmt: skip
FAMILIES = (Family("moe", "moe", COLUMNS, moe, needed=True),)
