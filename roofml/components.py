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
from roofml.gpu import Gpu
from roofml.model import ModelSpec

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
    layers: float
    """Number of layers, the multiplier of the overhead per layer."""


def gemm_us(model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency) -> Floats:
    """Compute time of all layers' GEMMs: Σ 2·M·N·K / (peak·efficiency) over QKV, output, gate+up, down (and router).

    A mixture of experts computes `experts_per_token` MLPs for each token. Shape (M,) -> (M,), µs, never falling in M.
    Source: 2·M·N·K FLOP for a matrix product; shapes from the model's config.
    """
    d, dense, experts = model.hidden_size, 0.0, 0.0
    for layer, count in model.layers:
        attention, mlp = layer.attention, layer.feed_forward
        dense += count * 2 * d * (attention.heads + attention.kv_heads) * attention.head_dim
        dense += count * d * (mlp.experts if mlp.experts else 3 * mlp.width)
        experts += count * 3 * d * mlp.width * mlp.experts_per_token
    effective = dense / efficiency.gemm_at(tokens) + experts / efficiency.moe_at(tokens)
    return np.maximum.accumulate(2 * tokens * effective / tp / gpu.flops_per_us[model.dtype])


def weights_us(model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency) -> Floats:
    """Time to read each weight that the step touches once: bytes / (bandwidth·efficiency); nothing for an empty step.

    Prefill and decode share the read. Of E experts, M tokens that each draw k at random touch E·(1 - (1 - k/E)^M) on
    average. The LM head is read whole. Shape (M,) -> (M,), µs, never falling in M.
    """
    d, dense, experts = model.hidden_size, model.hidden_size * model.vocab_size * 1.0, np.zeros_like(tokens)
    for layer, count in model.layers:
        attention, mlp = layer.attention, layer.feed_forward
        dense += count * 2 * d * (attention.heads + attention.kv_heads) * attention.head_dim
        dense += count * d * (mlp.experts if mlp.experts else 3 * mlp.width)
        if mlp.experts:
            hit = mlp.experts * (1 - (1 - mlp.experts_per_token / mlp.experts) ** tokens)
            experts = experts + count * hit * 3 * d * mlp.width
    elements = np.where(tokens > 0, dense, 0.0) / efficiency.weights + experts / efficiency.moe_weights
    return np.maximum.accumulate(elements / tp * model.dtype_bytes / gpu.bandwidth_bytes_per_us)


def communication_us(model: ModelSpec, tp: int, tokens: Floats, efficiency: Efficiency) -> Floats:
    """Two all-reduces of M·d·a bytes a layer and one for the embedding, at their measured time.

    Nothing at tp = 1 or for an empty step. Shape (M,) -> (M,), µs.
    """
    if tp == 1:
        return np.zeros_like(tokens)
    once = efficiency.allreduce_us_at(tp, tokens * model.hidden_size * model.dtype_bytes)
    return np.where(tokens > 0, (2 * model.num_layers + 1) * once, 0.0)


def attention_pair_us(model: ModelSpec, gpu: Gpu, tp: int, mfu: float) -> float:
    """Compute time of one query-key pair over all layers: 4·(H/tp)·h FLOP (scores and weighted sum), µs."""
    flops = sum(4 * count * (layer.attention.heads / tp) * layer.attention.head_dim for layer, count in model.layers)
    return flops / (gpu.flops_per_us[model.dtype] * mfu)


def kv_token_us(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> float:
    """Time to move the keys and values of one token of one request: Σ 2·(Hkv/tp)·h·a / (bandwidth·MBU) over layers, µs.

    Grouped queries read less but reach less of the bandwidth in serving: fewer, longer pieces of work for as many SMs.
    """
    grouped = any(layer.attention.kv_heads < layer.attention.heads for layer, _ in model.layers)
    mbu = efficiency.decode_attention_grouped if grouped else efficiency.decode_attention
    return model.kv_bytes_per_token(tp) / (gpu.bandwidth_bytes_per_us * mbu)


def component_tables(model: ModelSpec, gpu: Gpu, tp: int, budget: int, efficiency: Efficiency) -> ComponentTables:
    """The tables for steps of up to `budget` new tokens. Raises InputError where the model does not divide by `tp`."""
    model.check_tensor_parallel(tp)
    tokens = np.arange(budget + 1, dtype=np.float64)
    logits_flops = 2 * model.hidden_size * model.vocab_size / tp
    return ComponentTables(
        gemm=gemm_us(model, gpu, tp, tokens, efficiency),
        weights=weights_us(model, gpu, tp, tokens, efficiency),
        communication=communication_us(model, tp, tokens, efficiency),
        logits_per_request=logits_flops / gpu.flops_per_us[model.dtype],
        prefill_pair=attention_pair_us(model, gpu, tp, efficiency.prefill_attention),
        decode_pair=attention_pair_us(model, gpu, tp, efficiency.prefill_attention),
        kv_token=kv_token_us(model, gpu, tp, efficiency),
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
        tables.kv_token * (decode_context + prefill_context + prefill_tokens + decode_tokens),
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
