"""`roofml evaluate --points`: measured points of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import fails, ok

pytestmark = pytest.mark.slow

POINTS = """model,gpu,load_kind,concurrency,isl,osl,mean_ttft_ms,mean_tpot_ms
llama-3.1-8b-instruct,H100,closed,2,256,32,60,7
llama-3.1-8b-instruct,Abacus,closed,2,256,32,60,7
"""


@pytest.fixture(name="points")
def points_file(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    path.write_text(POINTS)
    return path


def test_points_json_is_the_contract(points: Path) -> None:
    found = ok("evaluate", "--points", points, "--json").document
    assert set(found) == {"points", "summary"}
    first, second = found["points"]
    assert {"id", "answered", "refusal", "metrics"} <= set(first)
    assert set(first["metrics"]["tpot_mean"]) == {"measured_us", "predicted_us", "error_pct", "interval_90_us"}
    assert "Abacus" in second["refusal"]


def test_points_for_people(points: Path) -> None:
    text = ok("evaluate", "--points", points).out
    assert "median point" in text
    assert "not answered" in text


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (["--coeffs", "c.yaml"], "--coeffs has no place beside it"),
        (["--tp", "2"], "--tp has no place beside it"),
        (["--protocol", "lomo"], "--protocol has no place beside it"),
    ],
)
def test_rows_say_it_all(points: Path, beside: list[str], message: str) -> None:
    assert message in fails("evaluate", "--points", points, *beside).err


def test_nothing_to_judge() -> None:
    assert "give RUN..., or --points FILE" in fails("evaluate").err
    assert "--anchor: there are points to learn from with --points FILE alone" in fails("evaluate", "--anchor").err
