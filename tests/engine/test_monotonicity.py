"""The contract of step times with a simulator, for every method: ours whatever its parameters, baselines as learned."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from quickness import assert_within, best_s
from synthetic import BUDGET, PLENTY, SHIPPED, run_of, step_parameters, tables

from roofml.engine.monotonicity import one_by_one, random_steps, violations_pct
from roofml.engine.replay import replay
from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.deployment import deploy
from roofml.latency.formula import step_times
from roofml.latency.parameters import PRIOR_VALUES, Parameters, StepParameters
from roofml.traces.selection import Selection
from roofml.validation.baselines import BASELINES
from roofml.validation.baselines.samples import sampled
from roofml.validation.leaderboard.predictors import NEEDS, PREDICTORS

SEATS, LONGEST = 128, 4096
FREE_TO_FALL = {"bayesian-ridge", "boosted-trees"}
"""Weights of any sign, and means as features: these may break it. The leaderboard counts how often."""


@settings(max_examples=25)
@given(step_parameters)
def test_ours_never_takes_less_time_for_more_work_whatever_its_parameters(parameters: StepParameters) -> None:
    for name, tp in SHIPPED:
        for norm in (None, 1.0, 3.0):
            ours = tables(name, tp)._replace(norm=norm)
            before, *after = random_steps(BUDGET, SEATS, LONGEST, 60, seed=1)
            times = step_times(ours, before, parameters)
            for more in after:
                # Rounding of sums of some 1e9 µs, no more.
                assert np.all(step_times(ours, more, parameters) >= times * (1 - 1e-12))


def test_step_times_that_break_it_are_counted() -> None:
    assert violations_pct(lambda steps: 1e6 / (1 + steps.decode_tokens), BUDGET, SEATS, LONGEST) > 30
    assert violations_pct(lambda steps: 1.0 + 0 * steps.decode_tokens, BUDGET, SEATS, LONGEST) == 0


@cache
def learned(name: str) -> StepTimes:
    """What a baseline learns of a run served by our law, and the run."""
    random = np.random.default_rng(2)
    arrivals = np.cumsum(random.exponential(40_000, 300))
    rows = [(float(t), int(random.integers(50, 900)), int(random.integers(20, 200))) for t in arrivals]
    served = run_of(rows, replace(PLENTY, model="llama-2-7b-hf", gpu="H100"))
    where = deploy("llama-2-7b-hf", "H100", 1, BUDGET)
    result = replay(served, where.tables, Parameters.of(PRIOR_VALUES))
    run = replace(served, ttft_us=result.ttft_us, e2e_us=result.e2e_us)
    samples = sampled(Selection.between(run), where)
    return BASELINES[name].train([samples], 0).step_times(run, where)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_keep_the_contract_where_they_can(name: str) -> None:
    """Positive, finite, deterministic, free of side effects, under a millisecond; rarely shorter for more work."""
    for library in NEEDS.get(name, ()):
        if find_spec(library) is None:
            pytest.skip(f"{name} needs {library}")
    times_of = learned(name)
    steps = random_steps(BUDGET, SEATS, LONGEST, 50, seed=3)[0]
    columns = steps.columns()
    times = one_by_one(times_of, steps)
    assert np.all(np.isfinite(times))
    assert np.all(times > 0)
    assert times.tolist() == one_by_one(times_of, steps).tolist()
    assert np.array_equal(columns, steps.columns())
    full = StepSums.from_requests([[(1, 600, 500)] * 127 + [(100, 0, 400)]])
    assert_within(best_s(lambda: times_of(full), 20), 1e-3)
    if name not in FREE_TO_FALL:
        assert violations_pct(times_of, BUDGET, SEATS, LONGEST) < 5


def test_every_method_has_a_title_and_a_kind() -> None:
    assert PREDICTORS["roofml"].kind == "ours"
    assert {name for name, method in PREDICTORS.items() if method.kind == "baseline"} == set(BASELINES)
    assert all(method.title for method in PREDICTORS.values())
