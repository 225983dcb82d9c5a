"""Errors of single cycle times, on steps that a fit has not seen, or with no fit at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.posterior import posterior_of
from roofml.calibration.step_level.fit import StepData, ahead_of, first_share, made_of
from roofml.engine.replay import Schedule, replay
from roofml.latency.components import ComponentTables
from roofml.latency.formula import step_times
from roofml.latency.parameters import Parameters
from roofml.traces.run import Run
from roofml.traces.steps.cycles import cycles
from roofml.util.arrays import Bools, Floats
from roofml.util.display import Table, pct, us
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
    parameters: Parameters,
    judged: Bools | None = None,
    schedule: Schedule | None = None,
) -> tuple[Floats, Floats]:
    """Predicted and measured times of the cycles `judged` (cycles,), all where None, each of that shape, µs.

    With contexts from a replay and no `schedule`, the run is replayed with the parameters: what they predict of a
    server is then all that is used, besides what was sent and sampled.
    """
    if schedule is None and data.source == "replay":
        schedule = replay(run, tables, parameters).schedule
    cycle_times = cycles(data.table, ahead_of(run), data.most_apart)
    if judged is not None:
        cycle_times = cycle_times.take(judged)
    if len(cycle_times) == 0:
        raise InputError(f"{data.table.name}: no cycle is left to judge by")
    steps = made_of(data, run, schedule, cycle_times)
    return steps.mean(step_times(tables, steps.steps.alike(tables.reaches), parameters.step)), cycle_times.time_us


def judge(data: StepData, run: Run, tables: ComponentTables, parameters: Parameters, after: float = 0.0) -> StepReport:
    """Errors of the cycles after the first share `after` of a table's samples. No fit at all: those of a prior.

    `parameters` are at the pace of the run's server, where a fit has seen it.
    """
    held_out = None if after == 0 else ~first_share(data, run, after)
    predicted, measured = predicted_us(data, run, tables, parameters, held_out)
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


@dataclass(frozen=True, eq=False)
class JudgedCycles:
    """Cycle times of one table of sampled steps, judged."""

    parameters: str
    """Whose: of the prior, of the fit, or a file's name."""
    after: float
    """Share of the table's samples that was not judged, for the fit had seen it."""
    report: StepReport

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        return {
            "parameters": self.parameters,
            "held_out": self.after > 0,
            "after": self.after,
            **asdict(self.report),
        }


def judge_cycles(data: StepData, run: Run, calibration: Calibration, after: float, name: str = "") -> JudgedCycles:
    """Errors of the cycles of a table after the first share `after`, at the pace of the run's server."""
    tables = calibration.deployment.serving(run.server).tables
    whose = name or (str(calibration.path) if calibration.path else "fit" if calibration.fitted else "prior")
    return JudgedCycles(whose, after, judge(data, run, tables, calibration.parameters_for(run), after))


def judge_fit(data: Sequence[StepData], runs: Sequence[Run], calibration: Calibration) -> list[JudgedCycles]:
    """Errors of cycle times by table: of the fit's prior, which has seen none, and of the fit, on what it has not seen
    (all, where it has seen all)."""
    after = calibration.train_fraction if calibration.train_fraction < 1 else 0.0
    prior = replace(calibration, posterior=posterior_of(calibration.posterior.prior), runs=())
    return [
        judge_cycles(table, runs[table.run], whose, after, name)
        for table in data
        for name, whose in (("prior", prior), ("fit", calibration))
    ]


def cycle_table(cycles: Sequence[JudgedCycles], title: str = "") -> Table:
    """Errors of cycle times, for people."""
    title = title or "cycle times of steps " + ("that the fit has not seen" if cycles[0].after > 0 else "in sample")
    columns = ["table", "with", "contexts", "cycles", "measured", "|error| %", "p90 %", "median %", "sum %", "r"]
    rows = [
        [
            Path(cycle.report.table).stem,
            cycle.parameters,
            cycle.report.source,
            str(cycle.report.cycles),
            us(cycle.report.measured_us),
            f"{cycle.report.median_abs_error_pct:.2f}",
            f"{cycle.report.p90_abs_error_pct:.2f}",
            pct(cycle.report.median_error_pct),
            pct(cycle.report.bias_pct),
            f"{cycle.report.pearson_r:.3f}",
        ]
        for cycle in cycles
    ]
    return Table(title, columns, rows, "medians over single cycles; + is too slow")
