"""The way of a newcomer in an empty folder, with the real BLIS where there is one, else with what stands in for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blis_defaults import SET
from commandline import ROOT
from fitted import a_run

from roofml.blis.deployment import blis_deployment_of
from roofml.blis.replay import for_blis, replay
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport
from roofml.export.edit import carry_out
from roofml.export.folder import folder_edits
from roofml.export.trace import TraceFiles, write_trace
from roofml.traces.run import Run

STAND_IN = [sys.executable, ROOT / "benchmarks" / "blis_stand_in.py"]
EXPORT = BlisExport(ModelEntry("llama-2-7b-hf", "H100", 1, ""), SET, 5000, 16, 64, 2048, 4096)


def in_turn(*words: object, cwd: Path | None = None, ok: bool = True) -> subprocess.CompletedProcess[str]:
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, cwd=cwd, env=path)
    assert (done.returncode == 0) is ok, done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    carry_out(lambda: [], folder_edits(EXPORT, tmp_path / "blis"))
    return tmp_path / "blis"


def as_served(requests: int = 30) -> Run:
    """A run that took what BLIS says of it."""
    run = a_run(requests)
    served = replay(for_blis(run), blis_deployment_of(run), SET.alphas, SET.betas)
    return replace(run, ttft_us=served.ttft_us, e2e_us=served.e2e_us)


def replayed(folder: Path, files: TraceFiles, *more: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    trace = ["--trace-header", files.header, "--trace-data", files.replay, "--results-path", folder / "results.json"]
    return in_turn("sh", folder / "run.sh", "replay", *trace, *more, cwd=folder.parent, ok=ok)


@pytest.fixture
def with_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `blis` that is the stand-in."""
    blis = tmp_path / "stands in"
    blis.write_text(f'#!/bin/sh\nexec "{STAND_IN[0]}" "{STAND_IN[1]}" "$@"\n')
    blis.chmod(0o755)
    monkeypatch.setenv("ROOFML_BLIS", str(blis))


@pytest.mark.skipif(os.name == "nt", reason="a script of the shell")
@pytest.mark.usefixtures("with_stand_in")
def test_the_folder_and_the_trace_replay_to_the_run_itself(folder: Path) -> None:
    """What run.sh hands to blis, read from the files as blis reads them, is the deployment; its answers are the run."""
    run = as_served()
    files = write_trace(run, folder)
    replayed(folder, files)
    results = {entry["request_id"]: entry for entry in json.loads((folder / "results.json").read_text())}
    assert [results[number]["ttft_us"] for number in run.request_id.tolist()] == run.ttft_us.tolist()
    assert [results[number]["e2e_us"] for number in run.request_id.tolist()] == run.e2e_us.tolist()
    judged = ["--trace-header", files.header, "--trace-data", files.judge, "--sim-results", folder / "results.json"]
    in_turn(*STAND_IN, "calibrate", *judged, "--report", folder / "report.json")
    metrics = json.loads((folder / "report.json").read_text())["metrics"]
    assert metrics["e2e"]["request_level"] == {"mape": 0.0, "pearson_r": pytest.approx(1), "quality": "excellent"}
    assert metrics["ttft"]["workload_level"]["sim_mean"] == pytest.approx(float(np.mean(run.ttft_us)))


@pytest.mark.skipif(os.name == "nt", reason="a script of the shell")
@pytest.mark.usefixtures("with_stand_in")
def test_what_stands_in_refuses_what_blis_refuses(folder: Path) -> None:
    files = write_trace(as_served(), folder)
    assert "unknown flag: --speed" in replayed(folder, files, "--speed", "1", ok=False).stderr
    table = files.replay.read_text()
    files.replay.write_text(table.replace("request_id,", "id,", 1))
    assert "unexpected columns" in replayed(folder, files, ok=False).stderr
    named = [line.split(",") for line in table.splitlines()]
    for line in named[1:]:
        line[16] = "meta-llama/Llama-2-7b-hf"
    files.replay.write_text("\n".join(map(",".join, named)) + "\n")
    assert "no request is of the model llama-2-7b-hf" in replayed(folder, files, ok=False).stderr
    (folder / "defaults.yaml").write_text("colour: red\n")
    files.replay.write_text(table)
    assert "field colour not found" in replayed(folder, files, ok=False).stderr


def walk(folder: Path, *observed: object) -> None:
    told = in_turn(sys.executable, ROOT / "benchmarks" / "newcomer.py", folder, *observed).stdout
    assert "finished" in told
    assert "e2e: mean" in told
    assert (folder / "blis/run.sh").is_file()
    again = in_turn(sys.executable, ROOT / "benchmarks" / "newcomer.py", folder, ok=False)
    assert "expected an empty folder" in again.stderr


@pytest.mark.slow
def test_a_newcomers_way_ends_with_a_calibrated_blis(tmp_path: Path) -> None:
    (tmp_path / "observed").mkdir()
    write_trace(as_served(100), tmp_path / "observed")
    server = ["--gpu", "H100", "--max-num-batched-tokens", 2048, "--num-gpu-blocks", 5000]
    walk(tmp_path / "new", tmp_path / "observed", *server)


@pytest.mark.exhaustive
def test_so_does_that_with_the_sample_run(tmp_path: Path) -> None:
    walk(tmp_path / "new")
