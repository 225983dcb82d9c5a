"""Attention: what a step's attention and state updates take, for every kind of layer.

Layers that read their whole context share the sums of a step; each other reach (a window, a chunk, the entries that an
indexer chooses, merged entries) has sums of its own (`batch.NEAR`). Indexers score the whole context whatever is read.

Symbols: H and Hkv heads and KV heads, h head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import STANDS_IN, DecodeAttention
from roofml.hardware.kernels import Efficiency
from roofml.latency.batch import NEAR
from roofml.models.operations import AttentionOp, StateOp
from roofml.models.reach import WHOLE, Reach
from roofml.models.spec import ModelSpec
from roofml.util.arrays import Floats, Ints

SD_OF_ANOTHER_KERNEL = 0.35
"""Relative sd added in quadrature where a kind of attention has no table and another kernel's efficiency stands in.

From H100, vLLM 0.25: full attention's efficiency for a window of 128 is off by a factor of up to 6 in long prompts, and
by a third in decoding."""
SHARED_ENTRY = ("latent_attention", "compressed_attention")
"""Kinds whose query heads all read one cache entry a token."""
INDEX_DTYPE = "fp8"
"""Type that indexers compute scores in."""


def attention_ops(model: ModelSpec, tp: int) -> tuple[AttentionOp, ...]:
    """The attention of every layer that has one."""
    return tuple(op for op in model.mixers(tp) if isinstance(op, AttentionOp))


def state_ops(model: ModelSpec, tp: int) -> tuple[StateOp, ...]:
    """The state updates of every recurrent layer."""
    return tuple(op for op in model.mixers(tp) if isinstance(op, StateOp))


def reaches_of(ops: Sequence[AttentionOp]) -> tuple[Reach, ...]:
    """The different limits of layers that do not read their whole context, in the order of the layers."""
    return tuple(dict.fromkeys(op.reach for op in ops if op.reach != WHOLE))


def measured_prefill(op: AttentionOp, efficiency: Efficiency) -> tuple[float, float]:
    """MFU of an operation's prefill, and its relative sd."""
    if op.name in SHARED_ENTRY:
        mfu, sd = efficiency.latent_prefill(op.flops_dtype, op.heads)
    else:
        mfu, sd = efficiency.prefill_attention(op.flops_dtype, op.heads, op.kv_heads, op.qk_dim)
    return mfu, math.hypot(sd, _stand_in_sd(op))


def measured_decode(op: AttentionOp, efficiency: Efficiency) -> DecodeAttention:
    """An operation's decode kernel: that of its cache's data type, heads and KV heads."""
    if op.name in SHARED_ENTRY:
        kernel = efficiency.latent_decode("fp8" if op.kv_bytes <= op.qk_dim else STANDS_IN, op.heads)
    else:
        element = op.kv_bytes / (op.kv_heads * (op.qk_dim + op.value_dim))
        kernel = efficiency.decode_attention("fp8" if element <= 1 else STANDS_IN, op.heads, op.kv_heads, op.qk_dim)
    return replace(kernel, sd=math.hypot(kernel.sd, _stand_in_sd(op)))


def _stand_in_sd(op: AttentionOp) -> float:
    return SD_OF_ANOTHER_KERNEL if op.reach != WHOLE else 0.0


def index_rate(op: AttentionOp, gpu: Gpu) -> float:
    """FLOP/µs at which an indexer scores: FP8, or the type of the model where the GPU has no FP8."""
    return gpu.flops_rate(INDEX_DTYPE if INDEX_DTYPE in gpu.flops_per_us else op.flops_dtype)


