"""A catalogue is the same to the byte whoever computes it, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from commandline import ok, roofml
from fleet import (
    SMALL,
    bytes_of,
    copy_of,
    done,
    environment,
    kept,
    kill,
    scheduler,
    started,
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
    assert set(reasons) == {".", "broken/cut", "broken/unknown-model", "eager/run"}
    assert len(reasons) == len(said["failures"])
    assert "does not describe its runs" in reasons["eager/run"]
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


def test_a_real_cluster_makes_the_same_bytes_though_its_scheduler_and_a_worker_die(
    runs: Path, made: Made, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    with scheduler(tmp_path, workers=2) as (address, main, _workers):
        process = started(runs, "-o", catalog, "--scheduler", address)
        wait_for(lambda: kept(catalog) >= 6, process)  # all is read, and fits have begun
        kill(main)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "the scheduler went away" in err
    assert "run the same command again to go on" in err
    assert not (catalog / "index.parquet").exists()
    known = kept(catalog)
    with scheduler(tmp_path, workers=2) as (address, _main, workers):
        process = started(runs, "-o", catalog, "--scheduler", address, "--json")
        wait_for(lambda: kept(catalog) > known, process)
        kill(workers[0])
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert json.loads(out)["computed"] > 0
    assert bytes_of(catalog) == bytes_of(made[0])


@pytest.fixture(scope="module")
def store() -> Generator[dict[str, str]]:
    """Environment of a real S3-compatible server on loopback."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    try:

        def answers() -> bool:
            with socket.socket() as connection:
                return connection.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        kill(server)


COPY = """
import sys, fsspec
system, way, here, there = fsspec.filesystem("s3"), *sys.argv[1:]
if way == "put":
    system.mkdir("roofml")
    system.put(here, there, recursive=True)
elif way == "get":
    system.get(there, here, recursive=True)
else:
    print(len(system.find(there)))
"""


def s3(store: dict[str, str], *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", COPY, *arguments], env=environment(**store), check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.exhaustive
def test_an_object_store_is_read_and_written_and_a_killed_command_goes_on(
    runs: Path, made: Made, store: dict[str, str], tmp_path: Path
) -> None:
    s3(store, "put", f"{runs}/", "roofml/runs/")
    where = ("s3://roofml/runs", "-o", "s3://roofml/catalog", "--workers", 2)
    process = started(*where, **store)
    wait_for(lambda: int(s3(store, "count", "", "roofml/catalog") or 0) >= 6, process)
    workers = children(process.pid)
    assert workers
    os.kill(process.pid, 9)
    process.communicate(timeout=60)
    wait_for(lambda: not any(alive(worker) for worker in workers))  # nobody is left behind
    assert done(*where, **store)["computed"] > 0
    s3(store, "get", f"{tmp_path}/", "roofml/catalog/")
    assert bytes_of(tmp_path) == bytes_of(made[0])


def children(parent: int) -> list[int]:
    """Processes that a process started."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


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
