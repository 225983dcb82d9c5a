"""Slopes: the derivative of a step's time by each of its parameters, written out for compiled code.

The chain rule over `formula.step_time`, of which it takes all but the blends: those it has here, as what a blend gains
when one of its arguments does. A fit of requests asks for derivatives of hundreds of thousands of steps, some thirty
times: JAX, which differentiates the formula itself, takes seconds to be there at all. `tests/latency/test_slopes.py`
holds the two together; a new term of the formula is missed there first.
"""

from __future__ import annotations

from typing import Any

from roofml.latency.formula import attending_us, corrected, overheads, products_us, ramp
from roofml.latency.parameters import StepParameters
from roofml.util.jit_cache import called_by_compiled


@called_by_compiled
def _sign(x: Any) -> Any:
    return 1.0 * (x > 0.0) - 1.0 * (x < 0.0)


@called_by_compiled
def gain(a: Any, b: Any, max_weight: Any) -> Any:
    """By how much `formula.blend` of a and b grows for one more µs of a; at its kink the mean of both sides."""
    return 1.0 - 0.5 * max_weight * (1.0 - _sign(a - b))


@called_by_compiled
def smaller(a: Any, b: Any) -> Any:
    """The smaller of two times, as `formula.blend` has it: what a blend loses for one more of its weight."""
    return 0.5 * (a + b - abs(a - b))


@called_by_compiled
def step_slopes(parts: Any, new_tokens: Any, requests: Any, mixed: Any, layers: Any, p: Any) -> Any:
    """Time of a step, µs, and its derivatives by each of `StepParameters`, in their order. Arguments as of `step_time`.

    Only of the blend, not of a norm.
    """
    device = corrected(parts, new_tokens, p)
    extra = overheads(requests, mixed, layers, p)
    w, busy = p.max_weight, 1.0 * (requests > 0)
    products, streams = device.prefill_gemm + device.decode_gemm, device.weights + device.expert_weights
    attention = device.prefill_attention + device.decode_attention
    moved = device.kv_cache + device.long_context
    floor = busy * p.cpu_floor_us
    on_device = (
        products_us(device, w)
        + attending_us(device, w)
        + device.attention_items
        + device.communication
        + (extra.layers + extra.step)
        + extra.mixed
        + extra.requests
    )
    outer = gain(on_device, floor, w)
    of_products, of_streams = outer * gain(products, streams, w), outer * gain(streams, products, w)
    of_attention, of_moved = outer * gain(attention, moved, w), outer * gain(moved, attention, w)
    grown = of_streams * (parts.weights + parts.expert_weights)
    time = on_device + floor - w * smaller(on_device, floor)
    return time, StepParameters(
        of_products * parts.prefill_gemm,
        of_products * parts.decode_gemm,
        of_attention * parts.prefill_attention,
        of_attention * parts.decode_attention,
        of_streams * parts.weights,
        of_streams * parts.expert_weights,
        of_moved * parts.kv_cache,
        outer * parts.attention_items,
        of_moved * parts.long_context,
        outer * parts.communication,
        outer * busy * layers,
        outer * busy,
        outer * mixed,
        outer * requests,
        busy * gain(floor, on_device, w),
        -outer * (smaller(products, streams) + smaller(attention, moved)) - smaller(on_device, floor),
        grown * ramp(new_tokens, 1.0, 16.0),
        grown * ramp(new_tokens, 16.0, 32.0),
        grown * ramp(new_tokens, 32.0, 48.0),
        grown * ramp(new_tokens, 48.0, 64.0),
        grown * ramp(new_tokens, 64.0, 128.0),
        grown * ramp(new_tokens, 128.0, 256.0),
    )
