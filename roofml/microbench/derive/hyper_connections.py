"""Hyper-connections (DeepSeek-V4's mHC): mixing residual streams around attention and MLP -> modules/mhc.csv.

A row is the time of both places of a layer on so many tokens: what goes before each (`pre`) and after it (`post`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.curves import at_sizes, robust_sd
from roofml.microbench.derive.family import Derived, Family

TOKENS = (1, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def hyper_connections(table: Any, gpu: Gpu) -> Derived:
    """Lines of mhc.csv, by hidden size; the relative sd is that of the sizes between the rows."""
    table = table[table.op_name.isin(["pre", "post"])]
    lines: list[str] = []
    errors: list[float] = []
    for hidden, rows in table.groupby("hidden_size"):
        times = 1e3 * rows.pivot_table(index="num_tokens", columns="op_name", values="latency", aggfunc="min")
        whole = times.dropna().sum(axis=1)
        kept = at_sizes(whole, TOKENS)
        lines += [f"{hidden},{tokens},{time:.4g}" for tokens, time in zip(TOKENS, kept, strict=True)]
        inside = whole[whole.index <= TOKENS[-1]]
        sizes = np.asarray(inside.index, np.float64)
        got = np.interp(np.log(sizes), np.log(np.array(TOKENS, np.float64)), np.log(kept))
        errors += (got - np.log(np.asarray(inside, np.float64))).tolist()
    return Derived(["hidden,tokens,time_us", *lines], max(0.03, robust_sd(np.array(errors))))


FAMILIES = (Family("modules/mhc", "mhc_module", ("num_tokens", "hidden_size", "latency"), hyper_connections),)
