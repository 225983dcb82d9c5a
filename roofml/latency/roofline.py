"""Roofline: the work of a step, operation by operation, and the least time a datasheet allows for it.

No efficiency and no overhead: what `roofml inspect` shows, and the bound that measured kernels are compared with.
An operation takes max(FLOP/rate, bytes/bandwidth); a step the sum of its operations, which run one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.hardware.expert_routing import experts_hit
from roofml.hardware.gpu import Gpu
from roofml.models.operations import AttentionOp, Gemm, StateOp
from roofml.models.spec import ModelSpec


@dataclass(frozen=True)
class Load:
    """What one kind of operation computes and moves in a step on one GPU, all layers that have it."""

    name: str
    flops: float
    bytes: float
    flops_dtype: str
    link_bytes: float = 0.0
    """Bytes sent to the other GPUs, one direction."""

    @property
    def intensity(self) -> float:
        """FLOP per byte of memory traffic."""
        return self.flops / self.bytes if self.bytes else 0.0

    def ideal_us(self, gpu: Gpu) -> float:
        """max(FLOP/rate, bytes/bandwidth, link bytes/link bandwidth), µs. Raises InputError for a missing rate."""
        compute = self.flops / gpu.flops_rate(gpu.computes_in(self.flops_dtype)) if self.flops else 0.0
        memory = self.bytes / gpu.bandwidth_bytes_per_us
        return max(compute, memory, self.link_bytes / gpu.interconnect_bytes_per_us)


Request = tuple[int, int]
"""(new tokens, context): tokens computed in this step, and tokens already in the KV cache."""


def step_loads(model: ModelSpec, tp: int, requests: Sequence[Request]) -> tuple[Load, ...]:
    """The operations of one step that computes `requests`, on one of `tp` ranks; every request samples one token."""
    tokens = sum(new for new, _ in requests)
    gemms = [gemm_load(gemm, tokens if gemm.rows == "tokens" else len(requests), model) for gemm in model.gemms(tp)]
    mixers = [
        attention_load(op, requests) if isinstance(op, AttentionOp) else state_load(op, tokens, len(requests))
        for op in model.mixers(tp)
    ]
    loads = (*gemms, *mixers)
    return (*loads, allreduce_load(model, tp, tokens)) if tp > 1 else loads


def gemm_load(gemm: Gemm, rows: int, model: ModelSpec) -> Load:
    """2·rows·n·k FLOP; weights once (of experts those that are hit), rows in and out in the activation type.

    Experts are hit as `hardware/expert_routing.py` says.
    """
    chosen = max(1, gemm.experts_per_token)
    hit = float(experts_hit(gemm.experts, chosen, np.array(float(rows)))) if gemm.experts else min(rows, 1)
    moved = rows * chosen * (gemm.n + gemm.k) * model.dtype_bytes
    name = gemm.name
    return Load(
        name, gemm.count * gemm.flops_per_row * rows, gemm.count * (hit * gemm.weight_bytes + moved), gemm.flops_dtype
    )


def attention_load(op: AttentionOp, requests: Sequence[Request]) -> Load:
    """FLOP per query-entry pair; entries read once a request, new ones written. Indexers score every pair."""
    flops = total = 0
    for new, context in requests:
        per_pair = op.decode_flops_per_pair if new == 1 else op.prefill_flops_per_pair
        scored = new * context + new * (new + 1) // 2 if op.index_flops_per_pair else 0
        flops += per_pair * op.pairs(context, new) + op.index_flops_per_pair * (scored // op.compression)
        total += op.kv_bytes * (op.entries(context, new) + new) + op.index_bytes * (context // op.compression + new)
    return Load(op.name, op.count * flops, op.count * total, op.flops_dtype)


def state_load(op: StateOp, tokens: int, requests: int) -> Load:
    """FLOP of every token's update; the state of every request read and written once."""
    return Load(
        op.name, op.count * op.flops_per_token * tokens, op.count * 2 * op.state_bytes * requests, op.flops_dtype
    )


def allreduce_load(model: ModelSpec, tp: int, tokens: int) -> Load:
    """A ring all-reduce sends 2·(tp - 1)/tp of tokens·hidden elements; datasheets give no latency, so none is in it."""
    message = tokens * model.hidden_size * model.dtype_bytes
    return Load("all_reduce", 0.0, 0.0, model.dtype, model.allreduces * 2 * (tp - 1) / tp * message)


def step_us(loads: Sequence[Load], gpu: Gpu) -> float:
    """The least time of a step: the sum over its operations, µs."""
    return sum(load.ideal_us(gpu) for load in loads)
