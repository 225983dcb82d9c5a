"""`roofml plan`: its table, its document, its picture, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import fails, ok

pytestmark = pytest.mark.slow

ASKED = ("llama-2-7b-hf", "--gpu", "H100", "--load", "poisson:rate=1,input=300,output=40", "--slo", "p95 ttft < 500ms")


def test_a_plan(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plan.png"
    found = ok("plan", *ASKED, "--rate", 100, "--price", "H100=2.5", "--json", "--plot", picture).document
    (candidate,) = found["candidates"]
    assert candidate["replicas"] >= 1
    assert candidate["cost_per_hour"] == 2.5 * candidate["replicas"]
    assert found["refused"] == []
    assert picture.stat().st_size > 10_000


def test_a_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ok("plan", *ASKED, "--rate", 100, "--price", "H100=2.5").out
    rows = [line for line in shown.splitlines() if line.lstrip().startswith(("1 x H100 ", "candidate "))]
    assert len(rows) == 2
    assert max(map(len, rows)) <= 80


def test_what_cannot_be_is_refused_in_one_line() -> None:
    assert "no load meets it" in fails("plan", *ASKED[:-1], "p95 ttft < 1ms").err
    assert "--price 'H100'" in fails("plan", *ASKED, "--price", "H100").err
    assert "MODEL and --gpu missing" in fails("plan", *ASKED[3:]).err
