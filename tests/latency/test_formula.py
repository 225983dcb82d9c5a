"""Step time: monotone, subadditive, continuous, and one formula under NumPy, numba and JAX."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numba import njit
from synthetic import (
    BUDGET,
    GPU,
    LLAMA,
    MIXTRAL,
    ROUND,
    SHIPPED,
    Request,
    any_tables,
    decodes,
    model,
    prefills,
    step_parameters,
    tables,
)

from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables, StepComponents, component_tables, components, step_components
from roofml.latency.formula import blend, corrected, growth, overheads, ramp, step_time, step_times
from roofml.latency.parameters import BY_NAME, StepParameters
from roofml.util.arrays import Floats

ROUNDING = 1e-9
"""Relative. Sums of terms up to 20 times the result, each right to 1e-16, and differences a - (a - b) of such sums."""

PLAIN = StepParameters(long_context=1.0, per_layer_us=10.0)
"""Physics as it is, and what every layer takes besides."""
# At most 9 requests of up to 200 new tokens, or up to 128 decodes: within the tables' budget of 2048 tokens.
mixed_batches = st.lists(st.one_of(prefills, decodes), max_size=9)
prefill_batches = st.lists(prefills, min_size=1, max_size=9)
decode_batches = st.one_of(
    st.lists(decodes, min_size=1, max_size=9),
    st.tuples(st.integers(1, 128), decodes).map(lambda drawn: drawn[0] * [drawn[1]]),
)


def times(tables: ComponentTables, batches: list[list[Request]], p: StepParameters = PLAIN) -> list[float]:
    return step_times(tables, StepSums.from_requests(batches), p).tolist()


def no_shorter(later: float, sooner: float) -> bool:
    return later >= sooner * (1 - ROUNDING)


# More work never takes less time.


@given(any_tables, mixed_batches, prefills, st.integers(1, 200), step_parameters)
def test_more_prefill_tokens_never_shorten_a_step(
    tables: ComponentTables, batch: list[Request], prefill: Request, more: int, p: StepParameters
) -> None:
    new, context, prompt = prefill
    longer = (new + more, context, prompt + more)
    before, after = times(tables, [[*batch, prefill], [*batch, longer]], p)
    assert no_shorter(after, before)


@given(any_tables, mixed_batches, st.one_of(prefills, decodes), st.integers(1, 2000), step_parameters)
def test_longer_contexts_never_shorten_a_step(
    tables: ComponentTables, batch: list[Request], request: Request, more: int, p: StepParameters
) -> None:
    new, context, prompt = request
    kind = more if context < prompt else 0
    before, after = times(tables, [[*batch, request], [*batch, (new, context + more, prompt + kind)]], p)
    assert no_shorter(after, before)


@given(any_tables, mixed_batches, st.one_of(prefills, decodes), step_parameters)
def test_one_more_request_never_shortens_a_step(
    tables: ComponentTables, batch: list[Request], request: Request, p: StepParameters
) -> None:
    before, after = times(tables, [batch, [*batch, request]], p)
    assert no_shorter(after, before)


@given(mixed_batches, st.integers(1, 40), st.integers(1, 40), step_parameters)
def test_more_layers_never_shorten_a_step(batch: list[Request], layers: int, more: int, p: StepParameters) -> None:
    few = component_tables(model(num_hidden_layers=layers), GPU, 2, BUDGET, ROUND)
    many = component_tables(model(num_hidden_layers=layers + more), GPU, 2, BUDGET, ROUND)
    assert no_shorter(times(many, [batch], p)[0], times(few, [batch], p)[0])


WIDER = {
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 64000,
}


@given(mixed_batches, st.sampled_from(sorted(WIDER)), st.sampled_from([LLAMA, MIXTRAL]), step_parameters)
def test_wider_layers_never_shorten_a_step(
    batch: list[Request], field: str, config: dict[str, Any], p: StepParameters
) -> None:
    narrow = component_tables(model(config), GPU, 2, BUDGET, ROUND)
    wide = component_tables(model(config, **{field: WIDER[field]}), GPU, 2, BUDGET, ROUND)
    assert no_shorter(times(wide, [batch], p)[0], times(narrow, [batch], p)[0])


@given(any_tables, mixed_batches, st.sampled_from(StepParameters._fields), st.floats(1, 3), step_parameters)
def test_larger_corrections_and_overheads_never_shorten_a_step(
    tables: ComponentTables, batch: list[Request], name: str, factor: float, p: StepParameters
) -> None:
    """All but the blend: the nearer it is to a maximum, the shorter the step."""
    assume(name != "max_weight")
    larger = p._replace(**{name: factor * getattr(p, name)})
    assert no_shorter(times(tables, [batch], larger)[0], times(tables, [batch], p)[0])


# Mixed steps.


@given(any_tables, prefill_batches, decode_batches, step_parameters)
def test_a_mixed_step_costs_at_least_each_of_its_halves(
    tables: ComponentTables, prefill: list[Request], decode: list[Request], p: StepParameters
) -> None:
    together, first, second = times(tables, [prefill + decode, prefill, decode], p)
    assert no_shorter(together, first)
    assert no_shorter(together, second)


@given(any_tables, prefill_batches, decode_batches, step_parameters)
def test_a_mixed_step_costs_at_most_the_sum_of_its_halves(
    tables: ComponentTables, prefill: list[Request], decode: list[Request], p: StepParameters
) -> None:
    """Where the growths of weights together are no more than the weights, as in any fit so far (a fifth).

    Growths are of the whole step's tokens: each half would read the weights once at its own, lower, growth.
    """
    growths = [name for name in p._fields if name.startswith("growth")]
    share = min(1.0, min(p.weights, p.expert_weights) / max(1e-9, sum(getattr(p, name) for name in growths)))
    p = p._replace(**{name: share * getattr(p, name) for name in growths})
    together, first, second = times(tables, [prefill + decode, prefill, decode], p)
    assert no_shorter(first + second, together)


@pytest.mark.parametrize("shipped", SHIPPED)
@pytest.mark.parametrize("gpu", ["H100", "B200", "H200"])
def test_every_split_of_a_step_is_subadditive(shipped: tuple[str, int], gpu: str) -> None:
    """A prompt of each length up to 2047 with so many decodes, at plain parameters.

    Where links are as slow as an L40S's, all-reduces outweigh all else, and twice the message was measured to take
    more than twice the time (TP4: 0.5 MB 361 µs, 1 MB 841 µs): there a mixed step may cost more than its halves. So it
    may on an A100, where another algorithm takes over at 8 MB (TP2: 4 MB 25 µs, 8 MB 90 µs).
    """
    at = tables(*shipped, gpu)
    for decode in (1, 2, 8, 16, 31, 64, 100, 128, 200, 256, 512, 1024):
        prefill = np.arange(1.0, BUDGET - decode + 1)
        zero, count = np.zeros_like(prefill), np.full_like(prefill, decode)

        def time(chunk: Any, decodes: Any) -> Any:
            pairs = chunk * (chunk + 1) / 2
            steps = StepSums(chunk, decodes, (chunk > 0) + decodes, pairs, 0 * chunk, 500 * decodes, 0 * chunk)
            return step_times(at, steps, PLAIN)

        assert np.all(time(prefill, count) <= (1 + ROUNDING) * (time(prefill, zero) + time(zero, count)))


def test_throughput_bends_where_compute_takes_over() -> None:
    """A step of 1024 decodes takes more than twice one of 256, whatever a fit returns for the rest (BLIS #1123).

    The bend is in the physics: no correction reaches zero and no blend hides arithmetic behind less memory traffic.
    """
    least = StepParameters(*(BY_NAME[name].lower for name in StepParameters._fields))
    p = least._replace(decode_gemm=1.0, weights=1.0, max_weight=1.0)
    few, many = times(tables("codellama-34b-instruct-hf", 2), [[(1, 10, 0)] * 256, [(1, 10, 0)] * 1024], p)
    assert many > 2 * few


@given(any_tables, step_parameters)
def test_the_empty_batch_costs_nothing(tables: ComponentTables, p: StepParameters) -> None:
    assert times(tables, [[]], p) == [0.0]


@given(any_tables, mixed_batches, step_parameters)
def test_no_step_is_shorter_than_the_cpu_floor(
    tables: ComponentTables, batch: list[Request], p: StepParameters
) -> None:
    assume(batch)
    assert no_shorter(times(tables, [batch], p)[0], p.cpu_floor_us)


# The blend and the growth of weights.

microseconds = st.floats(0, 1e6)


@given(microseconds, microseconds, st.floats(0, 1))
def test_a_blend_lies_between_max_and_sum(a: float, b: float, w: float) -> None:
    value = blend(a, b, w)
    assert max(a, b) * (1 - 1e-15) <= value <= (a + b) * (1 + 1e-15)  # one rounding of a + b - |a - b|
    assert value == blend(b, a, w)
    assert value == pytest.approx(w * max(a, b) + (1 - w) * (a + b), rel=1e-14)


@given(microseconds, microseconds, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_blend_is_continuous(a: float, b: float, w: float, da: float, db: float) -> None:
    """It moves by at most what its arguments move by (1e-9: rounding at 1e6 µs); across the ridge a = b, too."""
    assert abs(blend(a + da, b + db, w) - blend(a, b, w)) <= da + db + 1e-9
    assert abs(blend(a + da, a, w) - blend(a, a + da, w)) <= 1e-9


@given(st.integers(0, 400), step_parameters)
def test_weights_slow_down_by_all_growths(tokens: int, p: StepParameters) -> None:
    names = [name for name in p._fields if name.startswith("growth_")]
    growths = [getattr(p, name) for name in names]
    reached = [
        np.interp(tokens, ends, (0, 1))
        for ends in pairwise([1, *(int(name.removeprefix("growth_")) for name in names)])
    ]
    expected = sum(part * share for part, share in zip(growths, reached, strict=True))
    assert growth(tokens, p) == pytest.approx(expected, rel=1e-12)


def test_a_ramp_by_hand() -> None:
    assert [ramp(x, 16.0, 32.0) for x in (0, 16, 20, 24, 32, 100)] == [0, 0, 0.25, 0.5, 1, 1]


def test_a_step_by_hand() -> None:
    """Ten decodes; every number given, every term apart."""
    parts = StepComponents(*(np.array([float(us)]) for us in (0, 100, 0, 30, 3000, 1000, 800, 300, 200, 60)))
    p = StepParameters(
        decode_gemm=2.0, decode_attention=3.0, weights=1.1, expert_weights=0.9, kv_cache=0.5,
        attention_items=0.6, long_context=2.0, communication=0.7, per_layer_us=20.0, per_step_us=15.0,
        mixed_step_us=1e6, per_request_us=4.0, cpu_floor_us=5000.0, max_weight=0.75, growth_16=0.05, growth_32=9.0,
    )  # fmt: skip
    grown = 0.05 * 9 / 15  # 10 is 9/15 of the way from 1 to 16
    gemm = 3000 * (1.1 + grown) + 1000 * (0.9 + grown) + 0.25 * 200  # weights are the longer
    attention = 800 * 0.5 + 2 * 200 + 0.25 * 90 + 0.6 * 300
    device = gemm + attention + 0.7 * 60 + 20 * 32 + 15 + 10 * 4
    assert device > 5000
    (time,) = step_time(parts, 10.0, 10.0, 0.0, 32.0, p)
    assert time == pytest.approx(device + 0.25 * 5000, rel=1e-14)


def test_a_mixed_step_pays_for_being_one() -> None:
    p = PLAIN._replace(mixed_step_us=321.0)
    (mixed, decode), (mixed_0, decode_0) = (
        times(tables(), [[(8, 0, 8), (1, 9, 9)], [(1, 9, 9)]], parameters) for parameters in (p, PLAIN)
    )
    assert mixed - mixed_0 == pytest.approx(321, rel=1e-9)
    assert decode == decode_0


# One formula, three compilers.


@njit  # no cache: numba's would not notice a change of the formula, which lies in another file
def _compiled(tables: Any, row: Any, new_tokens: int, decode_tokens: int, p: Any) -> float:
    no_near: Any = None  # numba knows no defaults
    sums: Any = StepSums(row[0], row[1], row[2], row[3], row[4], row[5], row[6], no_near)
    parts = step_components(tables, sums, new_tokens, decode_tokens, int(row[2]))
    return step_time(parts, row[0] + row[1], row[2], 1.0 * (row[0] > 0), tables.layers, p)


def _traced(tables: ComponentTables, row: Any, values: Any) -> Any:
    new, decode = int(row[0] + row[1]), int(row[1])
    parts = step_components(tables, StepSums(*row), new, decode, int(row[2]))
    return step_time(parts, row[0] + row[1], row[2], 1.0 * (row[0] > 0), tables.layers, StepParameters(*values))


def row_of(batch: list[Request]) -> Floats:
    return StepSums.from_requests([batch]).columns()[0]


@given(any_tables, mixed_batches, step_parameters)
def test_numba_gives_the_number_of_numpy(tables: ComponentTables, batch: list[Request], p: StepParameters) -> None:
    """To 1e-14: LLVM may fuse a multiplication and an addition, which saves a rounding."""
    row = row_of(batch)
    compiled = _compiled(tables, row, int(row[0] + row[1]), int(row[1]), StepParameters(*map(float, p)))
    assert compiled == pytest.approx(times(tables, [batch], p)[0], rel=1e-14)


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


MIXED: list[Request] = [(400, 100, 700), (33, 0, 33), *[(1, 50 * i, 20) for i in range(1, 60)]]
PARAMETERS = StepParameters(
    0.9,
    1.2,
    1.3,
    0.8,
    1.05,
    0.85,
    1.1,
    0.75,
    1.15,
    0.7,
    22.0,
    400.0,
    250.0,
    0.9,
    1100.0,
    0.93,
    0.02,
    0.03,
    0.015,
    0.01,
    0.04,
    0.08,
)
"""Every one away from its default and from zero."""


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shipped", SHIPPED)
@pytest.mark.parametrize("batch", [MIXED, MIXED[:2], MIXED[2:], MIXED[-1:]], ids=["mixed", "prefill", "decode", "one"])
def test_jax_gives_the_number_of_numpy_and_the_gradient_of_finite_differences(
    batch: list[Request], shipped: tuple[str, int]
) -> None:
    """Time to 1e-13: compiled code may fuse and reorder. Gradient to 1e-6 of the time itself for a relative change.

    A central difference with a step of 1e-5 of each parameter errs by about 1e-16/1e-5 = 1e-11 of the time from
    rounding, and by nothing from curvature, as the formula is linear in each parameter away from the blend's ridges;
    1e-6 leaves room for a ridge near by.
    """
    at, row, values = tables(*shipped), row_of(batch), np.array(PARAMETERS)
    time = times(at, [batch], PARAMETERS)[0]
    jitted = jax.jit(lambda v: _traced(at, row, v))
    assert float(jitted(values)) == pytest.approx(time, rel=1e-13)
    gradient = np.asarray(jax.jacfwd(lambda v: _traced(at, row, v))(values))
    assert gradient.dtype == np.float64
    for index, value in enumerate(values):
        up, down = values.copy(), values.copy()
        up[index], down[index] = value * (1 + 1e-5), value * (1 - 1e-5)
        slope = (times(at, [batch], StepParameters(*up))[0] - times(at, [batch], StepParameters(*down))[0]) / 2e-5
        assert gradient[index] * value == pytest.approx(slope, abs=1e-6 * time), StepParameters._fields[index]


@given(any_tables, mixed_batches)
def test_the_defaults_are_the_physics_alone(tables: ComponentTables, batch: list[Request]) -> None:
    """No correction, no overhead, what overlaps hides whole, and long contexts cost nothing besides."""
    found = components(tables, StepSums.from_requests([batch]))
    gemm = max(found.prefill_gemm[0] + found.decode_gemm[0], found.weights[0] + found.expert_weights[0])
    attention = max(found.prefill_attention[0] + found.decode_attention[0], found.kv_cache[0])
    alone = gemm + attention + found.attention_items[0] + found.communication[0]
    assert times(tables, [batch], StepParameters())[0] == pytest.approx(alone, rel=1e-12)


@given(any_tables, mixed_batches, step_parameters)
def test_a_step_is_made_of_its_corrected_components_and_its_overheads(
    tables: ComponentTables, batch: list[Request], p: StepParameters
) -> None:
    """With nothing hidden they add up to it, and the CPU's loop is what comes after."""
    p = p._replace(max_weight=0.0)
    steps = StepSums.from_requests([batch])
    parts = sum(float(time[0]) for time in corrected(components(tables, steps), steps.new_tokens, p))
    besides = sum(float(time[0]) for time in overheads(steps.requests, steps.mixed, tables.layers, p))
    floor = p.cpu_floor_us if batch else 0.0
    assert times(tables, [batch], p)[0] == pytest.approx(parts + besides + floor, rel=1e-12)


def test_a_table_of_steps_is_timed_as_each_step_alone() -> None:
    batches = [MIXED, [], MIXED[:2], MIXED[2:], MIXED[-1:]]
    at = tables("mixtral-8x7b-v0.1", 2)
    assert times(at, batches, PARAMETERS) == [times(at, [batch], PARAMETERS)[0] for batch in batches]
    assert all(part.shape == (5,) for part in components(at, StepSums.from_requests(batches)))
