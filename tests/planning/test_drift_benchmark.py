"""A pair of `benchmarks/drift.py`: a run is fitted, and another of a server that is known checked against it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.drift import MODELS, a_run, grown, one_pair
from roofml.calibration import objective
from roofml.calibration.calibrate import load
from roofml.engine.replay import replay
from roofml.latency.formula import step_times
from roofml.latency.parameters import Parameters
from roofml.util.package_data import data_folder

pytestmark = pytest.mark.slow


def test_a_pair_is_judged_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "STEP_PADDING", objective.STEP_PADDING)  # the benchmark sets it, for its process
    outcome = one_pair(28)
    assert outcome.held
    assert outcome.drift_found
    assert outcome.component is not None
    assert outcome.component_named == outcome.component
    assert outcome.later_found
    assert abs(outcome.later_off) < 0.1


@pytest.mark.parametrize("component", ["kv_cache", "mixed_step_us"])
def test_a_grown_component_makes_the_mean_step_so_much_longer(component: str) -> None:
    truth = load(data_folder("coeffs") / f"{MODELS[0]}.yaml")
    run = a_run(np.random.default_rng(0), truth, "chat", "made up")
    tables = truth.deployment.tables
    steps = replay(run, tables, truth.parameters).schedule.steps
    after = step_times(tables, steps, Parameters.of(grown(truth, run, truth.values, component)).step)
    assert after.mean() / step_times(tables, steps, truth.parameters.step).mean() == pytest.approx(1.03, abs=1e-4)
