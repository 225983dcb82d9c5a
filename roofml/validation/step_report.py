"""Errors of single cycle times, on steps that a fit has not seen, or with no fit at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.calibration.step_level.fit import StepData, ahead_of, first_share, made_of
from roofml.engine.replay import Schedule, replay
from roofml.latency.components import ComponentTables
from roofml.latency.formula import scaled, step_times
from roofml.latency.parameters import split
from roofml.traces.run import Bools, Floats, Run
from roofml.traces.steps.cycles import cycles
from roofml.util.errors import InputError


@dataclass(frozen=True)
class StepReport:
    """How far predicted cycle times of one table are from its own."""

    table: str
    cycles: int
    """Cycles judged."""
    source: str
    """Where contexts came from."""
    measured_us: float
    """Median of the cycle times."""
    median_abs_error_pct: float
    """Median over cycles of |predicted/measured - 1|, %."""
    p90_abs_error_pct: float
    bias_pct: float
    """Error of the sum of the cycle times, signed, + is too slow, %. Unlike the median, pauses of the host count."""
    median_error_pct: float
    """Median over cycles of predicted/measured - 1, signed, %."""
    pearson_r: float
    """Correlation of predicted and measured; 0 where one of them does not vary."""


def predicted_us(
    data: StepData,
    run: Run,
    tables: ComponentTables,
    values: Floats,
    judged: Bools | None = None,
    schedule: Schedule | None = None,
    pace: float = 1.0,
) -> tuple[Floats, Floats]:
    """Predicted and measured times of the cycles `judged` (cycles,), all where None, each of that shape, µs.

    With contexts from a replay and no `schedule`, the run is replayed with `values`: what they predict of a server is
    then all that is used, besides what was sent and sampled. `pace`: of the server, where a fit has seen it.
    """
    step, request = split(values)
    step = scaled(step, pace)
    if schedule is None and data.source == "replay":
        schedule = replay(run, tables, step, request).schedule
    found = cycles(data.table, ahead_of(run), data.most_apart)
    if judged is not None:
        found = found.take(judged)
    if len(found) == 0:
        raise InputError(f"{data.table.name}: no cycle is left to judge by")
    steps = made_of(data, run, schedule, found)
    return steps.mean(step_times(tables, steps.steps, step)), found.time_us


def judge(
    data: StepData, run: Run, tables: ComponentTables, values: Floats, after: float = 0.0, pace: float = 1.0
) -> StepReport:
    """Errors of the cycles after the first share `after` of a table's samples. No fit at all: values of a prior."""
    held_out = None if after == 0 else ~first_share(data, run, after)
    predicted, measured = predicted_us(data, run, tables, values, held_out, pace=pace)
    error = predicted / measured - 1
    varied = len(error) > 1 and np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return StepReport(
        table=data.table.name,
        cycles=len(error),
        source=data.source,
        measured_us=float(np.median(measured)),
        median_abs_error_pct=100 * float(np.median(np.abs(error))),
        p90_abs_error_pct=100 * float(np.quantile(np.abs(error), 0.9)),
        bias_pct=100 * float(predicted.sum() / measured.sum() - 1),
        median_error_pct=100 * float(np.median(error)),
        pearson_r=float(np.corrcoef(predicted, measured)[0, 1]) if varied else 0.0,
    )
