"""Step-level fit: the same parameters and formula, from the cycle times of sampled steps, alone or beside requests.

- Residuals are relative, and outliers weighted down, as those of requests are: a cold start is no step, and neither is
  a pause of the host.
- The cycles of one table share what the formula, the host and the clocks get wrong about them: a common relative error
  of `fit.DECODE_DISCREPANCY`, as the decode times of a run have. So a table weighs what a run does, and one that was
  recorded beside a run's requests does not silence them.
- A cycle is a mean over steps of which most were not sampled (`batches`). Where those that stand in for them differ, a
  prompt among decodes say, its time is as uncertain: it weighs less, and is not called an outlier for it, which would
  leave the cheap steps and make prompts look free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from roofml.calibration.fit import ROUNDS, OnRound, fit_parameters
from roofml.calibration.objective import DECODE_DISCREPANCY, OUTLIER, step_columns, times_and_gradients
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import PACKAGE, Prior
from roofml.calibration.step_level.batches import CycleSteps, cycle_steps
from roofml.calibration.step_level.contexts import SOURCES, MeanContexts, Source, contexts, match
from roofml.engine.replay import Schedule, replay
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import NAMES, STEP_COUNT, Parameters
from roofml.traces.run import Run
from roofml.traces.selection import Selection, first
from roofml.traces.steps import read_steps
from roofml.traces.steps.cycles import MOST_APART, Cycles, cycles
from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Bools, Floats
from roofml.util.errors import InputError

CALM = 0.25
"""Share of cycles that show how exact a cycle time is: those with the fewest unknown steps."""


@dataclass(frozen=True, eq=False)
class StepData:
    """A table of steps, and the run whose server it is of."""

    table: SampledSteps
    run: int
    """Place of the run among those given to the fit."""
    source: Source = "replay"
    """Where contexts come from."""
    most_apart: int = MOST_APART


@dataclass(frozen=True, eq=False)
class StepBlock:
    """The cycles of one table as rows of the least-squares problem."""

    columns: tuple[Floats, ...]
    """As `fit.step_columns` makes them."""
    run: int
    """Place among the runs fitted of the one whose server this is of."""
    tables: ComponentTables
    made_of: CycleSteps
    measured_us: Floats
    """(cycles,)"""
    weights: Floats
    """(cycles,)"""

    def rows(self, values: Floats) -> Floats:
        """(cycles, 1 + parameters + 1): derivatives of the weighted residuals by the logarithm of the server's pace and
        by the parameters, and the residuals."""
        times, gradients = times_and_gradients(values[:STEP_COUNT], self.columns, self.tables)
        count = len(self.made_of.weight)
        means = self.made_of.mean(np.vstack((gradients, times))[:, :count])
        rows = np.zeros((len(self.measured_us), 1 + len(NAMES) + 1))
        rows[:, 0] = means[-1]
        rows[:, 1 : 1 + STEP_COUNT] = means[:-1].T
        rows[:, -1] = means[-1] - self.measured_us
        return rows * self.weights[:, None]


def run_named(path: Path, runs: Sequence[Run]) -> int:
    """Place of the run that a table of steps is named after, or of the only run.

    Raises InputError where no run, or several, are called so.
    """
    if len(runs) == 1:
        return 0
    names = [run.name for run in runs]
    places = [i for i, name in enumerate(names) if PurePath(name).name == path.stem]
    if len(places) != 1:
        several = "several runs are called so, " if places else ""
        raise InputError(f"{path}: {several}expected the name of one of the runs, {', '.join(names)}")
    return places[0]


def read_step_data(paths: Sequence[Path], runs: Sequence[Run], contexts: str = "auto") -> list[StepData]:
    """The tables at `paths`, each with the run that it is named after, or with the only run.

    `contexts`: a source of `contexts.SOURCES`, or `auto`: the table's own where it lists most, else the replay's.
    Raises InputError for a table that cannot be read, is given twice, or whose run is not there.
    """
    tables: list[StepData] = []
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise InputError(f"{path}: given twice")
        seen.add(path.resolve())
        steps = read_steps(path)
        listed = steps.snapshot is not None and steps.snapshot.known.mean() > 0.5
        source = ("snapshot" if listed else "replay") if contexts == "auto" else contexts
        tables.append(StepData(steps, run_named(path, runs), SOURCES[source]))
    return tables


def ahead_of(run: Run) -> int:
    """Steps that the GPU is behind the scheduler."""
    return 1 if run.server.async_scheduling else 0


def made_of(data: StepData, run: Run, schedule: Schedule | None, cycle_times: Cycles) -> CycleSteps:
    """The steps that the cycle times of a table are made of. Without a `schedule`, contexts that need none."""
    means: MeanContexts = contexts(data.table, data.source, run, schedule, ahead_of(run))
    return cycle_steps(data.table, cycle_times, means, run.server.max_num_batched_tokens)


def block(
    data: StepData, run: Run, schedule: Schedule | None, tables: ComponentTables, values: Floats, fitted: Bools | None
) -> StepBlock:
    """The rows of the cycles `fitted` (cycles,), all where None, weighted for parameters near `values`."""
    cycle_times = cycles(data.table, ahead_of(run), data.most_apart)
    if fitted is not None:
        cycle_times = cycle_times.take(fitted)
    steps = made_of(data, run, schedule, cycle_times)
    columns = step_columns(steps.steps.alike(tables.reaches), tables)
    times, _ = times_and_gradients(values[:STEP_COUNT], columns, tables)
    times = times[: len(steps.weight)]
    weights = cycle_weights(cycle_times.time_us, steps.mean(times), steps.spread(times))
    return StepBlock(columns, data.run, tables, steps, cycle_times.time_us, weights)


def cycle_weights(measured: Floats, predicted: Floats, spread: Floats) -> Floats:
    """Weight of each cycle's residual; all (cycles,), µs. As `fit.residual_weights`, with a standard deviation each.

    What is not `spread` is taken from the cycles that have the least of it.
    """
    relative, unknown = measured / predicted - 1, spread / predicted
    calm = unknown <= np.quantile(unknown, CALM)
    sd = np.hypot(1.4826 * float(np.median(np.abs(relative[calm]))) + 1e-9, unknown)
    precision = 1 / sd**2
    mean_variance = max(DECODE_DISCREPANCY**2, 1 / float(precision.sum()))
    outliers = 1 / np.maximum(1, np.abs(relative) / (OUTLIER * sd)) ** 2
    return np.sqrt(outliers * precision / (precision.sum() * mean_variance)) / predicted


def first_share(data: StepData, run: Run, share: float) -> Bools:
    """(cycles,) which cycles lie in the first `share` of a table's samples. Raises InputError where none does."""
    cycle_times = cycles(data.table, ahead_of(run), data.most_apart)
    inside: Bools = cycle_times.before + 1 < share * len(data.table)
    if not inside.any():
        raise InputError(f"{data.table.name}: no cycle in the first {share:.0%} of the sampled steps")
    return inside


