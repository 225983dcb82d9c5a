"""A weak fit, of means alone: nearer to the truth than what was believed, and as unsure as it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roofml.calibration.aggregates import statistics
from roofml.calibration.calibrate import fit, load, physics
from roofml.calibration.calibration import Calibration
from roofml.calibration.means import means_runs
from roofml.calibration.other_models import read_other_models
from roofml.calibration.posterior import posterior_of
from roofml.calibration.untraced import untraced
from roofml.engine.replay import replay
from roofml.traces.aggregate_run import AggregateRun
from roofml.traces.overview import Overview
from roofml.traces.recording import LoadSaid
from roofml.traces.server import Server
from roofml.util.errors import InputError
from roofml.validation.mean_runs import judge_means
from roofml.workloads.aggregate_load import rebuilt

MODEL = "llama-2-7b-hf"
SERVER = Server(MODEL, 1, 128, 2048, 16, 7000, 4096, gpu="H100", engine_version="0.15.1", fresh=False)
SLOWER = 1.12
"""How many times as long the steps of the server are that is measured."""


@pytest.fixture(scope="module")
def believed() -> Calibration:
    return physics(MODEL, "H100", 1)


def told(clients: int | None, rate: float | None, requests: int = 120) -> AggregateRun:
    lengths = np.full(requests, 400), np.full(requests, 150)
    load = LoadSaid(max_concurrency=clients, requests_per_s=rate if rate is not None else float("inf"))
    return AggregateRun("means", SERVER, Overview("vllm-bench", requests, requests), load, *lengths, measured={})


def measured(run: AggregateRun, believed: Calibration, slower: float = SLOWER) -> AggregateRun:
    """The run with the means of a server that is `slower` than is believed."""
    load = rebuilt(run)
    served = replay(load, believed.deployment.serving(SERVER).tables, believed.parameters.paced(slower))
    return replace(run, measured=statistics(load, served) | {"requests_per_s": run.load.requests_per_s or 0.0})


def error(calibration: Calibration, run: AggregateRun, metric: str) -> float:
    (each,) = means_runs([run])
    return judge_means(each, calibration).metrics[metric].error_pct


def test_means_move_what_is_believed_to_what_was_measured(believed: Calibration, tmp_path: Path) -> None:
    seen, unseen = measured(told(8, None), believed), measured(told(32, None), believed)
    fitted = fit([], means=[seen])
    before, after = error(believed, unseen, "tpot_mean"), error(fitted, unseen, "tpot_mean")
    assert before < -8
    assert abs(after) < 0.5 * abs(before)
    assert fitted.misfit == ()
    fitted.save(tmp_path / "c.yaml")
    again = load(tmp_path / "c.yaml")
    assert [run.means_alone for run in again.runs] == [True]
    assert not again.certain
    assert error(again, unseen, "tpot_mean") == pytest.approx(after, abs=0.2)


def test_its_predictions_have_intervals_that_hold(believed: Calibration) -> None:
    seen = measured(told(8, None), believed)
    fitted = fit([], means=[seen])
    for clients in (4, 16, 64):
        (each,) = means_runs([measured(told(clients, None), believed)])
        metric = judge_means(each, fitted).metrics["tpot_mean"]
        assert metric.covered, clients
    run = rebuilt(seen)
    assert len(fitted.replays(run, 3)) == 3


def test_what_decodes_far_beyond_physics_is_a_misfit(believed: Calibration) -> None:
    fitted = fit([], means=[measured(told(8, None), believed, slower=2.6)])
    assert "times as long as physics says" in fitted.misfit[0]


def test_near_capacity_the_fit_still_finds_the_pace(believed: Calibration) -> None:
    """What is believed is too slow for the load: its queue grows, and says nothing of the server that took it."""
    run = measured(told(None, 26.0, 500), believed, slower=0.8)
    where = believed.deployment
    slow = replace(believed, posterior=posterior_of(untraced(read_other_models().prior(where), where)))
    before = error(slow, run, "tpot_mean")
    assert before > 40
    assert abs(error(fit([], means=[run]), run, "tpot_mean")) < 0.2 * before


def test_open_loads_and_unknown_lengths_widen_the_interval(believed: Calibration) -> None:
    (closed,), (open_load,) = (means_runs([measured(run, believed, 1.0)]) for run in (told(8, None), told(None, 3.0)))
    even = judge_means(closed, believed).metrics["tpot_mean"].prediction
    random = judge_means(open_load, believed).metrics["tpot_mean"].prediction
    assert "load" in even.variances  # lengths are means
    assert random.variances["load"] > 0


def test_means_of_survivors_are_not_fitted(believed: Calibration) -> None:
    run = measured(told(8, None), believed)
    with pytest.raises(InputError, match="cannot be fitted on: half failed"):
        fit([], means=[replace(run, overview=replace(run.overview, unfit="half failed"))])


def test_a_load_that_nobody_tells_is_refused() -> None:
    with pytest.raises(InputError, match="neither its rate nor its concurrency"):
        means_runs([replace(told(None, None), load=LoadSaid())])
    with pytest.raises(InputError, match="how long its prompts"):
        means_runs([replace(told(8, None), prompt_tokens=np.zeros(0, np.int64))])
