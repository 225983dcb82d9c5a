"""Many cases in several processes: each is watched, counted, and kept and made smaller where it fails.

A worker takes every n-th case of each target in turn, so that the cases of a seed do not depend on how many workers
there are. Which case it is at stands in memory that its parent sees: a worker that hangs in compiled code, or dies, is
replaced and goes on after that case.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows: cases are not bounded there
    resource = None

from .target import Failure, Hang, Recipe, Target, outcome, smaller

TURN_S = 1.0
"""Seconds that a worker spends on one target before it goes on to the next."""
PATIENCE = 15
"""Wall-clock seconds over allowed processor seconds after which a worker counts as hanging: the machine is shared."""
TOLD_S = 60.0
"""Between two lines that say how far it is."""
MOST_BYTES = 12 * 2**30
"""Of address space of a worker; JAX reserves some of it."""
LARGEST_GROWTH_KB = 1_000_000
"""Of a worker's peak memory in one case."""
KEPT = 3
"""Failures of one cause that a worker keeps."""
KINDS = ("crash", "hang", "nonsense")
COLUMNS = ("cases", "accepted", "refused", *KINDS)


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    seed: int
    cases: Mapping[str, int]
    """Target -> cases."""
    seconds: float
    """Of wall-clock time; what is not done then is left."""
    jobs: int
    folder: Path
    """Where failing cases are kept."""
    scratch: Path = Path()
    """Where workers put the files of a case."""


def all_targets() -> list[Target]:
    """Readers, commands, fits."""
    from .commands import COMMANDS, FITS
    from .readers import TARGETS

    return [*TARGETS, *COMMANDS, *FITS]


def prepare_process() -> None:
    """Exceptions of commands are seen as they are, no Hub is asked, and time and memory are bounded."""
    os.environ |= {"ROOFML_TRACEBACK": "1", "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    stop_hangs()
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


def stop_hangs() -> None:
    """Let the timer of processor time end the case that is running."""
    if resource is not None:
        signal.signal(signal.SIGPROF, _hang)


def _hang(*_: object) -> None:
    raise Hang


def watched(target: Target, recipe: Recipe) -> str | Failure:
    """Run one case with its bounds of processor time and memory."""
    if resource is None:
        return outcome(target, recipe)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, target.most_s)
    try:
        result = outcome(target, recipe)
    except Hang:
        result = Failure("hang", "hang outside", "not done in time")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > LARGEST_GROWTH_KB and not isinstance(result, Failure):
        return Failure("nonsense", "memory", f"memory grew by {grown / 1e6:.1f} GB")
    return result


def work(plan: Plan, names: Sequence[str], job: int, board: Any, deadline: float) -> None:
    """Run this worker's cases until all are done or the time is up."""
    prepare_process()
    tempfile.tempdir = str(plan.scratch)
    targets = {target.name: target for target in all_targets()}
    seen: dict[tuple[str, str], int] = {}
    left = list(names)
    while left:
        for name in list(left):
            place = names.index(name)
            row = job * len(names) + place
            until = time.monotonic() + TURN_S
            while time.monotonic() < until:
                case = int(board.next[row])
                if case >= plan.cases[name] or time.monotonic() > deadline:
                    left.remove(name)
                    break
                _one_case(plan, targets[name], case, seen, board, job, row, place)
    board.now[3 * job] = -1


def _one_case(
    plan: Plan, target: Target, case: int, seen: dict[tuple[str, str], int], board: Any, job: int, row: int, place: int
) -> None:
    recipe = Recipe.of(plan.seed, target.name, case)
    started = time.monotonic()
    board.now[3 * job : 3 * job + 3] = [place, case, started]
    board.next[row] = case + plan.jobs
    result = watched(target, recipe)
    board.seconds[row] += time.monotonic() - started
    kind = result.kind if isinstance(result, Failure) else result
    board.counts[row * len(COLUMNS)] += 1
    board.counts[row * len(COLUMNS) + COLUMNS.index(kind)] += 1
    if isinstance(result, Failure):
        key = (target.name, result.where)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= KEPT:
            board.now[3 * job + 2] = time.monotonic() + 60  # it is run again while it is made smaller
            if result.kind != "hang":
                recipe, result = smaller(target, recipe, result, watched)
            keep(plan, target, case, recipe, result)


