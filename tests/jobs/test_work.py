"""Tasks are done once, by whoever there is, and what one costs is nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import jobtasks
import pytest
from fleet import alive, children, environment, kept, wait_for
from jobtasks import work

from roofml.jobs import cluster
from roofml.jobs.cluster import Wanted
from roofml.util.errors import InputError

TASKS = {f"{number:04d}": {"number": number} for number in range(6)}
needs_dask = pytest.mark.skipif(not cluster.is_installed(), reason="Dask is not installed")


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_what_is_known_is_not_done_again(tmp_path: Path, stack: ExitStack) -> None:
    seen: list[tuple[str, bool]] = []
    few = dict(list(TASKS.items())[:2])
    assert (
        len(work(tmp_path, stack, Wanted(), in_turn=True).results(few, lambda key, known: seen.append((key, known))))
        == 2
    )
    again = work(tmp_path, stack, Wanted(), in_turn=True)
    results = again.results(TASKS, lambda key, known: seen.append((key, known)))
    assert {key: result["square"] for key, result in results.items()} == {k: t["number"] ** 2 for k, t in TASKS.items()}
    assert sorted(seen) == sorted([*((k, False) for k in TASKS), *((k, True) for k in few)])
    assert (again.computed, set(again.used)) == (4, set(TASKS))
    assert work(tmp_path, stack, Wanted(), in_turn=True).results(few, lambda *_: None, lasting=False)


@needs_dask
@pytest.mark.slow
def test_a_cluster_does_them_and_a_task_that_ends_its_workers_costs_the_others_nothing(
    tmp_path: Path, stack: ExitStack
) -> None:
    tasks = {**TASKS, "dies": {"number": 1, "die": True}}
    ours = work(tmp_path, stack)
    results = ours.results(tasks, lambda *_: None)
    assert "died again and again" in results.pop("dies")["failed"]
    assert {key: result["square"] for key, result in results.items()} == {k: t["number"] ** 2 for k, t in TASKS.items()}
    assert os.getpid() not in {result["worker"] for result in results.values()}
    with pytest.raises(InputError, match="this task refuses"):
        ours.results({"no": {"number": 1, "refuse": True}}, lambda *_: None)
    ours.code = "another"
    with pytest.raises(InputError, match="a worker has another roofml, or sees other files"):
        ours.results({"other": {"number": 1}}, lambda *_: None)


@needs_dask
@pytest.mark.slow
def test_a_result_that_died_with_its_worker_is_computed_again(tmp_path: Path, stack: ExitStack) -> None:
    ours = stack.enter_context(cluster.opened(Wanted(workers=2)))
    tasks = {key: {**task, "tell": str(tmp_path)} for key, task in TASKS.items()}
    results = ours.results(jobtasks.square, tasks, jobtasks.CODE)
    found = dict([next(results)])  # the others' are not asked for yet
    wait_for(lambda: len(list(tmp_path.iterdir())) == len(TASKS))
    workers = {int(told.name.partition("-")[2]) for told in tmp_path.iterdir()}
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not any(alive(worker) for worker in workers))
    found.update(results)
    assert {key: result["square"] for key, result in found.items()} == {k: t["number"] ** 2 for k, t in TASKS.items()}


def test_without_dask_this_process_does_them_where_it_may(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _name: None)
    results = work(tmp_path / "a", stack, in_turn=True).results(TASKS, lambda *_: None)
    assert {result["worker"] for result in results.values()} == {os.getpid()}
    for wanted, in_turn in ((Wanted(workers=2), False), (Wanted("tcp://127.0.0.1:1"), True)):
        with pytest.raises(InputError, match=r"pip install 'roofml\[cluster\]'"):
            work(tmp_path / "b", stack, wanted, in_turn=in_turn).results(TASKS, lambda *_: None)


@needs_dask
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for what is left in /proc")
def test_a_killed_process_leaves_nobody_behind_and_every_result_it_had(tmp_path: Path, stack: ExitStack) -> None:
    process = subprocess.Popen(
        [sys.executable, jobtasks.__file__, str(tmp_path)], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: kept(tmp_path) >= 3, process)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, 9)
    process.communicate(timeout=60)
    wait_for(lambda: not any(alive(worker) for worker in workers))
    known = kept(tmp_path)
    assert known >= 3
    ours = work(tmp_path, stack, Wanted(), in_turn=True)
    results = ours.results({f"{number:04d}": {"number": number} for number in range(known + 5)}, lambda *_: None)
    assert ours.computed <= 10  # two workers may have been ahead
    assert all(result == {**result, "square": int(key) ** 2} for key, result in results.items())
