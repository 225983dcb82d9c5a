"""What links of GPUs reach, and all-reduces that nobody measured: a latency, and a ring's bytes at that rate."""

from __future__ import annotations

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.util.arrays import Floats

MESSAGES = np.array([128.0, *(2.0**p for p in range(12, 30))])
"""Bytes."""
GPUS = (2, 4, 8)
LATENCY_US = 10.0
"""Of an all-reduce of a few bytes: 5 to 7 µs inside CUDA graphs on NVLink, 10 to 20 in RCCL and without graphs."""
PCIE_LATENCY_US = 5.0
"""The same over PCIe, for each GPU: the message goes round (L40S: 5, 13 and 25 µs with 2, 4 and 8)."""
LINK_SHARE = 0.7
"""Of the bandwidth of all links of a GPU (H100, 8 GPUs, 256 MB: 0.77)."""
PCIE_SHARE = 0.5
"""Of a PCIe link's, which passes the host's bridge (L40S, 2 GPUs: 0.6; 4 and more behind one host reach less)."""
ALLREDUCE_SD = 0.4
"""Relative standard deviation of such a time."""


def reached_bytes_per_us(gpu: Gpu) -> float:
    """What of the sheet's bandwidth to the other GPUs of the node a large message reaches, bytes/µs."""
    return (PCIE_SHARE if gpu.over_pcie else LINK_SHARE) * gpu.interconnect_bytes_per_us


def allreduce_tables(gpu: Gpu) -> tuple[Floats, dict[int, Floats]]:
    """(messages,) bytes, and GPUs -> (messages,) time, µs: latency + 2·(n - 1)/n·bytes/(share·bandwidth)."""
    times: dict[int, Floats] = {}
    for gpus in GPUS:
        latency = PCIE_LATENCY_US * gpus if gpu.over_pcie else LATENCY_US
        times[gpus] = latency + 2 * (gpus - 1) / gpus * MESSAGES / reached_bytes_per_us(gpu)
    return MESSAGES, times
