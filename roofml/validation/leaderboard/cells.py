"""Cells: the work of a leaderboard, cut into one method by one protocol.

A cell is a JSON document of plain sums, kept in a folder under a digest of all that it depends on, so that what was
computed once is not computed again. The board is made of cells alone, and therefore the same, byte for byte, whether
they were old or new.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from roofml.calibration.prior import PACKAGE
from roofml.calibration.step_level.fit import StepData, ahead_of, first_share, made_of, run_named
from roofml.engine.latency_model import Latencies, LatencyModel
from roofml.engine.monotonicity import violations_pct
from roofml.engine.replay import replay
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import Parameters
from roofml.traces.read import read_runs
from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups, trainable
from roofml.traces.server import ServerOverrides
from roofml.traces.steps import read_steps
from roofml.traces.steps.cycles import cycles
from roofml.util.files import data_folder, write_atomically
from roofml.validation import splits
from roofml.validation.leaderboard.predictors import PREDICTORS
from roofml.validation.leaderboard.variants import FitCache
from roofml.validation.splits import Fold
from roofml.validation.statistics import LATENCIES, Judged, block_sums, figures, step_figures

TRAIN, VALIDATION = 0.6, 0.2
"""Shares of a run that the protocol temporal learns from, and validates on; the rest is the test."""
CELL_VERSION = 1
HASHED_DATA = ("bench_data", "hardware", "model_configs")
NOT_HASHED = (
    "cli",
    "data",
    "export",
    "microbench",
    "models/hub.py",
    "validation/demo.py",
    "latency/inspection.py",
    "calibration/identifiability.py",
    "calibration/experiment_design.py",
)
"""Of the package: no cell runs it, or it is hashed by itself. So are the other modules of this package."""


@dataclass(frozen=True)
class Inputs:
    """What a board is made from. Plain values, so that it goes to other processes."""

    runs: tuple[Path, ...]
    gpu: str | None
    steps: tuple[Path, ...] = ()
    """Tables of sampled steps, each named as its run."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """The runs as read."""

    runs: list[Run]
    tables: list[StepData]


@cache
def load(inputs: Inputs) -> Loaded:
    """Read everything. Raises InputError for what cannot be used."""
    runs = read_runs(inputs.runs, ServerOverrides(gpu=inputs.gpu))
    return Loaded(runs, [StepData(read_steps(path), run_named(path, runs)) for path in inputs.steps])


def folds_of(protocol: str, runs: Sequence[Run]) -> list[Fold]:
    """The folds of a protocol. Raises InputError where the runs do not allow it."""
    if protocol == "temporal":
        return splits.temporal(runs, TRAIN, VALIDATION)
    return splits.lomo(runs) if protocol == "lomo" else splits.lowo(runs)


def elsewhere(protocol: str, fold: Fold, folds: Sequence[Fold], runs: Sequence[Run]) -> list[Selection]:
    """What may be learned from other models than the one judged, without reading any part that is a test."""
    model = fold.test[0].run.server.model
    if protocol == "temporal":
        return [part for other in folds for part in other.train if part.run.server.model != model]
    if protocol == "lomo":
        return []  # all of it is in the fold
    others = [group for group in groups(runs) if group[0].server.model != model]
    return [Selection.between(run) for group in others for run in trainable(group)]


def cell(inputs: Inputs, protocol: str, name: str) -> dict[str, Any]:
    """One predictor by one protocol, as a JSON document. Latencies in µs, errors in %."""
    loaded, predictor = load(inputs), PREDICTORS[name]
    folds = folds_of(protocol, loaded.runs)
    cache = FitCache()
    rows: list[dict[str, Any]] = []
    facts: list[dict[str, Any]] = []
    for fold in folds:
        others = elsewhere(protocol, fold, folds, loaded.runs)
        learned = predictor.learn(fold, others, cache, inputs.seed)
        served: dict[str, Latencies] = {}
        for part in (*fold.test, *fold.validation):
            if part.run.identity not in served:
                served[part.run.identity] = learned.model.replay(part.run)
        rows += [_row(part, served[part.run.identity]) for part in fold.test]
        fact: dict[str, Any] = {"fold": fold.name, "free": learned.free, "note": learned.note}
        fact["validation"] = {part.run.name: _bias(part, served[part.run.identity]) for part in fold.validation}
        server = fold.test[0].run.server
        if protocol == "temporal":
            fact["violations_pct"] = violations_pct(
                learned.model.step_times(fold.test[0].run),
                server.max_num_batched_tokens,
                server.max_num_seqs,
                server.max_model_len,
                inputs.seed,
            )
            fact["steps"] = _steps(loaded, fold, learned.model)
        facts.append(fact)
    return {"method": predictor.name, "protocol": protocol, "folds": facts, "runs": rows}


def _judged(part: Selection, predicted: Latencies) -> Judged:
    run, chosen = part.run, part.requests
    return Judged(
        run.arrival_us[chosen],
        run.output_tokens[chosen],
        run.ttft_us[chosen],
        predicted.ttft_us[chosen],
        run.e2e_us[chosen],
        predicted.e2e_us[chosen],
    )


def _row(part: Selection, predicted: Latencies) -> dict[str, Any]:
    judged = _judged(part, predicted)
    sums = {
        metric: [[_digits(value) for value in block_sums(values)] for values in judged.pair(metric)]
        for metric in LATENCIES
    }
    return {
        "run": part.run.name,
        "model": part.run.server.model,
        "saturated": part.run.saturated,
        "requests": len(part),
        "figures": figures(judged),
        "blocks": sums,
    }


def _bias(part: Selection, predicted: Latencies) -> float:
    measured, guess = _judged(part, predicted).pair("e2e")
    return 100 * float(guess.sum() / measured.sum() - 1)


def _steps(loaded: Loaded, fold: Fold, model: LatencyModel) -> dict[str, dict[str, float]]:
    """Errors of the cycle times that came after the training part, by table; contexts are from one replay for all."""
    errors: dict[str, dict[str, float]] = {}
    for data in loaded.tables:
        run = loaded.runs[data.run]
        if run not in [part.run for part in fold.test]:
            continue
        schedule = replay(run, deployment_of([run]).tables, Parameters.of(PACKAGE.values)).schedule
        cycle = cycles(data.table, ahead_of(run), data.most_apart)
        cycle = cycle.take(~first_share(data, run, TRAIN + VALIDATION))
        steps = made_of(data, run, schedule, cycle)
        errors[run.name] = step_figures(cycle.time_us, steps.mean(model.step_times(run)(steps.steps)))
    return errors


def _digits(value: float) -> float:
    """Eight digits: more than any figure here needs, and few enough that a last bit does not show."""
    return float(f"{value:.8g}")


def digest(inputs: Inputs) -> str:
    """Of everything that a cell depends on besides its names: this package's code and data, the runs, the tables."""
    found = hashlib.sha256(str(CELL_VERSION).encode())
    package = Path(__file__).resolve().parents[2]
    no_cell = {package / name for name in NOT_HASHED} | {
        Path(__file__).with_name(f) for f in ("board.py", "making.py", "page.py")
    }
    for folder in (package, *(data_folder(name) for name in HASHED_DATA), *inputs.runs, *inputs.steps):
        files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
        for file in files:
            if file.suffix in {".pyc", ".nbc", ".nbi"} or no_cell & {file, *file.parents}:
                continue
            found.update(f"{folder.name}/{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    found.update(f"{inputs.gpu} {inputs.seed}".encode())
    return found.hexdigest()[:20]


def tasks(selected: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(protocol, method) of every cell, those that take longest first."""
    order = {"lowo": 0, "temporal": 1, "lomo": 2}
    found = [(protocol, name) for protocol, names in selected.items() for name in names]
    return sorted(found, key=lambda task: (order[task[0]], PREDICTORS[task[1]].kind == "baseline"))


def cells(
    inputs: Inputs,
    selected: Mapping[str, Sequence[str]],
    folder: Path,
    jobs: int,
    on_cell: Callable[[str, str, bool], None] | None = None,
) -> dict[tuple[str, str], dict[str, Any]]:
    """All cells of `selected` (protocol -> methods), from `folder` or computed in `jobs` processes and kept there.

    `on_cell(protocol, method, known)` is called as each is there. Raises what a cell raises.
    """
    place = folder / digest(inputs)
    place.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    left: list[tuple[str, str]] = []
    for protocol, name in tasks(selected):
        path = place / f"{protocol}-{name}.json"
        if path.is_file():
            found[protocol, name] = json.loads(path.read_text("utf-8"))
            if on_cell is not None:
                on_cell(protocol, name, True)
        else:
            left.append((protocol, name))
    for (protocol, name), document in _computed(inputs, left, jobs):
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        write_atomically(place / f"{protocol}-{name}.json", text)
        found[protocol, name] = json.loads(text)
        if on_cell is not None:
            on_cell(protocol, name, False)
    return found


def _computed(
    inputs: Inputs, left: Sequence[tuple[str, str]], jobs: int
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    if not left:
        return
    # One thread each: the processes are what runs side by side.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    try:
        with ProcessPoolExecutor(min(jobs, len(left)), mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(cell, inputs, *task): task for task in left}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
