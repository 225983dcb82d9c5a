"""`roofml simulate`: its document, its picture, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import fails, ok

pytestmark = pytest.mark.slow

LOAD = "poisson:rate=4,input=300,output=40,requests=100"


def test_a_load_on_a_calibration(coeffs: Path) -> None:
    found = ok("simulate", "--coeffs", coeffs, "--load", LOAD, "--slo", "p95 ttft < 5s", "--json").document
    assert found["requests"] == found["judged"] == 100
    assert found["metrics"]["ttft_p95"]["predicted_us"] > 0
    assert found["goodput_per_s"] <= found["requests_per_s"]
    assert found["slos"] == [{"slo": "p95 ttft < 5s", "metric": "ttft_p95", "limit_us": 5e6, "met": True}]


def test_a_recorded_run_is_a_load_that_replay_serves_alike(folder: Path, coeffs: Path) -> None:
    found = ok("simulate", "--coeffs", coeffs, "--load", folder, "--gpu", "H100", "--json").document
    replayed = ok("replay", folder, "--coeffs", coeffs, "--json").document
    pace = 1.02  # replay knows how fast this very server was
    assert found["metrics"]["e2e_mean"]["predicted_us"] == pytest.approx(
        replayed["metrics"]["e2e_mean"]["predicted_us"], rel=pace - 1
    )


def test_a_model_without_a_trace_has_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ok("simulate", "llama-2-7b-hf", "--gpu", "H100", "--load", LOAD)
    assert "90 % interval" in shown.out
    rows = [line for line in shown.out.splitlines() if "TTFT" in line or "per s" in line]
    assert len(rows) == 7
    assert max(map(len, rows)) <= 80


def test_a_picture_is_written_where_it_was_asked_for(coeffs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    result = ok("simulate", "--coeffs", coeffs, "--load", LOAD, "--plot", picture)
    assert f"written: {picture}" in result.out
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--load", LOAD), "MODEL and --gpu missing"),
        (("llama-2-7b-hf", "--gpu", "H100", "--load", "poisson:rate=x,input=1,output=1"), "rate 'x'"),
        (("llama-2-7b-hf", "--gpu", "H100", "--load", LOAD, "--slo", "p95"), "--slo 'p95'"),
        (("llama-2-7b-hf", "--gpu", "H100", "--load", LOAD, "--model", "other"), "expected one of them"),
        (("llama-2-70b-hf", "--gpu", "H100", "--load", LOAD), "does not fit on"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    assert message in fails("simulate", *arguments).err
