"""A run whose client gives up: completions beside latencies, each over the requests of its own world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fitted import measured_again
from served import served

from roofml.calibration.calibrate import fit, load, physics, uncalibrated
from roofml.calibration.prediction import Prediction
from roofml.engine.latency_model import judged_us, paired_us
from roofml.engine.replay import replay
from roofml.latency.batch import Batch
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.validation.evaluation import replay_run

SECOND = 1e6


@pytest.fixture(scope="module")
def overloaded() -> Run:
    """A server of four seats whose client gives up after six seconds: most requests are."""
    run = served(400)
    run = replace(run, server=replace(run.server, max_num_seqs=4), deadline_us=6 * SECOND)
    truth = replay(run, deployment_of([run]).tables, Parameters.of(PRIOR_VALUES))
    assert 20 < truth.completed.sum() < 300
    return measured_again(run, ttft_us=truth.ttft_us, e2e_us=truth.e2e_us, ok=truth.completed, late=~truth.completed)


def test_the_right_parameters_complete_what_was_completed(overloaded: Run) -> None:
    report = replay_run(uncalibrated(deployment_of([overloaded])), Selection.between(overloaded)).report
    document = report.to_dict()
    assert document["completed"]["measured"] == int(overloaded.ok.sum())
    assert document["completed"]["predicted"] == pytest.approx(document["completed"]["measured"], rel=0.05)
    assert abs(document["metrics"]["e2e_mean"]["error_pct"]) < 5


def test_each_mean_is_over_those_that_completed_in_its_own_world(overloaded: Run) -> None:
    judged = Selection.between(overloaded)
    slower = replay(overloaded, deployment_of([overloaded]).tables, Parameters.of(PRIOR_VALUES).paced(1.3))
    assert slower.completed.sum() < overloaded.ok.sum()
    assert len(judged_us(judged, slower, "e2e")) == slower.completed.sum()
    assert len(judged_us(judged, overloaded, "e2e")) == overloaded.ok.sum()
    ours, theirs = paired_us(judged, slower, "e2e")
    both = slower.completed & overloaded.ok
    assert len(ours) == len(theirs) == both.sum()
    assert np.array_equal(ours, overloaded.e2e_us[both])


def test_without_a_deadline_nothing_is_said_of_completions() -> None:
    run = served(60)
    assert "completed" not in replay_run(uncalibrated(deployment_of([run])), Selection.between(run)).report.to_dict()


def test_a_fit_survives_requests_that_its_replay_does_not_complete(overloaded: Run) -> None:
    calibration = fit([overloaded])
    assert np.isfinite(calibration.values).all()


def test_overload_that_a_fit_has_not_seen_has_a_wide_interval(overloaded: Run) -> None:
    """Overloaded servers slow down by what no normal run shows: the figures say how little is known of that."""
    calibration = fit([served(100)])
    crowded = replace(overloaded, saturated=True)
    report = replay_run(calibration, Selection.between(crowded)).report
    low, high = report.metrics["tpot_mean"].interval_us or (0.0, 0.0)
    assert high / low > 1.2
    assert report.metrics["e2e_mean"].covered
    normal = replay_run(calibration, Selection.between(served(60))).report.metrics["tpot_mean"].interval_us or (
        1.0,
        9.0,
    )
    assert normal[1] / normal[0] < (high / low) ** 0.5
    assert "overload" not in fit([crowded]).replays(crowded, 2).sources


def test_the_version_that_served_is_in_the_coefficients(tmp_path: Path) -> None:
    run = served(100)
    run = replace(run, server=replace(run.server, engine_version="0.20.1"))
    calibration = fit([run])
    calibration.save(tmp_path / "c.yaml", accept_misfit=True)
    read = load(tmp_path / "c.yaml")
    assert (read.deployment.engine.name, read.deployment.engine.version) == ("vllm", "0.20.1")
    assert read.warnings_for(run) == calibration.warnings_for(run) == read.doubts
    newer = replace(run, server=replace(run.server, engine_version="0.33.0"))
    assert read.warnings_for(newer)[-1].endswith("is of 0.20.1: step times differ between versions")
    other = replace(run, server=replace(run.server, engine="sglang", engine_version=None))
    assert "it was served by sglang" in read.warnings_for(other)[-1]


def test_intervals_of_another_engine_are_at_least_half_as_wide_again() -> None:
    narrow = physics("llama-2-7b-hf", "H100").step_time(Batch(decode=[(700, 32)])).total
    wide = physics("llama-2-7b-hf", "H100", engine="sglang").step_time(Batch(decode=[(700, 32)])).total
    assert narrow.interval_90 is not None
    assert wide.interval_90 is not None
    for ours, theirs in zip(narrow.interval_90, wide.interval_90, strict=True):  # and its release was not seen
        assert abs(np.log(theirs / wide.value)) >= 1.5 * abs(np.log(ours / narrow.value))
    one = Prediction(2.0, {"a": 0.01})
    assert one.stretched(1.0) is one
    assert one.stretched(2.0).sd == pytest.approx(2 * one.sd)
