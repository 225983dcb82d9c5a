"""All-reduces -> allreduce.csv: time by GPUs and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.curves import robust_sd
from roofml.microbench.derive.family import Derived, Family
from roofml.util.arrays import Floats

MESSAGES = (128, *(2**p for p in range(16, 28)))


def allreduce(table: Any, gpu: Gpu) -> Derived:
    """Lines of allreduce.csv: time inside a CUDA graph, made to never fall with bytes, and how much that changed it."""
    graph = table[table.backend.str.endswith("graph")] if "backend" in table else table
    lines: list[str] = []
    errors: list[Floats] = []
    for gpus, rows in graph.groupby("num_gpus"):
        times = 1e3 * rows.groupby("message_size").latency.median()
        risen = times.cummax()
        errors.append(np.log((risen / times).to_numpy()))
        lines += [f"{gpus},{size},{risen[size]:.3g}" for size in MESSAGES if size in risen.index]
    return Derived(["gpus,bytes,time_us", *lines], max(0.05, robust_sd(np.concatenate(errors))))


FAMILIES = (Family("allreduce", "custom_allreduce", ("num_gpus", "message_size", "latency"), allreduce, needed=True),)
