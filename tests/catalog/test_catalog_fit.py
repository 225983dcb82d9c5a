"""A catalogue is the same to the byte whoever computes it, and goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commandline import ok, roofml
from fleet import (
    SMALL,
    bytes_of,
    copy_of,
    done,
    fetched,
    files_of,
    kept,
    kill,
    put,
    scheduler,
    started,
    store,
    wait_for,
    write_fleet,
    write_run,
)

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'roofml[cluster]'")

from roofml.catalog.index import read_index
from roofml.jobs.places import LocalPlace

pytestmark = pytest.mark.slow

CHAT, CODE = "llama-2-7b-hf-h100-tp1", "codellama-34b-instruct-hf-h100-tp2"
Made = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fleet(tmp_path_factory.mktemp("fleet") / "runs")


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The catalogue by one worker of an embedded cluster, and what the command said."""
    catalog = tmp_path_factory.mktemp("made") / "catalog"
    return catalog, done(runs, "-o", catalog, "--workers", 1)


def test_every_deployment_is_calibrated_and_judged(made: Made) -> None:
    catalog, said = made
    rows = {row["name"]: row for row in said["deployments"]}
    assert {name: row["runs"] for name, row in rows.items()} == {CHAT: 2, CODE: 1}
    assert {row["model"] for row in rows.values()} == {"llama-2-7b-hf", "codellama-34b-instruct-hf"}
    for row in rows.values():
        assert (catalog / "coeffs" / f"{row['name']}.yaml").exists()
        assert row["held_out_e2e_pct"] < 5
        assert row["untraced_e2e_pct"] > row["held_out_e2e_pct"]
        assert row["drift_pct"] is None
    assert rows[CHAT]["recorded"] == "2026-02-18"
    assert [row.to_dict() for row in read_index(LocalPlace(catalog), "index.parquet")] == said["deployments"]


def test_what_cannot_be_used_is_listed_with_its_reason(made: Made) -> None:
    catalog, said = made
    reasons = {failure["folder"]: failure["reason"] for failure in said["failures"]}
    assert set(reasons) == {".", "broken/cut", "broken/unknown-model", "odd/run"}
    assert len(reasons) == len(said["failures"])
    assert "does not describe its runs" in reasons["odd/run"]
    assert "Nothing-1b" in reasons["broken/unknown-model"]
    assert "not a run" in reasons["."]
    assert json.loads((catalog / "failures.json").read_text())["failures"] == said["failures"]
    page = (catalog / "index.html").read_text()
    assert "broken/unknown-model" in page


def test_a_second_time_computes_nothing_and_changes_nothing(runs: Path, made: Made, tmp_path: Path) -> None:
    catalog = shutil.copytree(made[0], tmp_path / "catalog")
    before = bytes_of(catalog)
    assert done(runs, "-o", catalog)["computed"] == 0
    assert bytes_of(catalog) == before


@pytest.fixture(scope="module")
def stopped(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """What a command left whose cluster lost first a worker and then its scheduler, its exit status and its errors."""
    folder = tmp_path_factory.mktemp("stopped")
    catalog = folder / "catalog"
    with scheduler(folder, workers=2) as (address, main, workers):
        process = started(runs, "-o", catalog, "--scheduler", address)
        wait_for(lambda: kept(catalog) >= 3, process)
        kill(workers[0])
        wait_for(lambda: kept(catalog) >= 8, process)  # the other goes on: all is read, and fits have begun
        kill(main)
        _, err = process.communicate(timeout=120)
    return catalog, process.returncode, err


def test_without_its_scheduler_a_command_ends_with_what_it_has(stopped: tuple[Path, int, str]) -> None:
    catalog, status, err = stopped
    assert status == 1, err
    assert "the scheduler went away" in err
    assert "run the same command again to go on" in err
    assert not (catalog / "index.parquet").exists()


def test_a_real_cluster_goes_on_in_an_object_store_and_makes_the_same_bytes(
    runs: Path, made: Made, stopped: tuple[Path, int, str], tmp_path: Path
) -> None:
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    with store() as (server, variables), scheduler(tmp_path, workers=1, **variables) as (address, _main, _workers):
        put(server, "roofml", "runs", files_of(runs))
        put(server, "roofml", "catalog", files_of(stopped[0]))
        where = ("s3://roofml/runs", "-o", "s3://roofml/catalog", "--scheduler", address)
        said = done(*where, **variables)
        files = fetched(server, "roofml", "catalog")
    assert 0 < said["computed"] < made[1]["computed"]
    assert {name: content for name, content in files.items() if not name.startswith("work/")} == bytes_of(made[0])
    assert len([name for name in files if name.startswith("work/")]) == kept(made[0])


def test_new_runs_are_checked_by_the_calibrations_of_their_deployments(made: Made, tmp_path: Path) -> None:
    catalog, summary, new = made[0], tmp_path / "summary.md", tmp_path / "new"
    slow = write_run(new / "slow", SMALL, 12, slower=1.3, requests=400)
    write_run(new / "other", ("meta-llama/Llama-2-7b-hf", 2, 20_000, 8_000), 13)
    checked = roofml("catalog", "check", catalog, new, "-o", summary, "--json")
    by_itself = roofml("check", slow, "--coeffs", catalog / "coeffs" / f"{CHAT}.yaml", "--json")
    assert (checked.status, by_itself.status) == (1, 1)
    (run,) = checked.document["runs"]
    assert (run.pop("folder"), run.pop("deployment")) == ("slow", CHAT)
    assert run == {name: value for name, value in by_itself.document.items() if name != "plot"}
    assert run["change_pct"]["value"] > 20
    (unchecked,) = checked.document["not_checked"]
    assert unchecked["folder"] == "other"
    assert "no calibration of its deployment" in unchecked["reason"]
    assert f"| slow | {CHAT} | {run['verdict']} |" in summary.read_text()
    assert ok("catalog", "check", catalog, new, "--fail-above", 50, "--json").document == {
        **checked.document,
        "output": None,
    }
    assert roofml("catalog", "check", catalog, new / "other").status == 1  # nothing was checked


@pytest.mark.exhaustive
def test_changed_runs_are_computed_anew_and_drift_is_told(runs: Path, made: Made, tmp_path: Path) -> None:
    """A slower server's runs in place of the old ones; and a copy of a run counts once."""
    catalog = shutil.copytree(made[0], tmp_path / "catalog")
    fleet = tmp_path / "runs"
    shutil.copytree(runs / "code", fleet / "code")
    write_run(fleet / "chat" / "20260301-a", SMALL, 1, slower=1.05)
    copy_of(fleet / "code" / "run", fleet / "again")
    said = done(fleet, "-o", catalog, "--workers", 1)
    rows = {row["name"]: row for row in said["deployments"]}
    assert set(rows) == {CHAT, CODE}
    assert 2 < rows[CHAT]["drift_pct"] < 8
    assert sorted(path.stem for path in (catalog / "coeffs").iterdir()) == sorted(rows)
    assert [(f["folder"], "counted once" in f["reason"]) for f in said["failures"]] == [("code/run", True)]
    before = bytes_of(catalog)
    assert done(fleet, "-o", catalog)["computed"] == 0
    assert bytes_of(catalog) == before  # drift too
