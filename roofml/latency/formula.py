"""Step time: corrections, overheads and the blend of max and sum. The only formula.

Kernels run one after another, and within a kernel arithmetic hides memory traffic or the other way round. So the
GEMMs are one blend, attention is another, and they add:

    device = blend(gemm, weights) + blend(attention, kv_cache) + attention items + communication + overheads
    time   = blend(device, cpu_floor)
    blend(a, b) = w·max(a, b) + (1 - w)·(a + b) = a + b - w·min(a, b),   w in [0, 1]

`ComponentTables.norm` puts the norm (a^q + b^q)^(1/q) in the place of the blend, for those who want to compare.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from roofml.latency.batch import StepTable
from roofml.latency.components import ComponentTables, components


class StepParameters(NamedTuple):
    """What physics leaves open in a step's time; `params.py` gives each its unit, bound and prior."""

    prefill_gemm: float = 1.0
    decode_gemm: float = 1.0
    prefill_attention: float = 1.0
    decode_attention: float = 1.0
    weights: float = 1.0
    expert_weights: float = 1.0
    kv_cache: float = 1.0
    attention_items: float = 1.0
    long_context: float = 1.0
    communication: float = 1.0
    per_layer_us: float = 10.0
    per_step_us: float = 0.0
    mixed_step_us: float = 0.0
    per_request_us: float = 0.0
    cpu_floor_us: float = 0.0
    max_weight: float = 1.0
    growth_16: float = 0.0
    growth_32: float = 0.0
    growth_48: float = 0.0
    growth_64: float = 0.0
    growth_128: float = 0.0
    growth_256: float = 0.0


GROWTH_TOKENS = (1, 16, 32, 48, 64, 128, 256)
"""M between which `growth_<M>` of StepParameters is added, linearly, to the time that a step reads weights."""


def scaled(step: StepParameters, factor: float) -> StepParameters:
    """Parameters whose step times are `factor` times as long: all but the blend, which has no scale."""
    return StepParameters(
        *(value if name == "max_weight" else value * factor for name, value in zip(step._fields, step, strict=True))
    )


TINY = 1e-9
"""µs; keeps 0/0 out of the norm."""


@register_jitable
def ramp(x: Any, start: float, end: float) -> Any:
    """0 up to `start`, 1 from `end` on, linear between."""
    return 0.5 + 0.5 * (abs(x - start) - abs(x - end)) / (end - start)


@register_jitable
def growth(new_tokens: Any, p: Any) -> Any:
    """By how much more than measured a step of M new tokens slows the stream of weights, a share of its time.

    GEMM kernels choose larger tiles as M grows, and each choice costs a few percent of the bandwidth, at an M that
    differs by matrix shape and between kernels measured alone and in a CUDA graph; in a mixture more tokens also hit
    more experts than even routing says. Not negative, so that more tokens never shorten a step.
    """
    return (
        p.growth_16 * ramp(new_tokens, 1.0, 16.0)
        + p.growth_32 * ramp(new_tokens, 16.0, 32.0)
        + p.growth_48 * ramp(new_tokens, 32.0, 48.0)
        + p.growth_64 * ramp(new_tokens, 48.0, 64.0)
        + p.growth_128 * ramp(new_tokens, 64.0, 128.0)
        + p.growth_256 * ramp(new_tokens, 128.0, 256.0)
    )


@register_jitable
def blend(a: Any, b: Any, max_weight: Any, norm: Any = None) -> Any:
    """w·max(a, b) + (1 - w)·(a + b) for non-negative a, b: continuous, monotone and subadditive in both.

    With a `norm` of order q >= 1 (1: the sum, infinite: the max) that norm, which is all of this too.
    """
    smaller = 0.5 * (a + b - abs(a - b))
    if norm is None:  # decided when it is compiled
        return a + b - max_weight * smaller
    larger = a + b - smaller
    return larger * (1.0 + (smaller / (larger + TINY)) ** norm) ** (1.0 / norm)


@register_jitable
def step_time(parts: Any, new_tokens: Any, requests: Any, mixed: Any, layers: Any, p: Any, norm: Any = None) -> Any:
    """Time of a step, µs, from its components (order of COMPONENTS), its requests, whether it is mixed, and parameters.

    Plain arithmetic on numbers or arrays of shape (steps,). An empty step takes no time.
    """
    (
        prefill_gemm,
        decode_gemm,
        prefill_attention,
        decode_attention,
        weights,
        experts,
        kv_cache,
        items,
        long_context,
        communication,
    ) = parts
    gemm = p.prefill_gemm * prefill_gemm + p.decode_gemm * decode_gemm
    attention = p.prefill_attention * prefill_attention + p.decode_attention * decode_attention
    grown = growth(new_tokens, p)
    memory = (p.weights + grown) * weights + (p.expert_weights + grown) * experts
    busy = 1.0 * (requests > 0)
    device = (
        blend(gemm, memory, p.max_weight, norm)
        + blend(attention, p.kv_cache * kv_cache + p.long_context * long_context, p.max_weight, norm)
        + p.attention_items * items
        + p.communication * communication
        + busy * (p.per_layer_us * layers + p.per_step_us)
        + p.mixed_step_us * mixed
        + p.per_request_us * requests
    )
    return blend(device, busy * p.cpu_floor_us, p.max_weight, norm)


def step_times(tables: ComponentTables, steps: StepTable, parameters: StepParameters) -> NDArray[np.float64]:
    """Time of every step of a table, shape (steps,), µs."""
    parts = tuple(components(tables, steps).T)
    return step_time(
        parts,
        steps.prefill_tokens + steps.decode_tokens,
        steps.requests,
        1.0 * (steps.prefill_tokens > 0),
        tables.layers,
        parameters,
        tables.norm,
    )
