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


def test_several_servers_are_told_with_their_link(coeffs: Path) -> None:
    alike = ok("simulate", "--coeffs", coeffs, "--load", LOAD, "--replicas", "2", "--router", "round-robin", "--json")
    assert alike.document["system"] == {"replicas": 2, "router": "round robin", "gpus": 2}
    two = ("--prefill-replicas", "1", "--decode-replicas", "1")
    found = ok("simulate", "--coeffs", coeffs, "--load", LOAD, *two, "--link", "12.5", "--json").document
    assert found["system"]["link_gb_per_s"] == 12.5
    assert found["schedule"]["transfer_ms"] > 0.6
    shown = ok("simulate", "--coeffs", coeffs, "--load", LOAD, *two, "--prefill-tp", "2")
    assert "1 prefill and 1 decode servers, least loaded" in " ".join(shown.out.split())
    assert "give --link what yours carries" in " ".join(shown.err.split())


def test_a_picture_is_written_where_it_was_asked_for(coeffs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    result = ok("simulate", "--coeffs", coeffs, "--load", LOAD, "--plot", picture)
    assert f"written: {picture}" in result.out
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("llama-2-7b-hf", "--gpu", "H100", "--load", LOAD, "--replicas", "0"), "0 replicas: expected 1 to 1000"),
        (
            ("llama-2-7b-hf", "--gpu", "H100", "--load", LOAD, "--replicas", "2", "--router", "dice"),
            "router 'dice': expected one of round robin, least loaded",
        ),
        (("--load", LOAD, "--router", "least-loaded"), "--router: expected --replicas, or --prefill-replicas"),
        (("--load", LOAD, "--prefill-replicas", "1"), "--decode-replicas missing"),
        (("--load", LOAD, "--link", "5"), "--link: expected --prefill-replicas and --decode-replicas"),
        (("--load", LOAD, "--prefill-tp", "2"), "another prefill server: expected --prefill-replicas"),
        (
            (
                *("llama-2-7b-hf", "--gpu", "H100", "--load", "closed:concurrency=2,input=9,output=9"),
                *("--prefill-replicas", "1", "--decode-replicas", "1"),
            ),
            "clients that wait for answers, beside prefill and decode servers",
        ),
        (("--load", LOAD), "MODEL and --gpu missing"),
        (("llama-2-7b-hf", "--gpu", "H100", "--load", "poisson:rate=x,input=1,output=1"), "rate 'x'"),
        (("llama-2-7b-hf", "--gpu", "H100", "--load", LOAD, "--slo", "p95"), "--slo 'p95'"),
        (("llama-2-7b-hf", "--gpu", "H100", "--load", LOAD, "--model", "other"), "expected one of them"),
        (("llama-2-70b-hf", "--gpu", "H100", "--load", LOAD), "does not fit on"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    assert message in fails("simulate", *arguments).err
