"""`roofml.planning.drift`: whether a calibration still holds on a new run, and what is said where it does not."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from drifted import REQUESTS, calibrated, changed, serve
from fitted import VALID, a_calibration
from rich.console import Console

from roofml.calibration.calibrate import physics
from roofml.calibration.posterior import posterior_of
from roofml.calibration.prior import PACKAGE
from roofml.planning.drift import Drift, check, check_file
from roofml.planning.drift_picture import plot_drift
from roofml.traces.run import Run
from roofml.util.errors import InputError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1])
def test_it_holds_on_a_run_of_the_same_server(seed: int) -> None:
    drift = check(calibrated(), serve(seed=seed))
    assert (drift.verdict, drift.component, drift.since_request) == ("holds", None, None)
    assert drift.interval_90_pct is not None
    low, high = drift.interval_90_pct
    assert -2 < low < high < 2
    assert not drift.fails()
    assert "would have shown" in drift.reasons[0]


def test_servers_of_a_kind_differ_a_little() -> None:
    assert check(calibrated(), serve(pace=1.003)).verdict == "holds"


@pytest.mark.parametrize(("pace", "verdict"), [(1.03, "slower"), (0.97, "faster"), (1.5, "slower")])
def test_a_server_of_another_pace_is_found(pace: float, verdict: str) -> None:
    drift = check(calibrated(), serve(pace=pace))
    assert (drift.verdict, drift.component, drift.since_request) == (verdict, None, 0)
    assert drift.value_pct == pytest.approx(100 * (pace - 1), abs=1.0)
    assert drift.fails()
    assert drift.advice
    assert ("another" in " ".join(drift.reasons) or "between two GPUs" in " ".join(drift.reasons)) == (pace > 1.35)


def test_a_change_in_the_middle_is_dated() -> None:
    run = serve(later=0.04)
    drift = check(calibrated(), run)
    assert drift.verdict == "slower"
    assert drift.since_request is not None
    half = int(np.searchsorted(run.arrival_us, 0.5 * run.arrival_us[-1]))
    assert abs(drift.since_request - half) < 0.1 * REQUESTS
    assert drift.value_pct == pytest.approx(4.0, abs=1.0)


def test_a_component_that_the_load_tells_is_named() -> None:
    drift = check(calibrated(), serve(changed(mixed_step_us=3000.0)))
    assert "mixed_step_us" in drift.nameable
    assert (drift.verdict, drift.component) == ("component", "mixed_step_us")


def test_a_front_end_that_got_slower_is_named_though_steps_are_as_they_were() -> None:
    drift = check(calibrated(), serve(changed(queueing_us=60_000.0)))
    assert (drift.verdict, drift.component) == ("component", "queueing_us")
    assert "time to first token" in drift.reasons[0]


def test_what_the_load_does_not_tell_apart_is_not_named() -> None:
    """Weights are read in every step, and every step has a cost of its own."""
    drift = check(calibrated(), serve(changed(per_step_us=1200.0)))
    assert (drift.verdict, drift.component) == ("slower", None)
    assert {"weights", "per_step_us"} <= set(drift.explained_as_well)


def test_a_host_that_paused_is_no_drift() -> None:
    assert check(calibrated(), serve(pause_us=2e6)).verdict == "holds"


def other(run: Run, **server: object) -> Run:
    return replace(run, server=replace(run.server, **server))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"model": "mistralai/Mistral-7B-v0.1"}, "model: the run is of mistral-7b-v0.1"),
        ({"model": "no/such-model"}, "model: the run is of no/such-model"),
        ({"gpu": "A100-80GB"}, "GPU: the run is of A100"),
        ({"tensor_parallel": 2}, "tensor parallel size: the run has 2"),
    ],
)
def test_another_deployment_is_a_verdict_and_no_error(server: dict[str, object], said: str) -> None:
    drift = check(calibrated(), other(serve(), **server))
    assert drift.verdict == "mismatch"
    assert said in drift.reasons[0]
    assert (drift.value_pct, drift.interval_90_pct) == (None, None)
    assert drift.fails(1.0)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"engine_version": "0.17.0"}, "engine version"),
        ({"engine": "sglang", "engine_version": None}, "engine: the run was served by sglang"),
        ({"kv_dtype": "fp8"}, "KV cache"),
    ],
)
def test_another_engine_is_a_mismatch_and_what_it_costs_is_said(server: dict[str, object], said: str) -> None:
    calibration = calibrated()
    engine = replace(calibration.deployment.engine, version="0.15.1")
    calibration = replace(calibration, deployment=replace(calibration.deployment, engine=engine))
    assert check(calibration, other(serve(), engine_version="0.15.2")).verdict == "holds"
    drift = check(calibration, other(serve(pace=1.05), **server))
    assert drift.verdict == "mismatch"
    assert said in drift.reasons[0]
    assert drift.value_pct == pytest.approx(5.0, abs=1.0)


def test_a_load_outside_of_the_calibrated_range_is_told() -> None:
    run = serve()
    narrow = a_calibration([run], pace=None, valid=VALID | {"batch": (1, 3)})
    drift = check(narrow, replace(run, identity="other"))
    assert drift.verdict == "outside"
    assert "the fit has seen 1 to 3" in drift.reasons[0]


def test_a_saturated_run_is_outside() -> None:
    drift = check(calibrated(), replace(serve(), saturated=True))
    assert (drift.verdict, drift.value_pct) == ("outside", None)
    assert "queue grew" in drift.reasons[0]


def test_a_run_that_says_too_little_is_refused_and_told_what_would_do() -> None:
    run = serve(requests=60)
    with pytest.raises(InputError, match=r"too short to check: .* expected at least 50; record 1,000 requests"):
        check(calibrated(), run)
    nothing = replace(run, ok=np.zeros(60, np.bool_))
    with pytest.raises(InputError, match="no successful request"):
        check(calibrated(), nothing)
    warm_up = replace(run, ok=np.arange(60) >= 58)
    with pytest.raises(InputError, match="too short to check"):
        check(calibrated(), warm_up)
    pieces = serve()
    pieces = replace(pieces, ttft_us=pieces.e2e_us.copy())
    with pytest.raises(InputError, match="with a decode time"):
        check(calibrated(), pieces)


def test_noise_that_hides_a_change_is_not_taken_for_one_that_is_not_there() -> None:
    run = serve(requests=120)
    random = np.random.default_rng(0)
    noisy = replace(run, e2e_us=run.ttft_us + (run.e2e_us - run.ttft_us) * np.exp(0.5 * random.standard_normal(120)))
    with pytest.raises(InputError, match=r"too short to check: .* record \d+ times as many"):
        check(calibrated(), noisy)


def test_physics_alone_cannot_stop_to_hold() -> None:
    alone = replace(physics("llama-2-7b-hf", "H100"), posterior=posterior_of(PACKAGE))
    with pytest.raises(InputError, match="nothing was fitted"):
        check(alone, serve())


@pytest.mark.parametrize(
    ("interval", "above", "fails"),
    [
        ((1.0, 2.0), None, True),
        ((1.0, 2.0), 1.5, False),
        ((1.6, 2.0), 1.5, True),
        ((-2.0, -1.6), 1.5, True),
        ((-2.0, -1.4), 1.5, False),
        (None, 1.5, True),
    ],
)
def test_fail_above_asks_for_a_change_that_is_surely_larger(
    interval: tuple[float, float] | None, above: float | None, fails: bool
) -> None:
    drift = Drift("run", "file", "slower", ("Slower.",), 1.0, interval)
    assert drift.fails(above) is fails
    assert not replace(drift, verdict="holds").fails()


def test_the_document_is_the_contract_and_the_table_fits_a_terminal() -> None:
    drift = check(calibrated(), serve(pace=1.03))
    document = drift.to_dict()
    assert list(document)[:4] == ["verdict", "change_pct", "component", "since_request"]
    assert set(document["change_pct"]) == {"value", "interval_90"}
    text = StringIO()
    console = Console(file=text, width=80)
    for table in drift.tables():
        console.print(table.rich(screen=True))
    assert max(map(len, text.getvalue().splitlines())) <= 80
    assert "slower" in text.getvalue()
    assert "fit this run" in text.getvalue()


def test_a_file_of_another_deployment_is_a_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "coefficients.yaml"
    calibrated().save(path)
    assert check_file(path, serve()).verdict == "holds"
    assert check_file(path, other(serve(), model="mistralai/Mistral-7B-v0.1")).verdict == "mismatch"


def test_the_same_run_gives_the_same_verdict_to_the_bit() -> None:
    assert check(calibrated(), serve()).to_dict() == check(calibrated(), serve()).to_dict()


def test_a_picture_is_drawn_of_what_was_compared(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "drift.png"
    plot_drift(check(calibrated(), serve(later=0.04)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="nothing to draw"):
        plot_drift(check(calibrated(), other(serve(), tensor_parallel=2)), tmp_path / "none.png")
    with pytest.raises(InputError, match="cannot draw"):
        plot_drift(check(calibrated(), serve()), tmp_path / "drift.nothing")
