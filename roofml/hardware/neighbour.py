"""Kernels of a GPU that nobody measured: a relative's, carried over by what the two datasheets say.

A kernel takes t_B = f + (t_A - f)·ideal_B/ideal_A, with the launch's floor f the same on both. As a ratio of measured
over ideal time, which is what the tables hold, that is slowdown_B = slowdown_A + f·(1/ideal_B - 1/ideal_A). Source of
rule, floors and standard deviations: measured kernels of seven GPUs (vLLM 0.14 and 0.24) predicted from each other's;
medians of the error are 2 to 9 % between H100 and H200, 5 to 27 % between H100 and B200, 8 to 18 % from H100 to A100.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roofml.hardware.fabric import ALLREDUCE_SD, allreduce_tables
from roofml.hardware.gpu import ACROSS, IN_KIND, Gpu
from roofml.hardware.ideal import FLOOR_US, arithmetic_of, ideal_us, moe_us, with_floor
from roofml.hardware.kernel_tables import GemmTable, Rows
from roofml.hardware.kernels import Efficiency

STEP_SD = {IN_KIND: 0.1, ACROSS: 0.3}
"""Relative standard deviation of a kernel carried over: within a generation, or to another one or to GDDR memory."""


def carried_over(kernels: Efficiency, ours: Gpu, theirs: Gpu, step: str) -> Efficiency:
    """The kernels of `theirs` as those of `ours`, wider by the variance of such a `step`.

    Data types that `ours` lacks are dropped. All-reduces are measured ones only within a kind, over links of the
    same speed that are not PCIe; else they come from latency and bandwidth.
    """
    same_fabric = (
        step == IN_KIND
        and bool(kernels.allreduce_us)
        and ours.interconnect_bytes_per_us == theirs.interconnect_bytes_per_us
        and not ours.over_pcie
    )
    sizes, times = (kernels.allreduce_bytes, kernels.allreduce_us) if same_fabric else allreduce_tables(ours)
    reason = f"kernels of {theirs.name} stand for {ours.name}'s ({step})"
    return replace(
        kernels,
        gemm=_gemm(kernels.gemm, ours, theirs),
        moe=None if kernels.moe is None else _moe(kernels.moe, kernels.moe_tokens, ours, theirs),
        prefill_attention_rows=_known(kernels.prefill_attention_rows, ours),
        decode_attention_rows=_decode(kernels.decode_attention_rows, ours, theirs),
        latent_prefill_rows=None if kernels.latent_prefill_rows is None else _known(kernels.latent_prefill_rows, ours),
        latent_decode_rows=(
            None if kernels.latent_decode_rows is None else _decode(kernels.latent_decode_rows, ours, theirs)
        ),
        allreduce_bytes=sizes,
        allreduce_us=times,
        variances={**kernels.variances, reason: STEP_SD[step] ** 2},
        allreduce_sd=kernels.allreduce_sd if same_fabric else ALLREDUCE_SD,
    )


def _gemm(table: GemmTable, ours: Gpu, theirs: Gpu) -> GemmTable:
    n, k = table.n[:, None, None], table.k[None, :, None]
    carried = {
        dtype: with_floor(
            slowdown,
            ideal_us(ours, dtype, table.tokens, 1.0, n * k),
            ideal_us(theirs, dtype, table.tokens, 1.0, n * k),
            FLOOR_US["gemm"],
        )
        for dtype, slowdown in table.slowdown.items()
        if {arithmetic_of(dtype)} <= set(ours.flops_per_us) & set(theirs.flops_per_us)
    }
    element_us = {dtype: ideal_us(ours, dtype, table.tokens, 1.0, 1.0) for dtype in carried}
    return replace(table, slowdown=carried, element_us=element_us)


def _known(rows: Rows, ours: Gpu) -> Rows:
    """The rows of data types that ours has."""
    keep = np.array([arithmetic_of(dtype) in ours.flops_per_us for dtype in rows.dtype])
    dtypes = tuple(dtype for dtype, kept in zip(rows.dtype, keep, strict=True) if kept)
    return replace(rows, dtype=dtypes, sizes=rows.sizes[keep], values=rows.values[keep])


def _moe(rows: Rows, tokens: np.ndarray, ours: Gpu, theirs: Gpu) -> Rows:
    rows = _known(_known(rows, ours), theirs)
    values = np.empty_like(rows.values)
    for dtype in dict.fromkeys(rows.dtype):
        of_dtype = np.array(rows.dtype) == dtype
        sizes = rows.sizes[of_dtype]
        here, there = moe_us(ours, dtype, tokens, sizes), moe_us(theirs, dtype, tokens, sizes)
        values[of_dtype] = 1 / with_floor(1 / rows.values[of_dtype], here, there, FLOOR_US["moe"])
    return replace(rows, values=values)


def _decode(rows: Rows, ours: Gpu, theirs: Gpu) -> Rows:
    """fixed_us, item_us, mbu, sd: what the launch takes beyond its floor goes with bandwidth, a pair with the SMs."""
    values = rows.values.copy()
    floor = np.minimum(values[:, 0], FLOOR_US["attention"])
    values[:, 0] = floor + (values[:, 0] - floor) * theirs.bandwidth_bytes_per_us / ours.bandwidth_bytes_per_us
    values[:, 1] *= theirs.sm_count / ours.sm_count
    return replace(rows, values=values)