def pair_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> tuple[float, float]:
    """Compute time of one query-key pair of the whole context over all layers, in prefill and in decode, µs.

    FLOP / (peak·MFU). 4·(H/tp)·h FLOP with grouped queries (scores and weighted sum); latent attention differs between
    the two. An indexer scores every pair, of merged entries one in `compression`.
    """
    prefill = decode = 0.0
    for op in attention_ops(model, tp):
        mfu = measured_prefill(op, efficiency)[0]
        if op.reach == WHOLE:
            rate = gpu.flops_rate(op.flops_dtype) * mfu
            prefill += op.count * op.prefill_flops_per_pair / rate
            decode += op.count * op.decode_flops_per_pair / rate
        if op.index_flops_per_pair:
            scores = op.count * op.index_flops_per_pair / op.compression / (index_rate(op, gpu) * mfu)
            prefill += scores
            decode += scores
    return prefill, decode


def kv_token_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency, grouped_only: bool = False) -> float:
    """Time to move the keys and values of one token of the whole context: Σ bytes / (bandwidth·MBU) over layers, µs.

    And the indexer's keys, which it reads of every entry.
    """
    time = 0.0
    for op in attention_ops(model, tp):
        if op.kv_heads < op.heads or not grouped_only:
            size = op.kv_bytes if op.reach == WHOLE else 0
            if op.index_bytes and not grouped_only:
                size += op.index_bytes / op.compression
            time += op.count * size / (gpu.bandwidth_bytes_per_us * measured_decode(op, efficiency).mbu)
    return time


def near_tables(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> tuple[Ints | None, Floats | None]:
    """What limits the layers that do not read their whole context, and the time of each reach's entries.

    Shapes (reaches, 4), the fields of `Reach`, and (reaches, 4), µs: a pair of a prefill, one of a decode, moving an
    entry, and moving one where query heads share KV heads. None where every layer reads its whole context.
    """
    ops = attention_ops(model, tp)
    reaches = reaches_of(ops)
    if not reaches:
        return None, None
    times = np.zeros((len(reaches), len(NEAR)))
    for op in ops:
        if op.reach == WHOLE:
            continue
        row = times[reaches.index(op.reach)]
        rate = gpu.flops_rate(op.flops_dtype) * measured_prefill(op, efficiency)[0]
        entry = op.count * op.kv_bytes / (gpu.bandwidth_bytes_per_us * measured_decode(op, efficiency).mbu)
        row += (
            op.count * op.prefill_flops_per_pair / rate,
            op.count * op.decode_flops_per_pair / rate,
            entry,
            entry if op.kv_heads < op.heads else 0.0,
        )
    return np.array(reaches, np.int64), times


def attention_items_us(model: ModelSpec, gpu: Gpu, tp: int, requests: Floats, efficiency: Efficiency) -> Floats:
    """Time that R requests' attention takes besides moving keys and values; shape (R,) -> (R,), µs.

    Every layer's kernel is launched, and each pair of a request and a KV head beyond one for every multiprocessor
    costs a little however short its context. Recurrent layers read and write each request's constant state.
    """
    time = np.zeros_like(requests)
    for op in attention_ops(model, tp):
        kernel = measured_decode(op, efficiency)
        heads = 1 if op.name in SHARED_ENTRY else op.kv_heads
        beyond = np.maximum(0.0, requests * heads - gpu.sm_count)
        time += op.count * np.where(requests > 0, kernel.fixed_us + kernel.item_us * beyond, 0.0)
    for op in state_ops(model, tp):
        kernel = efficiency.decode_attention(STANDS_IN, op.heads, op.heads, 128)
        time += requests * 2 * op.count * op.state_bytes / (gpu.bandwidth_bytes_per_us * kernel.mbu)
    return time


Add = Callable[[str, float, float, float], None]
"""Takes a component, a weight, a relative sd, and how much of it is the table's own."""


def attention_sd(model: ModelSpec, tp: int, efficiency: Efficiency, add: Add) -> None:
    """Tell `add` of every layer's attention."""
    for op in attention_ops(model, tp):
        add("prefill_attention", op.count, measured_prefill(op, efficiency)[1], efficiency.prefill_attention_rows.sd)
        add("kv_cache", op.count, measured_decode(op, efficiency).sd, efficiency.decode_attention_rows.sd)
