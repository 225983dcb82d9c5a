"""Fitting BLIS's coefficients: what it can find again, what it refuses, and what it reaches on measured runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blis_runs import DEPLOYMENT, small_run
from golden_runs import SATURATED, blis_deployment, measured_run, run_names

from roofml.blis.deployment import BlisCoefficients, BlisDeployment
from roofml.blis.fit import NAMES, PRIORS, BlisFit, Prior, RunErrors, errors_of, fit
from roofml.blis.replay import for_blis, replay
from roofml.traces.run import Run
from roofml.traces.selection import Selection, first
from roofml.util.errors import InputError

pytestmark = pytest.mark.slow

TRUE = BlisCoefficients((12000, 400, 5), (1.4, 0, 1.3, 1, 12, 2, 90, 0, 0, 1.8, 1))


def served_by(coefficients: BlisCoefficients, requests: int = 600, seed: int = 3, load: float = 1.0) -> Run:
    """A run whose latencies are what BLIS itself makes of these coefficients."""
    random = np.random.default_rng(seed)
    run = small_run(
        np.cumsum(random.exponential(150_000 / load, requests)),
        random.integers(100, 900, requests),
        random.integers(20, 300, requests),
        random.integers(0, 30, requests),
        np.full(requests, 90),
        max_num_seqs=64, max_num_batched_tokens=2048, num_gpu_blocks=5000, max_model_len=4096,
    )  # fmt: skip
    found = replay(for_blis(run), DEPLOYMENT, coefficients.alphas, coefficients.betas)
    return with_changes(run, ttft_us=found.ttft_us, e2e_us=found.e2e_us, ok=np.ones(requests, bool))


def fitted(*runs: tuple[Run, BlisDeployment], share: float = 1.0, **how: Any) -> BlisFit:
    """BLIS's coefficients from the first share of each run."""
    selections: Sequence[Selection] = first([run for run, _ in runs], share)
    return fit([(selection, on) for selection, (_, on) in zip(selections, runs, strict=True)], **how)


def test_latencies_made_by_blis_are_found_again() -> None:
    run = served_by(TRUE)
    result = fitted((run, DEPLOYMENT))
    (errors,) = result.errors
    # Only the pull of the priors is left: a tenth of the 2 % (TTFT: 20 %) that the equations expect.
    assert abs(errors.e2e_pct) < 0.2
    assert abs(errors.tpot_pct) < 0.2
    assert abs(errors.ttft_pct) < 2
    assert result.settled


def test_a_later_run_under_another_load_is_predicted() -> None:
    result = fitted((served_by(TRUE), DEPLOYMENT))
    other = served_by(TRUE, seed=8, load=2.0)
    predicted = replay(for_blis(other), DEPLOYMENT, result.coefficients.alphas, result.coefficients.betas)
    # Extrapolation to twice the load by coefficients that priors share out among collinear terms.
    assert abs(errors_of(other, predicted.ttft_us, predicted.e2e_us).e2e_pct) < 2


def test_what_the_data_cannot_tell_stays_at_its_prior_and_is_named() -> None:
    result = fitted((served_by(TRUE), DEPLOYMENT))
    assert {"tp_communication", "moe_layer_us"} <= set(result.not_identified)  # one GPU, no experts
    assert result.coefficients.betas[NAMES.index("tp_communication") - 3] == pytest.approx(
        PRIORS["tp_communication"].mean
    )
    assert "weights" not in result.not_identified


def test_coefficients_are_valid_and_within_what_physics_allows_whatever_the_data() -> None:
    impossible = served_by(TRUE)
    result = fitted(
        (with_changes(impossible, ttft_us=impossible.ttft_us / 50, e2e_us=impossible.e2e_us / 50), DEPLOYMENT)
    )
    for name, value in zip(NAMES, (*result.coefficients.alphas, *result.coefficients.betas), strict=True):
        assert value >= PRIORS[name].least


