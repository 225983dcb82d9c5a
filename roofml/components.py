"""Components: the ideal time, in µs, of each physical resource a step uses on one GPU of the tensor-parallel group.

What depends on shapes alone (GEMMs, weights, all-reduce at M = 0..budget new tokens) becomes a table, once per model,
GPU and TP; what depends on requests enters as a few sums per step. `step_components` is then a lookup and a dozen
multiplications, the same Python function compiled by numba for the replay, traced by JAX for the fit and run by NumPy
on a StepTable.

Symbols: M new tokens, d hidden size, H and Hkv heads and KV heads, h head size, a bytes per element, L layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from roofml.batch import StepTable
from roofml.efficiency import Efficiency
from roofml.errors import NotSupportedError
from roofml.gpu import Gpu
from roofml.model import ModelSpec
from roofml.operations import AttentionOp, StateOp

Floats = NDArray[np.float64]

COMPONENTS = (
    "prefill_gemm",
    "decode_gemm",
    "prefill_attention",
    "decode_attention",
    "weights",
    "kv_cache",
    "communication",
)


class ComponentTables(NamedTuple):
    """Everything about a model, GPU and TP that a step's components need. All times in µs."""

    gemm: Floats
    """(budget + 1,) compute time of the layers' GEMMs on M tokens."""
    weights: Floats
    """(budget + 1,) time to read the weights that M tokens touch."""
    communication: Floats
    """(budget + 1,) time of the step's all-reduces on M tokens."""
    logits_per_request: float
    """Compute time of one row of the LM head."""
    prefill_pair: float
    """Compute time of one query-key pair in prefill attention, all layers."""
    decode_pair: float
    """The same in decode attention."""
    kv_token: float
    """Time to move the keys and values of one token of one request, all layers."""
    kv_request: float
    """Time to move the constant state of one request's recurrent layers."""
    layers: float
    """Number of layers, the multiplier of the overhead per layer."""


def gemm_us(model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency) -> Floats:
    """Compute time of all layers' GEMMs: Σ 2·M·n·k / (peak·efficiency); each token visits its experts' only.

    State updates of recurrent layers, a fixed amount of arithmetic a token, count here too; the LM head does not.
    Shape (M,) -> (M,), µs. Source: 2·M·n·k FLOP for a matrix product, shapes from the config.
    """
    dense = experts = 0.0
    for gemm in model.gemms(tp):
        if gemm.rows == "tokens":
            time = gemm.count * gemm.flops_per_row / gpu.flops_rate(gemm.flops_dtype)
            dense, experts = (dense, experts + time) if gemm.experts else (dense + time, experts)
    for op in model.mixers(tp):
        if isinstance(op, StateOp):
            dense += op.count * op.flops_per_token / gpu.flops_rate(op.flops_dtype)
    return tokens * (dense / efficiency.gemm + experts / efficiency.moe)


def weights_us(model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency) -> Floats:
    """Time to read each weight that the step touches once: bytes / (bandwidth·efficiency); nothing for an empty step.

    Prefill and decode share the read. Of E experts, M tokens that each draw k at random touch E·(1 - (1 - k/E)^M) on
    average. The LM head is read whole. Shape (M,) -> (M,), µs, never falling in M.
    """
    dense, experts = np.zeros_like(tokens), np.zeros_like(tokens)
    for gemm in model.gemms(tp):
        once = gemm.count * gemm.weight_bytes
        if gemm.experts:
            hit = gemm.experts * (1 - (1 - gemm.experts_per_token / gemm.experts) ** tokens)
            experts = experts + once * hit
        else:
            dense = dense + np.where(tokens > 0, once, 0)
    read = dense / efficiency.weights + experts / efficiency.moe_weights
    return np.maximum.accumulate(read / gpu.bandwidth_bytes_per_us)


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


def pair_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> tuple[float, float]:
    """Compute time of one query-key pair over all layers, in prefill and in decode: FLOP / (peak·MFU), µs.

    4·(H/tp)·h FLOP with grouped queries (scores and weighted sum); latent attention differs between the two.
    """
    prefill = decode = 0.0
    for op in attention_ops(model, tp):
        rate = gpu.flops_rate(op.flops_dtype) * efficiency.prefill_attention
        prefill += op.count * op.prefill_flops_per_pair / rate
        decode += op.count * op.decode_flops_per_pair / rate
    return prefill, decode


