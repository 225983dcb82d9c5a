"""A fit that does not describe its runs says so, and why; one that does says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fitted import VALID, measured_again
from served import served

from roofml.calibration.calibrate import calibrated, fit, load
from roofml.calibration.calibration import Calibration
from roofml.calibration.measured_load import decode_ratio
from roofml.calibration.posterior import posterior_of
from roofml.calibration.prior import PACKAGE, Prior
from roofml.latency.batch import Batch
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import NAMES, PRIOR_VALUES
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.errors import JobFailedError

REQUESTS = 600


@pytest.fixture(scope="module")
def good() -> Run:
    return served(REQUESTS)


def as_fitted(run: Run, learned_from: dict[str, object] | None = None) -> Calibration:
    """What a fit that ends at the true parameters says of a run: no time is spent on fits here."""
    learned = learned_from or {"requests": len(run), "paces": {run.identity: 1.0}}
    found = {"values": PRIOR_VALUES, "valid": VALID, **learned}
    posterior = replace(posterior_of(PACKAGE), **found)
    return calibrated(deployment_of([run]), posterior, [run])


def times(run: Run, factor: float) -> Run:
    return measured_again(
        run, arrival_us=run.arrival_us * factor, ttft_us=run.ttft_us * factor, e2e_us=run.e2e_us * factor
    )


def of_server(**changes: object) -> Callable[[Run], Run]:
    return lambda run: measured_again(run, server=replace(run.server, **changes))


def shuffled(run: Run) -> Run:
    order = np.random.default_rng(0).permutation(len(run))
    return measured_again(run, ttft_us=run.ttft_us[order], e2e_us=run.e2e_us[order])


def late(run: Run, us: float, after: int = 0) -> Run:
    added = np.where(np.arange(len(run)) >= after, us, 0.0)
    return measured_again(run, ttft_us=run.ttft_us + added, e2e_us=run.e2e_us + added)


@pytest.mark.parametrize("requests", [50, 100, REQUESTS])
def test_a_good_fit_is_not_refused(good: Run, requests: int) -> None:
    run = good.take(np.arange(len(good)) < requests)
    assert as_fitted(run).misfit == ()
    assert decode_ratio(Selection.between(run), deployment_of([run]).tables, PRIOR_VALUES) == pytest.approx(1, abs=0.03)


SPOILED: dict[str, tuple[Callable[[Run], Run], str]] = {
    "times in ns": (lambda run: times(run, 1e3), "they look like ns, expected µs"),
    "times in ms": (lambda run: times(run, 1e-3), "they look like ms, expected µs"),
    "times in s": (lambda run: times(run, 1e-6), "they look like s, expected µs"),
    "latencies thrice": (
        lambda run: measured_again(run, ttft_us=3 * run.ttft_us, e2e_us=3 * run.e2e_us),
        "times as long as physics says of llama-2-7b-hf on H100, TP 1",
    ),
    "another GPU": (of_server(gpu="A100-SXM"), "They fit H100, TP 1"),
    "a faster GPU": (of_server(gpu="B200"), "times as long as physics says of llama-2-7b-hf on B200"),
    "more GPUs": (of_server(tensor_parallel=4), "They fit H100, TP 1"),
    "another model": (of_server(model="llama-2-70b-hf", tensor_parallel=4), "is it another model or GPU"),
    "a limit of requests": (of_server(max_num_seqs=2), "limits: "),
    "few blocks": (of_server(num_gpu_blocks=70), "are the limits (max_num_seqs 64, max_num_batched_tokens 2048, "),
    "chunks seconds late": (lambda run: late(run, 2e7), "another clock"),
    "a clock that jumps": (lambda run: late(run, 1e8, after=300), "another clock"),
    "latencies of others": (shuffled, "shuffled or joined by the wrong key"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_run_is_named_with_what_looks_wrong(good: Run, name: str) -> None:
    spoil, expected = SPOILED[name]
    misfit = as_fitted(spoil(good)).misfit
    assert len(misfit) == 1
    assert misfit[0].startswith("served: ")
    assert expected in misfit[0]
    assert "\n" not in misfit[0]


def test_a_fit_of_steps_alone_is_judged_by_what_steps_say(good: Run) -> None:
    """Only time per output token: how long requests wait for the first one, sampled steps do not say."""
    steps_alone: dict[str, object] = {"requests": 0, "paces": {}}
    assert as_fitted(late(good, 2e7), steps_alone).misfit == ()
    few = measured_again(good, output_tokens=np.maximum(good.output_tokens * 77 // 100, 2))
    assert "mean TPOT is " in as_fitted(few, steps_alone).misfit[0]


def test_parameters_far_from_everything_known_are_absurd_even_where_they_describe_the_run(good: Run) -> None:
    run = good.take(np.arange(len(good)) < 60)
    sure = Prior(PACKAGE.mean, PACKAGE.covariance / 400, "very sure")
    moved = PRIOR_VALUES.copy()
    moved[NAMES.index("kv_cache")] *= 1.05
    posterior = replace(posterior_of(sure), values=moved, requests=len(run), paces={run.identity: 1.0})
    misfit = calibrated(deployment_of([run]), posterior, [run]).misfit
    assert len(misfit) == 1
    assert "absurd physics: " in misfit[0]
    assert "most kv_cache, 1.05 where 1 was expected" in misfit[0]


def test_numbers_that_are_none_are_a_misfit(good: Run) -> None:
    run = good.take(np.arange(len(good)) < 60)
    posterior = replace(posterior_of(PACKAGE), requests=60, paces={run.identity: float("inf")})
    from roofml.calibration.judge import judge

    assert "no numbers" in judge(deployment_of([run]), posterior, [], [])[0]


def test_one_server_among_others_that_is_another(good: Run) -> None:
    run = good.take(np.arange(len(good)) < 60)
    posterior = replace(posterior_of(PACKAGE), requests=60, paces={run.identity: 1.6})
    misfit = calibrated(deployment_of([run]), posterior, [run]).misfit
    assert any("its server takes 1.6 times as long for a step" in sentence for sentence in misfit)


def test_a_misfit_is_written_only_where_it_is_accepted_and_says_so_for_ever(good: Run, tmp_path: Path) -> None:
    run = good.take(np.arange(len(good)) < 60)
    calibration = as_fitted(measured_again(run, ttft_us=3 * run.ttft_us, e2e_us=3 * run.e2e_us))
    path = tmp_path / "coefficients.yaml"
    with pytest.raises(JobFailedError, match="does not describe its runs: served: decode times are 2"):
        calibration.save(path)
    assert list(tmp_path.iterdir()) == []
    calibration.save(path, accept_misfit=True)
    loaded = load(path)
    assert loaded.misfit == calibration.misfit
    assert loaded.to_dict()["fit"]["misfit"] == list(calibration.misfit)
    doubt = f"{path}: this fit does not describe its runs: {calibration.misfit[0]}"
    assert doubt in loaded.warnings_for(run)
    assert doubt in loaded.step_time(Batch([], [(700, 8)])).outside
    loaded.save(tmp_path / "again.yaml", accept_misfit=True)
    assert (tmp_path / "again.yaml").read_text() == path.read_text()


@pytest.mark.exhaustive
def test_fits_of_good_and_of_spoiled_runs_end_alike(good: Run) -> None:
    """The same through the fit itself, which bends parameters as far as it can before it is judged."""
    run = good.take(np.arange(len(good)) < 300)
    assert fit([run]).misfit == ()
    for name in ("latencies thrice", "more GPUs", "latencies of others"):
        spoil, _ = SPOILED[name]
        assert fit([spoil(good)]).misfit, name
