"""Components: the ideal time, in µs, of each physical resource a step uses on one GPU of the tensor-parallel group.

What depends on shapes alone (GEMMs, weights, all-reduce at M = 0..budget new tokens) becomes a table, once per model,
GPU and TP; what depends on requests enters as a few sums per step. `step_components` is then a lookup and a dozen
multiplications, the same Python function compiled by numba for the replay, traced by JAX for the fit and run by NumPy
on StepSums.

Symbols: M new tokens, d hidden size, H and Hkv heads and KV heads, h head size, a bytes per element, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import STANDS_IN, DecodeAttention
from roofml.hardware.kernels import Efficiency
from roofml.latency.batch import MOST_NEW_TOKENS, StepSums
from roofml.latency.launches import launches_us
from roofml.models.operations import AttentionOp, Gemm, StateOp
from roofml.models.spec import ModelSpec
from roofml.util.arrays import Floats
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown


class StepComponents(NamedTuple):
    """The ideal time of each resource that a step uses, µs: arrays of shape (steps,), or numbers in compiled code."""

    prefill_gemm: Floats
    """Arithmetic of GEMMs that prefill tokens add."""
    decode_gemm: Floats
    """Arithmetic of GEMMs on the decode tokens."""
    prefill_attention: Floats
    decode_attention: Floats
    weights: Floats
    """Reading the weights that every token needs."""
    expert_weights: Floats
    """Reading those of the experts that tokens touch."""
    kv_cache: Floats
    """Moving keys and values."""
    attention_items: Floats
    """Launching attention, and requests besides their keys and values."""
    long_context: Floats
    """Keys and values of grouped heads past `LONG_CONTEXT` tokens of a request, once more."""
    communication: Floats
    """All-reduces."""


COMPONENTS = StepComponents._fields


GRAPHS = (1, 2, 4, *range(8, 257, 8))
"""Numbers of tokens for which vLLM captures CUDA graphs with 128 seats (`server_defaults.graph_sizes`)."""


class ComponentTables(NamedTuple):
    """Everything about a model, GPU and TP that a step's components need. All times in µs."""

    gemm: Floats
    """(budget + 1,) compute time of the layers' GEMMs on M tokens."""
    weights: Floats
    """(budget + 1,) time to read the weights that every token needs."""
    expert_weights: Floats
    """(budget + 1,) time to read those of the experts that M tokens touch."""
    communication: Floats
    """(budget + 1,) time of the step's all-reduces on M tokens."""
    attention_items: Floats
    """(budget + 1,) time that the attention of R requests takes besides moving keys and values."""
    logits_per_request: float
    """Compute time of one row of the LM head."""
    prefill_pair: float
    """Compute time of one query-key pair in prefill attention, all layers."""
    decode_pair: float
    """The same in decode attention."""
    kv_token: float
    """Time to move the keys and values of one token of one request, all layers."""
    grouped_kv_token: float
    """The same of the layers whose query heads share KV heads."""
    layers: float
    """Number of layers, the multiplier of the overhead per layer."""
    experts: int = 0
    """Routed experts of a layer, 0 without; for the kernels compiled at a cold start."""
    experts_per_token: int = 0
    """Of which every token visits so many."""
    captured: int = GRAPHS[-1]
    """New tokens of the largest CUDA graph; 0 without."""
    launches_us: float = 0.0
    """CPU time to launch the kernels of a step of more new tokens than that."""
    norm: float | None = None
    """None: what overlaps is combined by the learned blend. Else by the norm of this order, at least 1."""


def padded(tokens: Floats, graphs: Sequence[int] = GRAPHS) -> Floats:
    """M new tokens -> the size of the CUDA graph that runs them; more than the largest run as they are, without one."""
    if not graphs:
        return tokens
    sizes = np.array([0, *graphs], np.float64)
    place = np.searchsorted(sizes, tokens)
    return np.where(tokens <= sizes[-1], sizes[np.minimum(place, len(sizes) - 1)], tokens)