def test_two_runs_of_one_deployment_give_one_set() -> None:
    slower = served_by(TRUE, seed=5)
    slower = with_changes(slower, e2e_us=slower.ttft_us + 1.02 * (slower.e2e_us - slower.ttft_us))
    result = fitted((served_by(TRUE), DEPLOYMENT), (slower, DEPLOYMENT))
    # Neither can be met: they differ by 2 %, and the result is between them.
    assert result.errors[0].tpot_pct == pytest.approx(1, abs=0.3)
    assert result.errors[1].tpot_pct == pytest.approx(-1, abs=0.3)


def test_only_the_first_requests_are_used() -> None:
    run = served_by(TRUE)
    later_is_nonsense = with_changes(run, e2e_us=np.where(np.arange(len(run)) < 360, run.e2e_us, 1e9))
    assert fitted((run, DEPLOYMENT), share=0.6) == fitted((later_is_nonsense, DEPLOYMENT), share=0.6)
    assert [len(selection) for selection in first([run], 0.6)] == [360]


def test_nothing_after_the_last_selected_request_is_used_not_even_that_it_came() -> None:
    run = served_by(TRUE)
    until = run.take(np.arange(len(run)) < 360)
    assert fitted((run, DEPLOYMENT), share=0.6) == fitted((until, DEPLOYMENT))


def test_a_prior_can_be_given() -> None:
    sure = {"output_token_us": Prior(7.0, 1e-6, "measured")}
    assert fitted((served_by(TRUE), DEPLOYMENT), priors=sure).coefficients.alphas[2] == pytest.approx(7.0, abs=1e-3)


def test_failed_requests_are_served_and_not_fitted() -> None:
    run = served_by(TRUE)
    ok = np.arange(len(run)) % 7 != 0
    broken = with_changes(
        run, ok=ok, ttft_us=np.where(ok, run.ttft_us, np.nan), e2e_us=np.where(ok, run.e2e_us, np.nan)
    )
    (errors,) = fitted((broken, DEPLOYMENT)).errors
    assert abs(errors.e2e_pct) < 0.2
    assert errors.requests < ok.sum() + 1


def test_what_cannot_be_fitted_is_refused() -> None:
    run = served_by(TRUE, requests=20)
    with pytest.raises(InputError, match="train fraction 0"):
        fitted((run, DEPLOYMENT), share=0)
    with pytest.raises(InputError, match="no runs"):
        fit([])
    with pytest.raises(InputError, match="small: no successful request to fit"):
        fitted((with_changes(run, ok=np.zeros(20, bool)), DEPLOYMENT))
    with pytest.raises(InputError, match="none of the first 20 requests has latencies"):
        fitted((with_changes(run, e2e_us=0.5 * run.ttft_us), DEPLOYMENT))
    with pytest.raises(InputError, match="finishes none"):
        errors_of(with_changes(run, ok=np.zeros(20, bool)), run.ttft_us, run.e2e_us)


def test_the_last_two_fifths_of_ten_measured_runs_are_predicted(shared: Path) -> None:
    by_model: dict[str, list[tuple[Run, BlisDeployment]]] = {}
    for name in run_names(shared):
        if name != SATURATED:
            run = measured_run(shared, name)
            by_model.setdefault(run.server.model, []).append((run, blis_deployment(shared, run)))
    errors: list[RunErrors] = []
    for runs in by_model.values():
        found = fitted(*runs, share=0.6).coefficients
        for run, deployment in runs:
            predicted = replay(for_blis(run), deployment, found.alphas, found.betas)
            judged = np.arange(len(run)) >= int(0.6 * len(run))
            errors.append(errors_of(run, predicted.ttft_us, predicted.e2e_us, judged))
    assert len(errors) == 10
    e2e, tpot, ttft = (np.abs([getattr(e, f) for e in errors]) for f in ("e2e_pct", "tpot_pct", "ttft_pct"))
    # The project's own goals for BLIS with our file; as shipped it is 0 to 57 % off (two thousand on one run).
    assert e2e.mean() <= 1.5
    assert e2e.max() <= 3
    assert tpot.mean() <= 1.5
    assert tpot.max() <= 3
    assert ttft.mean() <= 8