def kv_token_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> float:
    """Time to move the keys and values of one token of one request: Σ bytes / (bandwidth·MBU) over layers, µs.

    Grouped queries read less but reach less of the bandwidth in serving: fewer, longer pieces of work for as many SMs.
    """
    time = 0.0
    for op in attention_ops(model, tp):
        grouped = op.kv_heads < op.heads
        mbu = efficiency.decode_attention_grouped if grouped else efficiency.decode_attention
        time += op.count * op.kv_bytes / (gpu.bandwidth_bytes_per_us * mbu)
    return time


def kv_request_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> float:
    """Time to read and write the constant state of one request's recurrent layers, µs; 0 for a pure transformer."""
    moved = sum(2 * op.count * op.state_bytes for op in model.mixers(tp) if isinstance(op, StateOp))
    return moved / (gpu.bandwidth_bytes_per_us * efficiency.decode_attention)


def component_tables(model: ModelSpec, gpu: Gpu, tp: int, budget: int, efficiency: Efficiency) -> ComponentTables:
    """The tables for steps of up to `budget` new tokens. Raises InputError where the model does not divide by `tp`."""
    model.check_tensor_parallel(tp)
    tokens = np.arange(budget + 1, dtype=np.float64)
    head = next(gemm for gemm in model.gemms(tp) if gemm.rows == "sampled")
    prefill_pair, decode_pair = pair_us(model, gpu, tp, efficiency)
    return ComponentTables(
        gemm=gemm_us(model, gpu, tp, tokens, efficiency),
        weights=weights_us(model, gpu, tp, tokens, efficiency),
        communication=communication_us(model, tp, tokens, efficiency),
        logits_per_request=head.flops_per_row / gpu.flops_rate(head.flops_dtype),
        prefill_pair=prefill_pair,
        decode_pair=decode_pair,
        kv_token=kv_token_us(model, gpu, tp, efficiency),
        kv_request=kv_request_us(model, gpu, tp, efficiency),
        layers=float(model.num_layers),
    )


@register_jitable
def step_components(
    tables: Any,
    prefill_tokens: Any,
    decode_tokens: Any,
    requests: Any,
    prefill_pairs: Any,
    prefill_context: Any,
    decode_context: Any,
    new_tokens: Any,
    decodes: Any,
) -> Any:
    """The seven components of a step in the order of COMPONENTS, µs. Plain arithmetic on numbers or arrays.

    `new_tokens` and `decodes` are prefill + decode tokens and decode tokens as integers, to look up the tables.
    decode_gemm is the GEMM time at M = decode tokens and prefill_gemm what the prefill tokens add to it, so the two
    sum to the mixed step exactly. A decode attends to its context and itself; KV traffic is every context token read
    and every new token written.
    """
    decode_gemm = tables.gemm[decodes] + tables.logits_per_request * decode_tokens
    prefill_gemm = tables.gemm[new_tokens] - tables.gemm[decodes]
    prefill_gemm = prefill_gemm + tables.logits_per_request * (requests - decode_tokens)
    return (
        prefill_gemm,
        decode_gemm,
        tables.prefill_pair * prefill_pairs,
        tables.decode_pair * (decode_context + decode_tokens),
        tables.weights[new_tokens],
        tables.kv_token * (decode_context + prefill_context + prefill_tokens + decode_tokens)
        + tables.kv_request * requests,
        tables.communication[new_tokens],
    )


def components(tables: ComponentTables, steps: StepTable) -> Floats:
    """The components of every step: shape (steps, 7), columns in the order of COMPONENTS, µs."""
    new_tokens = (steps.prefill_tokens + steps.decode_tokens).astype(np.int64)
    values = step_components(
        tables,
        steps.prefill_tokens,
        steps.decode_tokens,
        steps.requests,
        steps.prefill_pairs,
        steps.prefill_context,
        steps.decode_context,
        new_tokens,
        steps.decode_tokens.astype(np.int64),
    )
    return np.stack(values, axis=1)