def measured_gemm(gemm: Gemm, gpu: Gpu, efficiency: Efficiency) -> tuple[Floats, Floats, float]:
    """M at which a product was measured, ascending, measured over ideal time there, and its relative sd."""
    if not gemm.experts:
        slowdown, sd = efficiency.gemm.at(gemm.flops_dtype, gemm.n, gemm.k)
        return efficiency.gemm.tokens, slowdown, sd
    rising = gemm.name != "expert_down"  # gate and up are one product, twice as wide as an expert
    hidden, inter = (gemm.k, gemm.n / (2 if gemm.name == "expert_gate_up" else 1)) if rising else (gemm.n, gemm.k)
    values, sd = efficiency.mixture(gemm.flops_dtype, gemm.experts, gemm.experts_per_token, hidden, inter)
    return efficiency.moe_tokens, 1 / values, sd


def experts_hit(gemm: Gemm, tokens: Floats) -> Floats:
    """How many weight matrices M tokens touch: of E experts, k at random each, E·(1 - (1 - k/E)^M) on average."""
    if not gemm.experts:
        return np.where(tokens > 0, 1.0, 0.0)
    return gemm.experts * (1 - (1 - gemm.experts_per_token / gemm.experts) ** tokens)


def gemm_us(model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency) -> Floats:
    """Compute time of all layers' GEMMs: Σ 2·M·n·k / (peak·efficiency); each token visits its experts' only.

    The efficiency is that of the most tokens measured: where fewer reach less, arithmetic hides behind the weights, and
    one that rises with M would make a token cheaper in company than alone. State updates of recurrent layers, a fixed
    amount of arithmetic a token, count here too; the LM head does not. Shape (M,) -> (M,), µs. Source: 2·M·n·k FLOP for
    a matrix product, shapes from the config.
    """
    per_token = 0.0
    for gemm in model.gemms(tp):
        if gemm.rows == "tokens":
            _, slowdown, _ = measured_gemm(gemm, gpu, efficiency)
            per_token += gemm.count * gemm.flops_per_row / gpu.flops_rate(gemm.flops_dtype) * slowdown[-1]
    for op in model.mixers(tp):
        if isinstance(op, StateOp):
            per_token += op.count * op.flops_per_token / gpu.flops_rate(op.flops_dtype)
    return tokens * per_token


def weights_us(model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency, experts: bool) -> Floats:
    """Time of a step's GEMMs while they are bound by reading weights: each weight touched once, at the measured speed.

    Those of routed `experts`, or all others.

    Prefill and decode share the read, and kernels take larger tiles as M grows, so measured times rise a little even
    here. Past the last M where reading takes longer than computing, the speed there holds. The LM head is read whole.
    Shape (M,) -> (M,), µs, never falling in M; nothing for an empty step.
    """
    time = np.zeros_like(tokens)
    for gemm in model.gemms(tp):
        if bool(gemm.experts) != experts:
            continue
        once = gemm.count * gemm.weight_bytes / gpu.bandwidth_bytes_per_us
        m, slowdown, _ = measured_gemm(gemm, gpu, efficiency)
        compute = gemm.count * gemm.flops_per_row * m / gpu.flops_rate(gemm.flops_dtype)
        reading = max(1, int(np.count_nonzero(once * experts_hit(gemm, m) >= compute)))
        if gemm.rows == "sampled":
            reading = 1
        factor = np.interp(tokens, m[:reading], slowdown[:reading])
        time += once * experts_hit(gemm, tokens) * factor
    return np.maximum.accumulate(time)


def communication_us(model: ModelSpec, tp: int, tokens: Floats, efficiency: Efficiency) -> Floats:
    """An all-reduce of M·d·a bytes after every mixer and MLP and after the embedding, at its measured time.

    Nothing at tp = 1 or for an empty step. Shape (M,) -> (M,), µs.
    """
    if tp == 1:
        return np.zeros_like(tokens)
    once = efficiency.allreduce_us_at(tp, tokens * model.hidden_size * model.dtype_bytes)
    return np.where(tokens > 0, model.allreduces * once, 0.0)


def attention_ops(model: ModelSpec, tp: int) -> tuple[AttentionOp, ...]:
    """The attention of every layer. Raises NotSupportedError for a kind that does not read its whole context."""
    ops = tuple(op for op in model.mixers(tp) if isinstance(op, AttentionOp))
    for op in ops:
        limits = {"window": op.window, "chunk": op.chunk, "compression": op.compression - 1, "top_k": op.top_k}
        for field, value in limits.items():
            if value:
                raise NotSupportedError(f"{model.name}: step times of {op.name} with {field} are not supported yet")
    return ops


