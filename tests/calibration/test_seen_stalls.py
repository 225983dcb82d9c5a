"""Short runs of fresh mixtures of experts: most of what they show is stalls, and a fit still finds the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from fitted import measured_again

from roofml.calibration.calibrate import fit
from roofml.calibration.fit import fit_parameters
from roofml.calibration.seen_stalls import replay_as_seen
from roofml.calibration.step_breakdown import time_us
from roofml.engine.replay import replay
from roofml.latency.batch import Batch
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.parameters import NAMES, PRIOR_VALUES, Parameters
from roofml.traces.run import Run
from roofml.traces.selection import Selection, first
from roofml.traces.server import Server
from roofml.util.arrays import Floats
from roofml.workloads.load import Load

SLOWER = 1.05
"""The servers' steps, over what physics says: as far off as a fit starts."""
KERNEL = NAMES.index("cold_kernel_us")


@cache
def where(model: str) -> Deployment:
    return deploy(model, "H100", 1, budget=2048)


def paced(values: Floats) -> Parameters:
    return Parameters.of(values).paced(SLOWER)


@cache
def served(model: str, kernel_us: float = 1e6, fresh: bool = True) -> Run:
    """A run of 20 s, and 1 % of noise in every request."""
    rng, made = np.random.default_rng(1), where(model)
    server = Server(made.hf_repo, 1, 128, 2048, 16, 7462, 4096, gpu="H100")
    sent = np.cumsum(rng.exponential(1e6 / 8, 150))
    run = Load("served", sent, rng.integers(200, 900, 150), rng.integers(20, 120, 150)).run(server)
    values = PRIOR_VALUES.copy()
    values[KERNEL] = kernel_us
    run = replace(run, server=replace(server, fresh=fresh))
    times, off = replay(run, made.tables, paced(values)), np.exp(rng.normal(0, 0.01, 150))
    return measured_again(run, ok=np.ones(150, np.bool_), ttft_us=times.ttft_us * off, e2e_us=times.e2e_us * off)


def stalls_s(run: Run, model: str, parameters: Parameters, *, as_seen: bool) -> Floats:
    tables = where(model).tables
    served = replay_as_seen(Selection.between(run), tables, parameters) if as_seen else replay(run, tables, parameters)
    return served.schedule.step_start_us[served.schedule.cold[1] > 0] / 1e6


@pytest.mark.parametrize(
    "model", [pytest.param("gemma-4-26b-a4b-nvfp4", marks=pytest.mark.exhaustive), "gpt-oss-20b", "qwen3-30b-a3b-fp8"]
)
def test_a_fit_finds_the_steps_of_a_server_that_mostly_stalled(model: str) -> None:
    run = served(model)
    assert len(stalls_s(run, model, paced(PRIOR_VALUES), as_seen=False)) >= 5
    found = fit([run])
    assert found.misfit == ()
    assert abs(found.runs[0].error_pct["e2e_mean"]) < 4
    for batch in (Batch(decode=[(600, 4)]), Batch(prefill=[(512, 0)], decode=[(600, 4)])):
        true = time_us(where(model), batch, paced(PRIOR_VALUES))
        assert time_us(found.deployment, batch, found.parameters_for(run)) == pytest.approx(true, rel=0.05)
    assert found.posterior.values[KERNEL] == pytest.approx(1e6, rel=0.15)


def test_stalls_are_when_the_server_had_them_though_steps_are_a_little_off() -> None:
    model = "gpt-oss-20b"
    run, off = served(model), Parameters.of(PRIOR_VALUES)
    true = stalls_s(run, model, paced(PRIOR_VALUES), as_seen=False)
    as_seen = stalls_s(run, model, off, as_seen=True)
    assert len(as_seen) == len(true)
    np.testing.assert_allclose(as_seen, true, atol=0.1)


def test_a_server_that_does_not_stall_is_replayed_by_the_rule_and_stalls_are_found_to_cost_little() -> None:
    model = "gpt-oss-20b"
    run = served(model, kernel_us=1e4)
    by_rule = stalls_s(run, model, paced(PRIOR_VALUES), as_seen=False)
    np.testing.assert_array_equal(stalls_s(run, model, paced(PRIOR_VALUES), as_seen=True), by_rule)
    assert fit([run]).posterior.values[KERNEL] < 2e5


def test_a_warm_server_is_replayed_as_ever() -> None:
    assert len(stalls_s(served("gpt-oss-20b", fresh=False), "gpt-oss-20b", paced(PRIOR_VALUES), as_seen=True)) == 0


def test_nothing_is_seen_past_the_share_that_is_fitted() -> None:
    model = "gpt-oss-20b"
    run = served(model)
    late = np.arange(len(run)) >= 0.6 * len(run)
    changed = measured_again(
        run, ttft_us=run.ttft_us + np.where(late, 1e6, 0.0), e2e_us=run.e2e_us + np.where(late, 1e6, 0.0)
    )
    found, other = (fit_parameters(first([one], 0.6), where(model).tables).values for one in (run, changed))
    np.testing.assert_array_equal(found, other)


def later(run: Run, us: float) -> Run:
    return measured_again(run, ttft_us=run.ttft_us + us, e2e_us=run.e2e_us + us)


def of_others(run: Run) -> Run:
    order = np.random.default_rng(0).permutation(len(run))
    return measured_again(run, ttft_us=run.ttft_us[order], e2e_us=run.e2e_us[order])


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda run: measured_again(run, ttft_us=3 * run.ttft_us, e2e_us=3 * run.e2e_us),
        lambda run: later(run, 3e6),
        lambda run: later(run, 2e7),
        of_others,
        lambda run: measured_again(run, server=replace(run.server, max_num_seqs=1)),
    ],
    ids=["thrice", "3 s late", "20 s late", "of others", "another limit"],
)
def test_what_a_run_has_that_is_no_stall_is_still_refused(spoiled: Callable[[Run], Run]) -> None:
    assert fit([spoiled(served("gpt-oss-20b"))]).misfit
