"""Ideal times of kernels on a datasheet, µs: the longer of arithmetic and of reading the weights."""

from __future__ import annotations

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import STANDS_IN
from roofml.util.arrays import Floats

FOUR_BITS = ("nvfp4", "mxfp4", "fp4", "int4", "w4a16")
"""Starts of names of data types whose weights have 4 bits; arithmetic is in bfloat16 but for nvfp4's and fp4's own."""


def arithmetic_of(dtype: str) -> str:
    """Key of `Gpu.flops_per_us` of a table's data type: `fp8_block` runs at the rate of fp8, `nvfp4` at fp4's."""
    for start in ("fp8", "int8"):
        if dtype.startswith(start):
            return start
    return "fp4" if dtype in ("nvfp4", "fp4", "w4a8_mxfp4_mxfp8") else STANDS_IN


def weight_bytes(dtype: str) -> float:
    """Bytes of a weight of a table's data type; scales of blocks are left out."""
    if dtype.startswith(FOUR_BITS):
        return 0.5
    return 1.0 if dtype.startswith(("fp8", "int8")) else 2.0


def gemm_us(gpu: Gpu, dtype: str, tokens: Floats, n: Floats, k: Floats) -> Floats:
    """max(2·M·n·k/peak, n·k·bytes/bandwidth), broadcast over its arguments."""
    arithmetic = 2 * tokens / gpu.flops_rate(arithmetic_of(dtype))
    return n * k * np.maximum(arithmetic, weight_bytes(dtype) / gpu.bandwidth_bytes_per_us)


def moe_us(gpu: Gpu, dtype: str, tokens: Floats, sizes: Floats) -> Floats:
    """The same of gated experts: sizes (shapes, [experts, top_k, hidden, inter]) -> (shapes, M).

    6·M·k·d·i FLOP; E·(1 - (1 - k/E)^M) experts of 3·d·i weights are read.
    """
    experts, top_k, hidden, inter = (column[:, None] for column in sizes.T)
    arithmetic = 6 * tokens * top_k * hidden * inter / gpu.flops_rate(arithmetic_of(dtype))
    read = 3 * experts * (1 - (1 - top_k / experts) ** tokens) * hidden * inter * weight_bytes(dtype)
    return np.maximum(arithmetic, read / gpu.bandwidth_bytes_per_us)
