"""All-reduces -> allreduce.csv: time by GPUs and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.bounds import LeftOut
from roofml.microbench.derive.curves import robust_sd
from roofml.microbench.derive.family import Derived, Family
from roofml.util.arrays import Floats

MESSAGES = (128, 4096, 16384, *(2**p for p in range(16, 28)))
"""Elements."""
ELEMENT_BYTES = 2
"""`message_size` counts bfloat16 elements: the collector makes `torch.ones([size // 4096, 4096])`."""
COLUMNS = ("num_gpus", "message_size", "latency")
FASTER = 1.3
"""Bus bandwidth over the link's, one direction: a switch that adds up what passes through it (NVLink SHARP) saves up to
half of the traffic; measured are 1.04."""


def allreduce(table: Any, gpu: Gpu) -> Derived:
    """Lines of allreduce.csv: time inside a CUDA graph, made to never fall with bytes, and how much that changed it."""
    left_out = LeftOut()
    graph = table[table.backend.str.endswith("graph")] if "backend" in table else table
    sent = 2 * (graph.num_gpus - 1) / graph.num_gpus * ELEMENT_BYTES * graph.message_size
    impossible = sent / gpu.interconnect_bytes_per_us > FASTER * 1e3 * graph.latency
    left_out.count("faster than the link", int(impossible.sum()))
    graph = graph[~impossible]
    lines: list[str] = []
    errors: list[Floats] = []
    for gpus, rows in graph.groupby("num_gpus"):
        times = 1e3 * rows.groupby("message_size").latency.median()
        risen = times.cummax()
        errors.append(np.log((risen / times).to_numpy()))
        lines += [f"{gpus},{ELEMENT_BYTES * size},{risen[size]:.3g}" for size in MESSAGES if size in risen.index]
    sd = max(0.05, robust_sd(np.concatenate(errors))) if errors else 0.05
    return Derived(["gpus,bytes,time_us", *lines], sd, left_out.about())


FAMILIES = (Family("allreduce", "custom_allreduce", COLUMNS, allreduce, needed=True),)