def sent_before(data: StepData, run: Run, tables: ComponentTables, values: Floats, share: float) -> Bools:
    """(requests,) which requests of a run were answered before the first `share` of its table's samples ended.

    A joint fit that learns from them has seen nothing of the steps after.
    """
    if share >= 1:
        return np.ones(len(run), np.bool_)
    clock = match(data.table, replay(run, tables, Parameters.of(values)).schedule)
    last = data.table.start_us[int(share * len(data.table)) - 1] + clock.offset_us
    with np.errstate(invalid="ignore"):  # a failed request was never answered
        return run.arrival_us + run.e2e_us <= last


def fit_steps(
    data: Sequence[StepData],
    runs: Sequence[Run],
    tables: ComponentTables,
    train_fraction: float = 1.0,
    *,
    requests: bool = False,
    rounds: int = ROUNDS,
    on_round: OnRound | None = None,
    prior: Prior = PACKAGE,
) -> Posterior:
    """Fit to the first `train_fraction` of each table's samples and, with `requests`, to the latencies of the runs.

    Those of a run with a table end where its fitted samples do, those of another with the same share of its requests.
    Without `requests` no latency is looked at: the runs then say what was sent, for contexts. Raises InputError when a
    table leaves nothing to fit, or is not one of its run.
    """
    chosen = [selection.requests & requests for selection in first(runs, train_fraction)]
    fitted = [first_share(table, runs[table.run], train_fraction) for table in data]
    if requests:
        for table in data:
            chosen[table.run] = sent_before(table, runs[table.run], tables, prior.values, train_fraction)

    def more(schedules: Sequence[Schedule], values: Floats) -> list[StepBlock]:
        return [
            block(table, runs[table.run], schedules[table.run], tables, values, which)
            for table, which in zip(data, fitted, strict=True)
        ]

    selections = [Selection.of(run, mask) for run, mask in zip(runs, chosen, strict=True)]
    return fit_parameters(selections, tables, prior=prior, rounds=rounds, on_round=on_round, more=more)
