"""Cells: the work of a leaderboard, cut into pieces of one method and one protocol.

A cell is a JSON document of plain sums. It is kept under a digest of everything that it depends on, so that no cell is
computed twice (`jobs.kept`). The board is made of cells alone, so it is the same, byte for byte, whether its cells are
old or new, and however many processes computed them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from roofml.calibration.prior import PACKAGE
from roofml.calibration.step_level.fit import StepData, ahead_of, first_share, made_of, run_named
from roofml.engine.latency_model import Latencies, LatencyModel
from roofml.engine.monotonicity import violations_pct
from roofml.engine.replay import replay
from roofml.jobs.cluster import Wanted
from roofml.jobs.kept import Kept
from roofml.jobs.places import LocalPlace
from roofml.jobs.work import Work
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import Parameters
from roofml.traces.read import read_runs
from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups, trainable
from roofml.traces.server import ServerOverrides
from roofml.traces.steps import read_steps
from roofml.traces.steps.cycles import cycles
from roofml.util.errors import InputError, because
from roofml.util.package_data import data_folder
from roofml.util.source_digest import add_files
from roofml.validation import splits
from roofml.validation.cross_validation import judge
from roofml.validation.leaderboard.predictors import PREDICTORS
from roofml.validation.leaderboard.variants import FitCache, VariantModel
from roofml.validation.splits import Fold
from roofml.validation.statistics import LATENCIES, Judged, block_sums, figures, step_figures

TRAIN, VALIDATION = 0.6, 0.2
"""Shares of a run that the protocol temporal learns from and validates on. The rest is the test."""
CELL_VERSION = 3
HASHED_DATA = ("bench_data", "hardware", "model_configs")
NOT_HASHED = (
    "catalog",
    "cli",
    "data",
    "export",
    "jobs",
    "microbench",
    "models/hub.py",
    "validation/demo.py",
    "latency/inspection.py",
    "calibration/identifiability.py",
    "calibration/experiment_design.py",
)
"""Parts of the package that the digest leaves out: no cell runs them, or they are hashed by themselves."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a board: plain values, which can be sent to other processes."""

    runs: tuple[Path, ...]
    gpu: str | None
    steps: tuple[Path, ...] = ()
    """Tables of sampled steps. Each has the name of its run."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """The runs and step tables as read."""

    runs: list[Run]
    tables: list[StepData]


@cache
def load(inputs: Inputs) -> Loaded:
    """Read all inputs. Raises InputError for an input that cannot be used."""
    runs = read_runs(inputs.runs, ServerOverrides(gpu=inputs.gpu))
    return Loaded(runs, [StepData(read_steps(path), run_named(path, runs)) for path in inputs.steps])


def folds_of(protocol: str, runs: Sequence[Run]) -> list[Fold]:
    """Return the folds of a protocol. Raises InputError if the runs do not allow them."""
    if protocol == "temporal":
        return splits.temporal(runs, TRAIN, VALIDATION)
    return splits.lomo(runs) if protocol == "lomo" else splits.lowo(runs)


def elsewhere(protocol: str, fold: Fold, folds: Sequence[Fold], runs: Sequence[Run]) -> list[Selection]:
    """Return the parts of other models' runs that may be learned from: none of them is in a test."""
    model = fold.test[0].run.server.model
    if protocol == "temporal":
        return [part for other in folds for part in other.train if part.run.server.model != model]
    if protocol == "lomo":
        return []  # all of it is in the fold
    others = [group for group in groups(runs) if group[0].server.model != model]
    return [Selection.between(run) for group in others for run in trainable(group)]


