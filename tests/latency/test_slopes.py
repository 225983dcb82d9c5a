"""Slopes: the derivatives written out are those that JAX finds in the formula itself."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import tables

from roofml.calibration.objective import times_and_gradients
from roofml.calibration.running_sums import climbs_of, columns_of, sums_of
from roofml.latency.batch import StepSums
from roofml.latency.components import StepComponents
from roofml.latency.formula import growth, step_time
from roofml.latency.parameters import PRIOR_VALUES, STEP_COUNT, StepParameters
from roofml.latency.slopes import gain, step_slopes
from roofml.util.arrays import Floats

STEPS = 400


def some_steps(rng: np.random.Generator) -> tuple[Floats, ...]:
    """Components of any proportion, some of them 0, and steps with nothing in them at all."""
    parts = [rng.lognormal(5, 2, STEPS) * (rng.random(STEPS) < 0.8) for _ in StepComponents._fields]
    new_tokens = rng.integers(1, 400, STEPS).astype(float)
    requests, mixed = np.minimum(new_tokens, rng.integers(1, 100, STEPS)), 1.0 * (rng.random(STEPS) < 0.3)
    return tuple(np.where(np.arange(STEPS) % 20 == 0, 0.0, each) for each in (*parts, new_tokens, requests, mixed))


@pytest.mark.parametrize("seed", range(4))
def test_slopes_are_the_derivatives_of_the_formula(seed: int) -> None:
    """To rounding: of sums of a few terms, of up to 10^5 µs."""
    rng = np.random.default_rng(seed)
    values = PRIOR_VALUES[:STEP_COUNT] * rng.uniform(0.5, 1.5, STEP_COUNT)
    values[-6:], values[StepParameters._fields.index("max_weight")] = rng.uniform(0, 0.1, 6), rng.uniform(0, 1)
    columns, p = some_steps(rng), StepParameters(*values)
    *parts, new_tokens, requests, mixed = columns
    time, slopes = step_slopes(StepComponents(*parts), new_tokens, requests, mixed, 32.0, p)
    of_model = tables()._replace(launches_us=0.0)
    by_jax, gradients = times_and_gradients(values, columns, of_model)
    np.testing.assert_allclose(time, by_jax, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(
        time, step_time(StepComponents(*parts), new_tokens, requests, mixed, 32.0, p), rtol=1e-12, atol=1e-9
    )
    for name, slope, gradient in zip(StepParameters._fields, slopes, gradients, strict=True):
        np.testing.assert_allclose(slope, gradient, rtol=1e-9, atol=1e-7, err_msg=name)


def test_a_blend_gains_the_mean_of_both_sides_at_its_kink() -> None:
    assert gain(1.0, 2.0, 0.9) == pytest.approx(0.1)
    assert gain(2.0, 1.0, 0.9) == 1.0
    assert gain(2.0, 2.0, 0.9) == pytest.approx(0.55)


def test_running_sums_are_those_of_the_steps() -> None:
    """Of times with what stalls, of derivatives, and of what stairs add; a step that launches decide owes nothing."""
    rng = np.random.default_rng(1)
    batches = [[(1, int(context), 0)] * int(count) for context, count in rng.integers(1, 60, (50, 2))]
    steps = StepSums.from_requests([*batches, [(1000, 0, 1000)], [(300, 0, 300)]])
    of_model = tables()._replace(captured=64, launches_us=5e6)
    values = PRIOR_VALUES[:STEP_COUNT]
    columns, p = columns_of(steps, of_model), StepParameters(*values)
    cold = np.zeros((2, steps.length))
    cold[0, 3] = cold[1, 7] = 1.0
    total = sums_of(columns, cold, of_model, p, np.array([1e5, 2e5]))
    times, gradients = times_and_gradients(values, (*columns.parts, *columns[1:]), of_model)
    assert times[-1] == times[-2] == 5e6
    rows = np.diff(total, axis=0)
    np.testing.assert_allclose(rows[:, 0], times + 1e5 * cold[0] + 2e5 * cold[1], rtol=1e-9)
    np.testing.assert_allclose(rows[:, 1 : 1 + STEP_COUNT], gradients.T, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rows[:, 1 + STEP_COUNT :], cold.T)
    place = np.where(np.arange(steps.length) % 3 == 2, -1, np.arange(steps.length) % 3)
    climbs = np.diff(climbs_of(columns, place, 2, of_model, p), axis=0)
    fields = StepParameters._fields
    slower = growth(columns.new_tokens, p)
    climb = (p.weights + slower) * gradients[fields.index("weights")]
    climb = climb + (p.expert_weights + slower) * gradients[fields.index("expert_weights")]
    np.testing.assert_allclose(climbs, np.where(place[:, None] == np.arange(2), climb[:, None], 0.0), rtol=1e-6)
