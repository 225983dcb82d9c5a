"""Step time: corrections, overheads and the blend of max and sum. The only formula.

Kernels run one after another, and within a kernel arithmetic hides memory traffic or the other way round. So the
GEMMs are one blend, attention is another, and they add:

    device = blend(gemm, weights) + blend(attention, kv_cache) + attention items + communication + overheads
    time   = blend(device, cpu_floor), and at least the launches of a step without a CUDA graph (`launches`)
    blend(a, b) = w·max(a, b) + (1 - w)·(a + b) = a + b - w·min(a, b),   w in [0, 1]

`ComponentTables.norm` puts the norm (a^q + b^q)^(1/q) in the place of the blend, for those who want to compare.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables, StepComponents, components
from roofml.latency.launches import no_shorter_than_launches
from roofml.latency.parameters import StepParameters
from roofml.util.arrays import Floats
from roofml.util.jit_cache import called_by_compiled

TINY = 1e-9
"""µs; keeps 0/0 out of the norm."""


@called_by_compiled
def ramp(x: Any, start: float, end: float) -> Any:
    """0 up to `start`, 1 from `end` on, linear between."""
    return 0.5 + 0.5 * (abs(x - start) - abs(x - end)) / (end - start)


@called_by_compiled
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


@called_by_compiled
def blend(a: Any, b: Any, max_weight: Any, norm: Any = None) -> Any:
    """w·max(a, b) + (1 - w)·(a + b) for non-negative a, b: continuous, monotone and subadditive in both.

    With a `norm` of order q >= 1 (1: the sum, infinite: the max) that norm, which is all of this too.
    """
    smaller = 0.5 * (a + b - abs(a - b))
    if norm is None:  # decided when it is compiled
        return a + b - max_weight * smaller
    larger = a + b - smaller
    return larger * (1.0 + (smaller / (larger + TINY)) ** norm) ** (1.0 / norm)


class StepOverheads(NamedTuple):
    """Time of a step that no roofline explains, µs: arrays of shape (steps,), or numbers in compiled code."""

    layers: Floats
    step: Floats
    mixed: Floats
    requests: Floats


@called_by_compiled
def corrected(parts: Any, new_tokens: Any, p: Any) -> Any:
    """The `StepComponents` as the parameters have them: each times its correction, µs."""
    slowdown = growth(new_tokens, p)
    return StepComponents(
        p.prefill_gemm * parts.prefill_gemm,
        p.decode_gemm * parts.decode_gemm,
        p.prefill_attention * parts.prefill_attention,
        p.decode_attention * parts.decode_attention,
        (p.weights + slowdown) * parts.weights,
        (p.expert_weights + slowdown) * parts.expert_weights,
        p.kv_cache * parts.kv_cache,
        p.attention_items * parts.attention_items,
        p.long_context * parts.long_context,
        p.communication * parts.communication,
    )


@called_by_compiled
def overheads(requests: Any, mixed: Any, layers: Any, p: Any) -> Any:
    """The `StepOverheads` of a step of so many requests; `mixed` is 1 where it computes prompts."""
    busy = 1.0 * (requests > 0)
    return StepOverheads(
        busy * (p.per_layer_us * layers), busy * p.per_step_us, p.mixed_step_us * mixed, p.per_request_us * requests
    )


@called_by_compiled
def products_us(device: Any, max_weight: Any, norm: Any = None) -> Any:
    """Time of the GEMMs of `corrected` components: their arithmetic, and the weights they read, overlap; µs."""
    return blend(device.prefill_gemm + device.decode_gemm, device.weights + device.expert_weights, max_weight, norm)


@called_by_compiled
def attending_us(device: Any, max_weight: Any, norm: Any = None) -> Any:
    """Time of attention alike, without its launches (`attention_items`), µs."""
    return blend(
        device.prefill_attention + device.decode_attention, device.kv_cache + device.long_context, max_weight, norm
    )


@called_by_compiled
def step_time(parts: Any, new_tokens: Any, requests: Any, mixed: Any, layers: Any, p: Any, norm: Any = None) -> Any:
    """Time of a step, µs, from its `StepComponents`, its requests, whether it is mixed, and parameters.

    Plain arithmetic on numbers or arrays of shape (steps,). An empty step takes no time.
    """
    device = corrected(parts, new_tokens, p)
    extra = overheads(requests, mixed, layers, p)
    busy = 1.0 * (requests > 0)
    time = (
        products_us(device, p.max_weight, norm)
        + attending_us(device, p.max_weight, norm)
        + device.attention_items
        + device.communication
        + (extra.layers + extra.step)
        + extra.mixed
        + extra.requests
    )
    return blend(time, busy * p.cpu_floor_us, p.max_weight, norm)


def step_times(tables: ComponentTables, steps: StepSums, parameters: StepParameters) -> Floats:
    """Time of every step, shape (steps,), µs."""
    parts = components(tables, steps)
    time = step_time(parts, steps.new_tokens, steps.requests, steps.mixed, tables.layers, parameters, tables.norm)
    return no_shorter_than_launches(time, steps.new_tokens, tables)