def cell(inputs: Inputs, protocol: str, name: str) -> dict[str, Any]:
    """Compute a predictor by a protocol, as a JSON document. Latencies are in µs, errors in %."""
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
        rows += [
            _row(part, served[part.run.identity]) | _intervals(predictor.kind, learned.model, part)
            for part in fold.test
        ]
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
    """Measured and predicted latencies. A request not answered in time counts with the time its client waits."""
    run, chosen = part.run, part.requests
    ttft_us, e2e_us = predicted.ttft_us[chosen], predicted.e2e_us[chosen]
    answered = np.isfinite(e2e_us)
    return Judged(
        run.arrival_us[chosen],
        run.output_tokens[chosen],
        run.ttft_us[chosen],
        np.where(answered, ttft_us, run.deadline_us),
        run.e2e_us[chosen],
        np.where(answered, e2e_us, run.deadline_us),
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


def _intervals(kind: str, model: LatencyModel, part: Selection) -> dict[str, Any]:
    """The intervals of our own model: metric -> standardized error, half width in % and 1 where it holds."""
    if kind != "ours" or not isinstance(model, VariantModel):
        return {}
    found = judge(part, model.calibration)
    return {
        "intervals": {
            name: [_digits(metric.z), _digits(metric.half_width_pct), float(metric.covered)]
            for name, metric in found.metrics.items()
        }
    }


def _bias(part: Selection, predicted: Latencies) -> float:
    measured, guess = _judged(part, predicted).pair("e2e")
    return 100 * float(guess.sum() / measured.sum() - 1)


def _steps(loaded: Loaded, fold: Fold, model: LatencyModel) -> dict[str, dict[str, float]]:
    """Return the errors of cycle times after the training part, by table. All methods share one replay's contexts."""
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
    """Round to eight digits: more than any figure here needs, and too few for a last bit to show."""
    return float(f"{value:.8g}")


def digest(inputs: Inputs) -> str:
    """Return a digest of what a cell depends on besides its names: the package's code and data, runs, step tables."""
    sha = hashlib.sha256(str(CELL_VERSION).encode())
    package = Path(__file__).resolve().parents[2]
    no_cell = {package / name for name in NOT_HASHED} | {
        Path(__file__).with_name(f) for f in ("board.py", "making.py", "page.py")
    }
    add_files(sha, (package, *map(data_folder, HASHED_DATA), *inputs.runs, *inputs.steps), no_cell)
    names = [run.name for run in load(inputs).runs]  # those of one name are told apart by their folders
    sha.update(os.fsencode(f"{inputs.gpu} {inputs.seed} {names}"))
    return sha.hexdigest()[:20]


def tasks(selected: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return (protocol, method) of every cell, the slowest cells first."""
    order = {"lowo": 0, "temporal": 1, "lomo": 2}
    pairs = [(protocol, name) for protocol, names in selected.items() for name in names]
    return sorted(pairs, key=lambda task: (order[task[0]], PREDICTORS[task[1]].kind == "baseline"))


@dataclass(frozen=True)
class CellTask:
    """A cell to compute, as plain data."""

    inputs: Inputs
    protocol: str
    method: str


def cells(
    inputs: Inputs,
    selected: Mapping[str, Sequence[str]],
    folder: Path,
    wanted: Wanted,
    on_cell: Callable[[str, str, bool], None] | None = None,
    on_cluster: Callable[[str], None] | None = None,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return all cells of `selected` (protocol -> methods).

    A cell comes from `folder`, or is computed and kept there: by the processes or the cluster of `wanted`, or without
    Dask in this process. `on_cell(protocol, method, cached)` is called for each cell when it is ready, `on_cluster`
    with the address of Dask's page. Raises what a cell raises, and InputError for a folder that cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot keep cells there: {because(error)}") from None
    code = digest(inputs)
    pairs = tasks(selected)
    keys = {f"{code}-{protocol}-{name}": (protocol, name) for protocol, name in pairs}

    def told(key: str, known: bool) -> None:
        if on_cell is not None:
            on_cell(*keys[key], known)

    with ExitStack() as stack:
        work = Work(Kept.below(LocalPlace(folder)), done, code, wanted, stack, on_cluster or (lambda _: None), True)
        found = work.results({key: CellTask(inputs, *pair) for key, pair in keys.items()}, told)
    return {keys[key]: document for key, document in found.items()}


def done(task: CellTask, code: str) -> dict[str, Any]:
    """Compute a cell where the same code sees the same inputs."""
    here = _digest_here(task.inputs)
    if here != code:
        return {"other_code": here}
    return {"result": cell(task.inputs, task.protocol, task.method)}


_digest_here = cache(digest)
"""Once a process."""