def measured_prefill(op: AttentionOp, efficiency: Efficiency) -> tuple[float, float]:
    """MFU of an operation's prefill, and its relative sd."""
    if op.name == "latent_attention":
        return efficiency.latent_prefill(op.flops_dtype, op.heads)
    return efficiency.prefill_attention(op.flops_dtype, op.heads, op.kv_heads, op.qk_dim)


def measured_decode(op: AttentionOp, efficiency: Efficiency) -> DecodeAttention:
    """An operation's decode kernel: that of its cache's data type, heads and KV heads."""
    if op.name == "latent_attention":
        return efficiency.latent_decode("fp8" if op.kv_bytes <= op.qk_dim else STANDS_IN, op.heads)
    element = op.kv_bytes / (op.kv_heads * (op.qk_dim + op.value_dim))
    return efficiency.decode_attention("fp8" if element <= 1 else STANDS_IN, op.heads, op.kv_heads, op.qk_dim)


def pair_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> tuple[float, float]:
    """Compute time of one query-key pair over all layers, in prefill and in decode: FLOP / (peak·MFU), µs.

    4·(H/tp)·h FLOP with grouped queries (scores and weighted sum); latent attention differs between the two.
    """
    prefill = decode = 0.0
    for op in attention_ops(model, tp):
        rate = gpu.flops_rate(op.flops_dtype) * measured_prefill(op, efficiency)[0]
        prefill += op.count * op.prefill_flops_per_pair / rate
        decode += op.count * op.decode_flops_per_pair / rate
    return prefill, decode


def kv_token_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency, grouped_only: bool = False) -> float:
    """Time to move the keys and values of one token of one request: Σ bytes / (bandwidth·MBU) over layers, µs."""
    return sum(
        op.count * op.kv_bytes / (gpu.bandwidth_bytes_per_us * measured_decode(op, efficiency).mbu)
        for op in attention_ops(model, tp)
        if op.kv_heads < op.heads or not grouped_only
    )


def attention_items_us(model: ModelSpec, gpu: Gpu, tp: int, requests: Floats, efficiency: Efficiency) -> Floats:
    """Time that R requests' attention takes besides moving keys and values; shape (R,) -> (R,), µs.

    Every layer's kernel is launched, and each pair of a request and a KV head beyond one for every multiprocessor
    costs a little however short its context. Recurrent layers read and write each request's constant state.
    """
    time = np.zeros_like(requests)
    for op in attention_ops(model, tp):
        kernel = measured_decode(op, efficiency)
        heads = 1 if op.name == "latent_attention" else op.kv_heads
        beyond = np.maximum(0.0, requests * heads - gpu.sm_count)
        time += op.count * np.where(requests > 0, kernel.fixed_us + kernel.item_us * beyond, 0.0)
    for op in model.mixers(tp):
        if isinstance(op, StateOp):
            kernel = efficiency.decode_attention(STANDS_IN, op.heads, op.heads, 128)
            time += requests * 2 * op.count * op.state_bytes / (gpu.bandwidth_bytes_per_us * kernel.mbu)
    return time


