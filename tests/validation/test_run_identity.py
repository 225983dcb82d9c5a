"""Two run folders of one name: whatever is learned of a server belongs to the recording and not to its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runfolder import Row, RunFolder, requests

from roofml.calibration.calibrate import fit, load, load_for_runs
from roofml.traces.read import read_run, read_runs
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.traces.server import ServerOverrides
from roofml.validation.cross_validation import lowo, temporal
from roofml.validation.evaluation import evaluate, replay_run

pytestmark = pytest.mark.slow

H100 = ServerOverrides(gpu="H100")


def slower(rows: list[Row], factor: float) -> list[Row]:
    """The requests on a server whose answers take so many times as long."""
    for row in rows:
        sent, last = int(str(row["send_time_us"])), int(str(row["last_chunk_time_us"]))
        row["last_chunk_time_us"] = sent + int(factor * (last - sent))
    return rows


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Other requests on another server, both called `run`."""
    place = tmp_path_factory.mktemp("of-one-name")
    one = RunFolder(rows=requests(150, seed=1, output=60)).write(place / "a" / "run")
    two = RunFolder(rows=slower(requests(150, seed=2, output=60), 1.02)).write(place / "b" / "run")
    return one, two


@pytest.fixture(scope="module")
def runs(folders: tuple[Path, Path]) -> tuple[Run, Run]:
    """Read one by one, so that nothing has told them apart."""
    one, two = (read_run(folder, gpu="H100") for folder in folders)
    assert one.name == two.name == "run"
    return one, two


def distinct(runs: tuple[Run, Run]) -> list[Run]:
    return [replace(run, name=name) for run, name in zip(runs, ("first", "second"), strict=True)]


def test_a_recording_is_known_by_what_was_measured(folders: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (read_run(folder, gpu="H100") for folder in folders)
    copied = read_run(shutil.copytree(folders[0], tmp_path / "copied"), gpu="H100")
    assert one.identity == copied.identity != two.identity
    assert one.take(one.arrival_us < one.arrival_us[75]).identity == one.identity


def test_runs_read_together_have_names_of_their_own(folders: tuple[Path, Path]) -> None:
    assert [run.name for run in read_runs(folders, H100)] == ["a/run", "b/run"]


def test_temporal_gives_each_run_of_one_name_its_own_pace(runs: tuple[Run, Run]) -> None:
    """To the last bit what the same runs come to under distinct names."""
    expected, (apart,) = temporal(distinct(runs), 0.6)
    found, (together,) = temporal(runs, 0.6)
    assert [replace(report, run=run.run) for report, run in zip(found, expected, strict=True)] == expected
    assert together.values.tolist() == apart.values.tolist()
    first, second = (together.pace_of(run) for run in runs)
    assert (first, second) == tuple(apart.pace_of(run) for run in distinct(runs))
    assert second > 1.005 * first


def test_temporal_is_the_same_for_runs_told_apart_by_their_folders(
    folders: tuple[Path, Path], runs: tuple[Run, Run]
) -> None:
    expected, _ = temporal(distinct(runs), 0.6)
    found, _ = temporal(read_runs(folders, H100), 0.6)
    assert [report.run for report in found] == ["a/run", "b/run"]
    assert [replace(report, run=run.run) for report, run in zip(found, expected, strict=True)] == expected


def test_leaving_a_workload_out_leaves_out_its_namesake_s_pace(runs: tuple[Run, Run]) -> None:
    expected, _ = lowo(distinct(runs))
    found, fits = lowo(runs)
    assert [replace(report, run=run.run) for report, run in zip(found, expected, strict=True)] == expected
    for left_out, fitted in zip(runs, fits, strict=True):
        assert fitted.pace_of(left_out) == 1.0


def test_a_fit_of_both_remembers_both(runs: tuple[Run, Run], tmp_path: Path) -> None:
    calibration = fit(runs)
    path = tmp_path / "c.yaml"
    calibration.save(path)
    for known in (calibration, load(path)):
        assert [run.name for run in known.runs] == ["a/run", "b/run"]
        assert [run.identity for run in known.runs] == [run.identity for run in runs]
        first, second = (known.pace_of(run) for run in runs)
        assert second > 1.005 * first
    reports = evaluate(load(path), runs).runs
    assert [report.run for report in reports] == ["a/run", "b/run"]
    assert len({report.metrics["e2e_mean"].predicted_us for report in reports}) == 2


def test_a_namesake_that_was_not_fitted_does_not_take_the_pace(
    folders: tuple[Path, Path], runs: tuple[Run, Run], tmp_path: Path
) -> None:
    """From a fit and from its file, and by `--coeffs`, which reads the runs anew."""
    fitted, namesake = runs
    elsewhere = replace(namesake, name="elsewhere")
    calibration = fit([fitted])
    path = tmp_path / "c.yaml"
    calibration.save(path)
    by_command, read = load_for_runs(path, read_runs(folders[1:], H100))
    assert by_command.pace_of(read[0]) == 1.0
    for known in (calibration, load(path)):
        assert known.pace_of(fitted) != 1.0
        (found,), (expected,) = evaluate(known, [namesake]).runs, evaluate(known, [elsewhere]).runs
        assert found == replace(expected, run="run")
        replayed = [replay_run(known, Selection.between(run)) for run in (namesake, elsewhere)]
        assert replayed[0].predicted.e2e_us.tolist() == replayed[1].predicted.e2e_us.tolist()
        assert replayed[0].warnings == replayed[1].warnings