def keep(plan: Plan, target: Target, case: int, recipe: Recipe, failure: Failure) -> None:
    """Write a failing case to a folder of its own: what is wrong, how to run it again, and its files."""
    folder = plan.folder / f"{target.name}-{plan.seed}-{case}"
    folder.mkdir(parents=True, exist_ok=True)
    again = f"python benchmarks/fuzz.py --target {target.name} --seed {plan.seed} --case {case}"
    about = {"target": target.name, "seed": plan.seed, "case": case, "again": again, "smallest": asdict(recipe)}
    (folder / "failure.json").write_text(json.dumps(about | asdict(failure), indent=2), encoding="utf-8")
    for name, raw in target.files(target.case(recipe)).items():
        (folder / name).write_bytes(raw)


class Board:
    """What workers share with their parent. Arrays have an entry for each pair of a worker and a target."""

    def __init__(self, jobs: int, targets: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.now = context.RawArray("d", 3 * jobs)
        """Of each worker: target, case, and since when."""
        self.next = context.RawArray("q", [job for job in range(jobs) for _ in range(targets)])
        self.seconds = context.RawArray("d", jobs * targets)
        self.counts = context.RawArray("q", jobs * targets * len(COLUMNS))


def campaign(plan: Plan, targets: Sequence[Target]) -> dict[str, dict[str, float]]:
    """Run the plan. Returns target -> its counts and seconds."""
    memory = Path("/dev/shm")  # files of a case are written, read and gone: none needs a disk
    with tempfile.TemporaryDirectory(prefix="roofml-fuzz-", dir=memory if memory.is_dir() else None) as scratch:
        return _campaign(replace(plan, scratch=Path(scratch)), targets)


def _campaign(plan: Plan, targets: Sequence[Target]) -> dict[str, dict[str, float]]:
    names = [target.name for target in targets if plan.cases.get(target.name)]
    most_s = {target.name: target.most_s for target in targets}
    board, context = Board(plan.jobs, len(names)), multiprocessing.get_context("spawn")
    deadline = time.monotonic() + plan.seconds

    def start(job: int) -> Any:
        board.now[3 * job] = -1
        process = context.Process(target=work, args=(plan, names, job, board, deadline))
        process.start()
        return process

    workers = [start(job) for job in range(plan.jobs)]
    told = time.monotonic()
    running = True
    while running:
        time.sleep(0.5)
        if time.monotonic() - told > TOLD_S:
            told = time.monotonic()
            _tell([_row(board, plan.jobs, names, name) for name in names])
        running = any(worker.is_alive() for worker in workers)
        for job, worker in enumerate(workers):
            lost = _lost(board, job, worker, names, most_s)
            if lost is not None:
                name, case, text = lost
                target = next(target for target in targets if target.name == name)
                _count_lost(plan, target, case, board, job * len(names) + names.index(name), text)
                workers[job] = start(job)
                running = True
    return {name: _row(board, plan.jobs, names, name) for name in names}


def _lost(
    board: Board, job: int, worker: Any, names: Sequence[str], most_s: Mapping[str, float]
) -> tuple[str, int, str] | None:
    """The target and case at which a worker died or hangs, and which of both; None if it does neither."""
    place, case, since = board.now[3 * job : 3 * job + 3]
    died = not worker.is_alive() and worker.exitcode != 0
    if place < 0:
        if died:
            raise RuntimeError(f"a worker ended with {worker.exitcode} before its first case")
        return None
    name = names[int(place)]
    if died:
        return name, int(case), f"crash: the process ended with {worker.exitcode}"
    if time.monotonic() - since < PATIENCE * most_s[name]:
        return None
    worker.kill()
    worker.join()
    return name, int(case), "hang: the process did not answer"


def _tell(rows: Sequence[Mapping[str, float]]) -> None:
    """Say on standard error how far it is."""
    cases, failed = sum(row["cases"] for row in rows), sum(row[kind] for row in rows for kind in KINDS)
    print(f"{cases:.0f} cases, {failed:.0f} failed", file=sys.stderr, flush=True)


def _count_lost(plan: Plan, target: Target, case: int, board: Board, row: int, text: str) -> None:
    """Count and keep the case at which a worker was lost."""
    kind = text.partition(":")[0]
    board.counts[row * len(COLUMNS)] += 1
    board.counts[row * len(COLUMNS) + COLUMNS.index(kind)] += 1
    keep(plan, target, case, Recipe.of(plan.seed, target.name, case), Failure(kind, "the process", text))


def _row(board: Any, jobs: int, names: Sequence[str], name: str) -> dict[str, float]:
    rows = [job * len(names) + names.index(name) for job in range(jobs)]
    counts = {
        column: float(sum(board.counts[row * len(COLUMNS) + place] for row in rows))
        for place, column in enumerate(COLUMNS)
    }
    return {**counts, "seconds": sum(board.seconds[row] for row in rows)}