def component_sd(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> dict[str, float]:
    """Component -> relative standard deviation that comes from shapes the kernel tables do not hold.

    That of the tables themselves is part of the corrections' priors and left out. A component of several products has
    the mean of theirs, weighted by the time that reading their weights takes.
    """
    weighted: dict[str, list[tuple[float, float]]] = {}

    def add(component: str, weight: float, sd: float, known: float) -> None:
        weighted.setdefault(component, []).append((weight, max(0.0, sd**2 - known**2) ** 0.5))

    for gemm in model.gemms(tp):
        _, _, sd = measured_gemm(gemm, gpu, efficiency)
        known = efficiency.moe.sd if gemm.experts and efficiency.moe else efficiency.gemm.sd
        add("expert_weights" if gemm.experts else "weights", gemm.resident_bytes, sd, known)
        add("decode_gemm", gemm.resident_bytes, sd, known)
    for op in attention_ops(model, tp):
        add("prefill_attention", op.count, measured_prefill(op, efficiency)[1], efficiency.prefill_attention_rows.sd)
        add("kv_cache", op.count, measured_decode(op, efficiency).sd, efficiency.decode_attention_rows.sd)
    return {
        name: sum(weight * sd for weight, sd in parts) / sum(weight for weight, _ in parts)
        for name, parts in weighted.items()
    }


def component_tables(
    model: ModelSpec, gpu: Gpu, tp: int, budget: int, efficiency: Efficiency, graphs: Sequence[int] = GRAPHS
) -> ComponentTables:
    """The tables for steps of up to `budget` new tokens, on a server with CUDA graphs of these sizes.

    Raises InputError where the model does not divide by `tp`, and for a budget that no engine has.
    """
    if not 1 <= budget <= MOST_NEW_TOKENS:
        raise InputError(f"max_num_batched_tokens {shown(budget)}: expected between 1 and {MOST_NEW_TOKENS}")
    model.check_tensor_parallel(tp)
    tokens = np.arange(budget + 1, dtype=np.float64)
    head = next(gemm for gemm in model.gemms(tp) if gemm.rows == "sampled")
    prefill_pair, decode_pair = pair_us(model, gpu, tp, efficiency)
    return ComponentTables(
        gemm=gemm_us(model, gpu, tp, tokens, efficiency),
        weights=weights_us(model, gpu, tp, padded(tokens, graphs), efficiency, experts=False),
        expert_weights=weights_us(model, gpu, tp, padded(tokens, graphs), efficiency, experts=True),
        communication=communication_us(model, tp, padded(tokens, graphs), efficiency),
        attention_items=attention_items_us(model, gpu, tp, tokens, efficiency),
        logits_per_request=head.flops_per_row / gpu.flops_rate(head.flops_dtype),
        prefill_pair=prefill_pair,
        decode_pair=decode_pair,
        kv_token=kv_token_us(model, gpu, tp, efficiency),
        grouped_kv_token=kv_token_us(model, gpu, tp, efficiency, grouped_only=True),
        layers=float(model.num_layers),
        experts=max(gemm.experts for gemm in model.gemms(tp)),
        experts_per_token=max(gemm.experts_per_token for gemm in model.gemms(tp)),
        captured=max(graphs, default=0),
        launches_us=launches_us(model.num_layers, graphs),
    )


@register_jitable
def step_components(tables: Any, sums: Any, new_tokens: Any, decodes: Any, requests: Any) -> Any:
    """The `StepComponents` of a step from its `StepSums`, µs. Plain arithmetic on numbers or arrays.

    `new_tokens`, `decodes` and `requests` are prefill + decode tokens, decode tokens and requests as integers, to look
    up the tables.
    decode_gemm is the GEMM time at M = decode tokens and prefill_gemm what the prefill tokens add to it, so the two
    sum to the mixed step exactly. A decode attends to its context and itself; KV traffic is every context token read
    and every new token written.
    """
    decode_gemm = tables.gemm[decodes] + tables.logits_per_request * sums.decode_tokens
    prefill_gemm = tables.gemm[new_tokens] - tables.gemm[decodes]
    prefill_gemm = prefill_gemm + tables.logits_per_request * (sums.requests - sums.decode_tokens)
    kv_tokens = sums.decode_context + sums.prefill_context + sums.prefill_tokens + sums.decode_tokens
    return StepComponents(
        prefill_gemm,
        decode_gemm,
        tables.prefill_pair * sums.prefill_pairs,
        tables.decode_pair * (sums.decode_context + sums.decode_tokens),
        tables.weights[new_tokens],
        tables.expert_weights[new_tokens],
        tables.kv_token * kv_tokens,
        tables.attention_items[requests],
        tables.grouped_kv_token * sums.decode_beyond,
        tables.communication[new_tokens],
    )


def components(tables: ComponentTables, steps: StepSums) -> StepComponents:
    """The components of every step, each (steps,), µs."""
    new_tokens, decodes, requests = (
        column.astype(np.int64) for column in (steps.new_tokens, steps.decode_tokens, steps.requests)
    )
    return step_components(tables, steps, new_tokens, decodes, requests)
