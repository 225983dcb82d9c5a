"""Ideal times of kernels on a datasheet, and how a measured one is carried over to another ideal, µs.

The ideal is the longer of arithmetic and of reading the weights.
"""

from __future__ import annotations

import numpy as np

from roofml.hardware.expert_routing import experts_hit
from roofml.hardware.formats import FORMATS
from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import STANDS_IN
from roofml.util.arrays import Floats

FLOOR_US = {"gemm": 3.0, "moe": 10.0, "attention": 8.0}
"""Launch and shortest kernel, which no faster GPU and no narrower format shrinks; without them errors are up to twice
as large."""


def arithmetic_of(dtype: str) -> str:
    """Key of `Gpu.flops_per_us` of a format: `fp8_block` runs at the rate of fp8, `nvfp4` at that of fp4."""
    return FORMATS[dtype if dtype in FORMATS else STANDS_IN].flops_dtype


def ideal_us(gpu: Gpu, format: str, rows: Floats, matrices: float | Floats, elements: float | Floats) -> Floats:
    """max(2·rows·elements/rate, bytes of the weights/bandwidth), broadcast, of `matrices` of so many elements each."""
    kind = FORMATS[format if format in FORMATS else STANDS_IN]
    rate = gpu.flops_rate(gpu.computes_in(kind.flops_dtype))
    reading = matrices * elements * kind.weight_bytes / gpu.bandwidth_bytes_per_us
    return np.maximum(2 * rows * elements / rate, reading)


def moe_us(gpu: Gpu, dtype: str, tokens: Floats, sizes: Floats) -> Floats:
    """The same of gated experts: sizes (shapes, [experts, top_k, hidden, inter]) -> (shapes, M).

    6·M·k·d·i FLOP; the experts that are hit are read, of 3·d·i weights each.
    """
    experts, top_k, hidden, inter = (column[:, None] for column in sizes.T)
    return ideal_us(gpu, dtype, tokens * top_k, experts_hit(experts, top_k, tokens), 3 * hidden * inter)


def with_floor(slowdown: Floats, ideal: Floats, other_ideal: Floats, floor_us: float) -> Floats:
    """Measured over ideal time of a kernel whose ideal time is `ideal`, from that of one of `other_ideal`, µs.

    t = f + (t' - f)·ideal/ideal', with f the floor; a kernel that took less than that has none but its time. Between
    H100 and H200, or from BF16 to MXFP4 experts, the rule has a median error of 3 to 13 %.
    """
    time = slowdown * other_ideal
    floor = np.minimum(floor_us, time)
    return (floor + (time - floor) * ideal / other_ideal) / ideal
