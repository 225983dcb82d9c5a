"""Ideal times of kernels on a datasheet, µs: the longer of arithmetic and of reading the weights."""

from __future__ import annotations

import numpy as np

from roofml.hardware.formats import FORMATS
from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import STANDS_IN
from roofml.util.arrays import Floats


def arithmetic_of(dtype: str) -> str:
    """Key of `Gpu.flops_per_us` of a format: `fp8_block` runs at the rate of fp8, `nvfp4` at that of fp4."""
    return FORMATS[dtype].flops_dtype if dtype in FORMATS else STANDS_IN


def weight_bytes(dtype: str) -> float:
    """Bytes of a weight of a table's format, with its part of the scales."""
    return FORMATS[dtype if dtype in FORMATS else STANDS_IN].weight_bytes


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
