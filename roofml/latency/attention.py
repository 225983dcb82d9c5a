"""Attention: what a step's attention and state updates take, for every kind of layer.

Layers that read their whole context share the sums of a step; each other reach (a window, a chunk, the entries that an
indexer chooses, merged entries) has sums of its own (`batch.NEAR`). Indexers score the whole context whatever is read.

Symbols: H and Hkv heads and KV heads, h head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernels import Efficiency
from roofml.latency.attention_kernels import decode_kernel, prefill_kernel, scan_kernel
from roofml.latency.batch import NEAR
from roofml.models.attention import CompressedAttention
from roofml.models.operations import AttentionOp, StateOp
from roofml.models.reach import WHOLE, Reach
from roofml.models.spec import ModelSpec
from roofml.util.arrays import Floats, Ints


def attention_ops(model: ModelSpec, tp: int) -> tuple[AttentionOp, ...]:
    """The attention of every layer that has one."""
    return tuple(op for op in model.mixers(tp) if isinstance(op, AttentionOp))


def state_ops(model: ModelSpec, tp: int) -> tuple[StateOp, ...]:
    """The state updates of every recurrent layer."""
    return tuple(op for op in model.mixers(tp) if isinstance(op, StateOp))


def reaches_of(ops: Sequence[AttentionOp]) -> tuple[Reach, ...]:
    """The different limits of layers that do not read their whole context, in the order of the layers."""
    return tuple(dict.fromkeys(op.reach for op in ops if op.reach != WHOLE))


def pair_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> tuple[float, float]:
    """Compute time of one query-key pair of the whole context over all layers, in prefill and in decode, µs.

    FLOP / (peak·MFU). 4·(H/tp)·h FLOP with grouped queries (scores and weighted sum); latent attention differs between
    the two. An indexer scores every pair, of merged entries one in `compression`.
    """
    prefill = decode = 0.0
    for op in attention_ops(model, tp):
        kernel = prefill_kernel(op, gpu, efficiency)
        if op.reach == WHOLE:
            prefill += op.count * op.prefill_flops_per_pair / kernel.rate
            decode += op.count * op.decode_flops_per_pair / decode_kernel(op, gpu, efficiency).rate
        if op.index_flops_per_pair:
            prefill += op.count * op.index_flops_per_pair / op.compression / kernel.index_rate
    return prefill, decode


def kv_token_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency, grouped_only: bool = False) -> float:
    """Time to move the keys and values of one token of the whole context: Σ bytes / (bandwidth·MBU) over layers, µs.

    And the indexer's keys, which it reads of every entry.
    """
    time = 0.0
    for op in attention_ops(model, tp):
        kernel = decode_kernel(op, gpu, efficiency)
        if op.reach == WHOLE and (not grouped_only or (op.kv_heads < op.heads and not kernel.whole)):
            time += op.count * op.kv_bytes / kernel.bandwidth
        if op.index_bytes and not grouped_only:
            time += op.count * op.index_bytes / op.compression / kernel.index_bandwidth
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
        kernel = decode_kernel(op, gpu, efficiency)
        entry = op.count * op.kv_bytes / kernel.bandwidth
        times[reaches.index(op.reach)] += (
            op.count * op.prefill_flops_per_pair / prefill_kernel(op, gpu, efficiency).rate,
            op.count * op.decode_flops_per_pair / kernel.rate,
            entry,
            entry if op.kv_heads < op.heads and not kernel.whole else 0.0,
        )
    return np.array(reaches, np.int64), times


def attention_items_us(model: ModelSpec, gpu: Gpu, tp: int, requests: Floats, efficiency: Efficiency) -> Floats:
    """Time that R requests' attention takes besides moving keys and values; shape (R,) -> (R,), µs.

    Every layer's kernel is launched, and each pair of a request and a KV head beyond one for every multiprocessor
    costs a little however short its context; where whole blocks were measured, every request does.
    """
    time = np.zeros_like(requests)
    for op in attention_ops(model, tp):
        kernel = decode_kernel(op, gpu, efficiency)
        beyond = np.maximum(0.0, requests * kernel.items - kernel.free_items)
        time += op.count * np.where(requests > 0, kernel.fixed_us + kernel.item_us * beyond, 0.0)
    for op in state_ops(model, tp):
        time += op.count * np.where(requests > 0, scan_kernel(op, gpu, efficiency).decode_us, 0.0)
    return time


class PerStep(NamedTuple):
    """What recurrent layers and whole blocks take besides pairs and entries, all layers, µs."""

    state_request: float
    """Reading and writing a request's recurrent states."""
    prompt_token: float
    """A prompt's token: scans, and what blocks take for each."""
    prompt_launch: float
    """Launching what computes prompts, in a step with any."""


def per_step(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> PerStep:
    """Of one rank. A scan goes token by token: many heads, not many prompts, fill the GPU.

    So prompts of one step are priced as one after another, which is too long where they are many and short.
    """
    state = token = launch = 0.0
    for op in state_ops(model, tp):
        scan = scan_kernel(op, gpu, efficiency)
        state += 2 * op.count * op.state_bytes / (gpu.bandwidth_bytes_per_us * scan.mbu)
        token += op.count * scan.token_us
        launch += op.count * scan.prompt_us
    for op in attention_ops(model, tp):
        kernel = prefill_kernel(op, gpu, efficiency)
        token += op.count * kernel.token_us
        launch += op.count * kernel.launch_us
    return PerStep(state, token, launch)


def mixing_us(model: ModelSpec, gpu: Gpu, tokens: Floats, efficiency: Efficiency) -> Floats | None:
    """Time of the hyper-connections on M tokens, all layers, shape (M,) -> (M,), µs; None for a model without.

    They mix the residual streams before and after attention and MLP. Every rank does all of it. Where nobody measured
    them: reading and writing 4 streams and a layer's vector twice at each of the two places, 18·hidden elements.
    """
    layers = sum(count for layer, count in model.layers if layer.extra and isinstance(layer.mixer, CompressedAttention))
    if not layers:
        return None
    once = efficiency.modules.mixing_us(model.hidden_size, tokens)
    if once is None:
        once = tokens * 2 * 18 * model.hidden_size * model.dtype_bytes / gpu.bandwidth_bytes_per_us
    return np.where(tokens > 0, layers * once, 0.0)


Add = Callable[[str, float, float, float], None]
"""Takes a component, a weight, a relative sd, and how much of it is the table's own."""


def attention_sd(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency, add: Add) -> None:
    """Tell `add` of every layer's attention and state updates."""
    for op in attention_ops(model, tp):
        prefill, decode = prefill_kernel(op, gpu, efficiency), decode_kernel(op, gpu, efficiency)
        add("prefill_attention", op.count, prefill.sd, prefill.table_sd)
        add("kv_cache", op.count, decode.sd, decode.table_sd)
    for op in state_ops(model, tp):
        scan = scan_kernel(op, gpu, efficiency)
        add("prefill_attention", op.count, scan.sd, 0.0)
        add("kv_cache", op.count, scan.sd, 0.0)
