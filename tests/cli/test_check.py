"""`roofml check`: its exit status, its document and its picture; `evaluate --fail-above`."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import fails, ok, roofml, saturated_folder
from runfolder import Row, RunFolder, header, requests

pytestmark = pytest.mark.slow


def slower(by: float) -> list[Row]:
    """Other requests of the same quiet server, whose answers take so many times as long."""
    rows = requests(300, seed=1)
    for row in rows:
        lasted = int(row["last_chunk_time_us"]) - int(row["first_chunk_time_us"])  # pyright: ignore[reportArgumentType]
        row["last_chunk_time_us"] = int(row["first_chunk_time_us"]) + int(by * lasted)  # pyright: ignore[reportArgumentType]
    return rows


@pytest.fixture(scope="module")
def slow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RunFolder(rows=slower(1.2)).write(tmp_path_factory.mktemp("slow") / "slow")


def test_it_holds_on_another_run_of_the_same_server(coeffs: Path, tmp_path: Path) -> None:
    again = RunFolder(rows=slower(1.0)).write(tmp_path / "again")
    found = ok("check", again, "--coeffs", coeffs, "--json").document
    assert found["verdict"] == "holds"
    assert found["change_pct"]["interval_90"][0] < found["change_pct"]["value"] < found["change_pct"]["interval_90"][1]
    assert (found["component"], found["since_request"], found["plot"]) == (None, None, None)


def test_a_slower_server_ends_with_1_and_fail_above_says_from_when_on(slow_folder: Path, coeffs: Path) -> None:
    result = roofml("check", slow_folder, "--coeffs", coeffs, "--json")
    assert result.status == 1
    assert result.document["verdict"] in {"slower", "component"}
    assert result.document["change_pct"]["value"] == pytest.approx(20, abs=4)
    assert roofml("check", slow_folder, "--coeffs", coeffs, "--fail-above", 10).status == 1
    assert roofml("check", slow_folder, "--coeffs", coeffs, "--fail-above", 30).status == 0


def test_what_is_shown_fits_80_columns(slow_folder: Path, coeffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = roofml("check", slow_folder, "--coeffs", coeffs).out
    assert "fit this run" in " ".join(shown.split())


def test_another_deployment_is_told_and_not_refused(coeffs: Path, tmp_path: Path) -> None:
    head = header()
    head["server"]["model"] = "mistralai/Mistral-7B-v0.1"
    settings = RunFolder().exp_config
    assert settings is not None
    other = RunFolder(rows=requests(150), header=head, exp_config=settings | {"model": "mistralai/Mistral-7B-v0.1"})
    folder, picture = other.write(tmp_path / "other"), tmp_path / "picture.png"
    result = roofml("check", folder, "--coeffs", coeffs, "--json", "--plot", picture)
    assert result.status == 1
    assert result.document["verdict"] == "mismatch"
    assert result.document["change_pct"] == {"value": None, "interval_90": None}
    assert "not drawn" in result.err
    assert not picture.exists()
    assert roofml("check", folder, "--coeffs", coeffs, "--fail-above", 50).status == 1


def test_a_saturated_run_is_outside(coeffs: Path, tmp_path: Path) -> None:
    full = saturated_folder().write(tmp_path / "full")
    result = roofml("check", full, "--coeffs", coeffs, "--json")
    assert (result.status, result.document["verdict"]) == (1, "outside")


def test_a_picture_is_written_where_it_was_asked_for(slow_folder: Path, coeffs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    result = roofml("check", slow_folder, "--coeffs", coeffs, "--plot", picture)
    assert f"written: {picture}" in result.out
    assert picture.stat().st_size > 10_000


def test_bad_input_is_one_line(folder: Path, coeffs: Path, tmp_path: Path) -> None:
    short = RunFolder(rows=requests(40)).write(tmp_path / "short")
    assert "too short to check" in fails("check", short, "--coeffs", coeffs).err
    assert "no such file" in fails("check", folder, "--coeffs", tmp_path / "none.yaml").err
    assert "to judge by" in fails("check", folder, "--coeffs", coeffs, "--after", 1.0).err
    assert roofml("check", folder).status == 2


def test_evaluate_fails_above_a_limit_on_the_mean_e2e_error(slow_folder: Path, coeffs: Path, tmp_path: Path) -> None:
    command = ("evaluate", slow_folder, "--coeffs", coeffs)
    error = ok(*command, "--json").document["summary"]["e2e_mean"]["mean_abs_error_pct"]
    assert error > 5
    assert ok(*command, "--fail-above", error + 0.1).status == 0
    failed = roofml(*command, "--fail-above", error - 0.1, "--json")
    assert (failed.status, len(failed.document["runs"])) == (1, 1)
    full = saturated_folder().write(tmp_path / "full")
    assert "every run is saturated" in fails("evaluate", full, "--coeffs", coeffs, "--fail-above", 1).err
    points = fails("evaluate", "--points", tmp_path / "points.csv", "--fail-above", 1)
    assert "--fail-above has no place" in points.err
