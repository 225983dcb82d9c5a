"""Runs: what a recording is whatever it is called, how namesakes are told apart, and what is left of a part of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runfolder import Row, RunFolder, requests
from synthetic import run_of

from roofml.calibration.calibration import Calibration
from roofml.calibration.posterior import Posterior
from roofml.engine.replay import Schedule
from roofml.latency.deployment import Deployment
from roofml.traces.raw import RawRun
from roofml.traces.read import read_raw, read_run, read_runs
from roofml.traces.run import Run, told_apart
from roofml.traces.selection import Selection
from roofml.util.errors import InputError

TOY = run_of([(0.0, 100, 10), (1000.0, 200, 20), (2500.0, 300, 30)], groups=[-1, 0, 0])


def named(name: str, source: str = "") -> Run:
    return replace(TOY, name=name, source=source)


def names_of(*runs: Run) -> list[str]:
    return [run.name for run in told_apart(runs)]


# Names.


def test_distinct_names_stay_as_they_are() -> None:
    runs = [named("one", "a/one"), named("two", "b/two")]
    assert all(told is run for told, run in zip(told_apart(runs), runs, strict=True))
    assert told_apart([]) == []


def test_namesakes_get_the_folder_before_them() -> None:
    assert names_of(named("run", "/data/a/run"), named("run", "/data/b/run")) == ["a/run", "b/run"]
    assert names_of(named("run", "/a/run"), named("other", "/b/other"), named("run", "/b/run")) == [
        "a/run",
        "other",
        "b/run",
    ]


def test_they_get_as_many_folders_as_they_need() -> None:
    runs = named("run", "/x/a/run"), named("run", "/y/a/run"), named("run", "/y/b/run")
    assert names_of(*runs) == ["x/a/run", "y/a/run", "b/run"]


def test_where_folders_do_not_tell_they_are_numbered() -> None:
    assert names_of(named("run"), named("run"), named("run")) == ["run", "run#2", "run#3"]
    assert names_of(named("run", "/a/run"), named("run", "/a/run")) == ["a/run", "a/run#2"]


def test_no_two_have_one_name_whatever_they_were_called() -> None:
    for runs in (
        [named("run"), named("run"), named("run#2")],
        [named("run", "/a/run"), named("run", "/b/run"), named("a/run", "/c/d")],
        [named("run", "/a/run"), named("run")],
        [named("run", "run"), named("run", "/run"), named("run", "/a/run")],
    ):
        assert len(set(names_of(*runs))) == len(runs)


def test_only_the_name_changes() -> None:
    one, two = told_apart([named("run", "/a/run"), named("run", "/b/run")])
    assert (one.identity, two.identity) == (TOY.identity, TOY.identity)
    assert one.arrival_us is TOY.arrival_us


# Identity.


def recorded(place: Path, rows: list[Row]) -> Run:
    return read_run(RunFolder(rows=rows).write(place))


def slower(rows: list[Row], by_us: int = 1) -> list[Row]:
    """The same requests, of which the last took so much longer."""
    last = rows[-1]
    return [*rows[:-1], last | {"last_chunk_time_us": int(str(last["last_chunk_time_us"])) + by_us}]


def test_a_recording_is_the_same_in_another_folder(tmp_path: Path) -> None:
    rows = requests(60)
    one, two = recorded(tmp_path / "one", rows), recorded(tmp_path / "elsewhere" / "two", rows)
    assert one.name != two.name
    assert one.source != two.source
    assert one.identity == two.identity
    assert len(one.identity) == 64


def test_another_latency_is_another_recording(tmp_path: Path) -> None:
    rows = requests(60)
    one, two = recorded(tmp_path / "a" / "run", rows), recorded(tmp_path / "b" / "run", slower(rows))
    assert one.name == two.name
    assert one.identity != two.identity


def test_what_is_said_of_the_server_or_corrected_changes_no_identity(tmp_path: Path) -> None:
    folder = RunFolder(rows=requests(60)).write(tmp_path / "run")
    run = read_run(folder)
    assert run.identity == read_raw(folder).identity
    assert read_run(folder, gpu="H200", max_num_seqs=64, output_tokens=100).identity == run.identity
    assert replace(run, server=replace(run.server, num_gpu_blocks=9), name="another").identity == run.identity
    assert run.on("H100").identity == run.identity


def test_a_run_that_was_made_is_what_its_arrays_say() -> None:
    again = run_of([(0.0, 100, 10), (1000.0, 200, 20), (2500.0, 300, 30)], groups=[-1, 0, 0])
    assert again.identity == TOY.identity
    assert run_of([(0.0, 100, 10), (1000.0, 200, 20), (2500.0, 300, 31)]).identity != TOY.identity


def test_the_same_recording_twice_is_said(tmp_path: Path) -> None:
    rows = requests(60)
    paths = [RunFolder(rows=rows).write(tmp_path / name / "run") for name in ("a", "b")]
    paths.append(RunFolder(rows=slower(rows)).write(tmp_path / "c" / "run"))
    runs = read_runs(paths)
    assert [run.name for run in runs] == ["a/run", "b/run", "c/run"]
    told = [[finding for finding in run.findings if finding.code == "same-recording"] for run in runs]
    assert [len(findings) for findings in told] == [0, 1, 0]
    assert told[1][0].severity == "warning"
    assert told[1][0].evidence == {"other": str(paths[0])}


def test_one_path_twice_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(rows=requests(60)).write(tmp_path / "run")
    with pytest.raises(InputError, match="given twice"):
        read_runs([folder, folder / ".." / "run"])


def test_a_word_that_is_no_fact_of_a_server_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(rows=requests(60)).write(tmp_path / "run")
    with pytest.raises(InputError, match=r"tp: not a fact of a server, expected model, tensor_parallel, "):
        read_run(folder, tp=2)


# A part of a run.


def test_a_part_is_of_the_same_recording_and_begins_at_its_first_request() -> None:
    part = TOY.take(np.array([False, True, True]))
    assert len(part) == 2
    assert part.arrival_us.tolist() == [0.0, 1500.0]
    assert part.request_id.tolist() == [101, 102]
    assert part.prompt_tokens.tolist() == [200, 300]
    assert part.output_tokens.tolist() == [20, 30]
    assert part.prefix_group.tolist() == [0, 0]
    assert part.prefix_tokens.tolist() == [200, 300]
    assert (len(part.ttft_us), len(part.e2e_us), len(part.ok)) == (2, 2, 2)
    assert (part.name, part.server, part.identity) == (TOY.name, TOY.server, TOY.identity)
    assert len(TOY) == 3


def test_all_of_a_run_is_the_run() -> None:
    assert TOY.take(np.ones(3, np.bool_)) is TOY
    assert len(TOY.take(np.zeros(3, np.bool_))) == 0


def test_the_clients_counts_are_taken_too(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", requests(20))
    assert len(run.counted_tokens) == 20
    assert run.take(run.arrival_us > 0).counted_tokens.tolist() == run.counted_tokens[1:].tolist()
    assert len(TOY.take(np.array([True, False, False])).counted_tokens) == 0


def test_a_gpu_is_said_only_where_none_was() -> None:
    assert TOY.on("H100").server.gpu == "H100"
    assert TOY.on("H100").on("H200").server.gpu == "H100"


# Comparison.


@pytest.mark.parametrize("kind", [Run, RawRun, Selection, Deployment, Posterior, Calibration, Schedule])
def test_what_holds_arrays_is_not_compared_by_them(kind: type) -> None:
    """Arrays have no one truth: == of two dataclasses that hold them would raise."""
    assert kind.__eq__ is object.__eq__
    assert kind.__hash__ is object.__hash__


def test_a_run_is_itself_alone() -> None:
    again = replace(TOY)
    assert TOY == TOY
    assert again != TOY
    assert again in [again, TOY]
    assert len({TOY, again}) == 2
    assert Selection.between(TOY) != Selection.between(TOY)
