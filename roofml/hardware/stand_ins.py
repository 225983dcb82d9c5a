"""Kernels of one format priced by those of another: the launch floor stays, the rest goes as ideal times do."""

from __future__ import annotations

import math

import numpy as np

from roofml.hardware.expert_routing import experts_hit
from roofml.hardware.formats import FORMATS, stand_in
from roofml.hardware.gpu import Gpu
from roofml.hardware.ideal import FLOOR_US, ideal_us, with_floor
from roofml.hardware.kernels import Efficiency
from roofml.util.arrays import Floats


def product(efficiency: Efficiency, gpu: Gpu, format: str, n: float, k: float) -> tuple[Floats, float]:
    """Measured over ideal time of a matrix product at each M of the table, and its relative sd."""
    table = efficiency.gemm
    other, sd = stand_in(format, set(table.slowdown))
    slowdown, measured_sd = table.at(other, n, k)
    if other != format and format in FORMATS:
        mine, theirs = (ideal_us(gpu, kind, table.tokens, 1.0, n * k) for kind in (format, other))
        slowdown = with_floor(slowdown, mine, theirs, FLOOR_US["gemm"])
    return slowdown, math.hypot(sd, measured_sd)


def mixture(
    efficiency: Efficiency, gpu: Gpu, format: str, experts: int, top_k: int, hidden: float, inter: float
) -> tuple[Floats, float]:
    """Measured over ideal time of a fused mixture at each M of `moe_tokens`, and its relative sd.

    Raises InputError where no mixture was measured.
    """
    other, sd = stand_in(format, set(efficiency.moe.dtype if efficiency.moe else ()))
    found, measured_sd = efficiency.mixtures(other, experts, top_k, hidden, inter)
    kind = format if format in FORMATS else other
    logs = np.zeros_like(efficiency.moe_tokens)
    for weight, values, shape in found:
        slowdown = 1 / values
        if shape != (experts, top_k, hidden, inter) or kind != other:
            its_experts, its_top_k, its_hidden, its_inter = shape
            theirs = _mixture_us(efficiency, gpu, other, its_experts, its_top_k, 3 * its_hidden * its_inter)
            mine = _mixture_us(efficiency, gpu, kind, experts, top_k, 3 * hidden * inter)
            slowdown = with_floor(slowdown, mine, theirs, FLOOR_US["moe"])
        logs += weight * np.log(slowdown)
    return np.exp(logs), math.hypot(sd, measured_sd)


def _mixture_us(efficiency: Efficiency, gpu: Gpu, format: str, experts: int, top_k: int, elements: float) -> Floats:
    """Ideal time at each M of `moe_tokens`, µs, of experts of so many elements each."""
    m = efficiency.moe_tokens
    return ideal_us(gpu, format, m * top_k, experts_hit(experts, top_k, m), elements)
