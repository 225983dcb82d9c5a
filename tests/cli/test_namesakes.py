"""Two run folders of one name: each is itself, by what was measured, wherever a run is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commandline import ok, read_yaml
from runfolder import Row, RunFolder, requests

from roofml.calibration.calibrate import load
from roofml.calibration.coefficients import read_coefficients
from roofml.traces.read import read_run

pytestmark = pytest.mark.slow


def slower(rows: list[Row], by: float) -> list[Row]:
    """The same requests on a server whose every token takes so many times as long."""
    changed: list[Row] = []
    for row in rows:
        first, last = int(str(row["first_chunk_time_us"])), int(str(row["last_chunk_time_us"]))
        changed.append(row | {"last_chunk_time_us": first + round((last - first) * by)})
    return changed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """a/run, and b/run of a slower server."""
    place = tmp_path_factory.mktemp("namesakes")
    rows = requests(120)
    return RunFolder(rows=rows).write(place / "a" / "run"), RunFolder(rows=slower(rows, 1.1)).write(place / "b" / "run")


@pytest.fixture(scope="module")
def both(runs: tuple[Path, Path]) -> Path:
    """Coefficients of the two, for BLIS too."""
    path = runs[0].parents[1] / "both.yaml"
    ok("fit", *runs, "--gpu", "H100", "--target", "blis", "-o", path, "--quiet")
    return path


def predicted(run: Path, coeffs: Path) -> float:
    return ok("replay", run, "--coeffs", coeffs, "--json").document["metrics"]["e2e_mean"]["predicted_us"]


def test_fit_keeps_them_apart(runs: tuple[Path, Path]) -> None:
    found = ok("fit", *runs, "--gpu", "H100", "--json").document
    fit = found["coefficients"]["fit"]
    assert fit["runs"] == ["a/run", "b/run"]
    assert list(fit["paces"]) == list(fit["run_sha256"]) == list(fit["error_pct"]) == ["a/run", "b/run"]
    assert fit["paces"]["a/run"] < 1 < fit["paces"]["b/run"]
    assert fit["run_sha256"]["a/run"] != fit["run_sha256"]["b/run"]
    assert [run["run"] for run in found["runs"]] == ["a/run", "b/run"]
    shown = read_yaml(ok("fit", *runs, "--gpu", "H100", "--quiet").out)
    assert shown["fit"]["runs"] == ["a/run", "b/run"]


@pytest.mark.parametrize("how", [["--gpu", "H100", "--protocol", "temporal"], ["--coeffs"], ["--gpu", "H100"]])
def test_evaluate_names_them_apart(runs: tuple[Path, Path], both: Path, how: list[str]) -> None:
    line = ["evaluate", *runs, *how, *([both] if how == ["--coeffs"] else [])]
    found = ok(*line, "--json").document["runs"]
    assert [run["run"] for run in found] == ["a/run", "b/run"]
    measured = [run["metrics"]["e2e_mean"]["measured_us"] for run in found]
    assert measured[0] < measured[1]
    shown = ok(*line).out
    assert " a/run " in shown
    assert " b/run " in shown


def test_identify_takes_them_both(runs: tuple[Path, Path]) -> None:
    assert ok("identify", *runs, "--gpu", "H100", "--no-profiles", "--json").document["requests"] == 240


def test_doctor_names_them_apart(runs: tuple[Path, Path]) -> None:
    assert [run["run"] for run in ok("doctor", *runs, "--json").document["runs"]] == ["a/run", "b/run"]


def test_each_is_replayed_at_its_own_pace(runs: tuple[Path, Path], both: Path) -> None:
    paces = read_coefficients(both).fit.paces
    fast, slow = (predicted(run, both) for run in runs)
    assert fast < slow
    assert slow / fast == pytest.approx(paces["b/run"] / paces["a/run"], rel=0.05)


def test_a_namesake_that_was_not_fitted_has_no_pace(runs: tuple[Path, Path], both: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.yaml"
    ok("fit", runs[1], "--gpu", "H100", "-o", one, "--quiet")
    assert read_coefficients(one).fit.paces.keys() == {"run"}
    stranger = RunFolder(rows=slower(requests(120), 1.3)).write(tmp_path / "c" / "run")
    for path in (one, both):
        calibration = load(path)
        run = read_run(stranger, gpu="H100")
        assert calibration.pace_of(run) == 1.0
        assert predicted(stranger, path) == pytest.approx(float(np.mean(calibration.replay(run).e2e_us)))
        assert "pace" not in ok("replay", stranger, "--coeffs", path, "--json").err
    fast, slow = (predicted(run, both) for run in runs)
    assert fast < predicted(stranger, both) < slow


def test_a_recording_that_was_fitted_has_its_pace_wherever_it_lies(
    runs: tuple[Path, Path], both: Path, tmp_path: Path
) -> None:
    moved = RunFolder(rows=slower(requests(120), 1.1)).write(tmp_path / "moved")
    assert predicted(moved, both) == predicted(runs[1], both)


def test_one_recording_under_two_paths_is_a_warning(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copy = RunFolder(rows=requests(120)).write(tmp_path / "copy" / "run")
    result = ok("fit", runs[0], copy, "--gpu", "H100", "--json")
    assert f"warning: copy/run: This is the same recording as {runs[0]}" in " ".join(result.err.split())
    assert result.document["coefficients"]["fit"]["runs"] == ["a/run", "copy/run"]
    assert result.document["coefficients"]["fit"]["requests"] == 240


def test_coefficients_of_namesakes_are_exported(both: Path, tmp_path: Path) -> None:
    found = ok("export", "blis", both, "-o", tmp_path, "--json").document
    assert found["exports"][0]["model"] == "llama-2-7b-hf"
    assert (tmp_path / "llama-2-7b-hf-h100-tp1.defaults.yaml").exists()
    assert "--beta-coeffs" in ok("export", "blis", both, "--flags").out
