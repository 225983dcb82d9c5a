"""A calibration for people to read: its parameters, and how far it is off in sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from roofml.calibration.fitted_run import FittedRun
from roofml.calibration.posterior import Posterior
from roofml.latency.parameters import PARAMETERS
from roofml.util.display import Table, digits, pct

FITTED_METRICS = ("e2e_mean", "ttft_mean", "tpot_mean")


def parameter_rows(posterior: Posterior, not_identified: Collection[str]) -> list[dict[str, Any]]:
    """Each parameter with its 95 % interval, prior, and whether the data identified it."""
    low, high = posterior.interval()
    return [
        {
            "name": parameter.name,
            "group": parameter.group,
            "unit": parameter.unit,
            "value": float(posterior.values[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "prior": parameter.prior,
            "identified": parameter.name not in not_identified,
        }
        for i, parameter in enumerate(PARAMETERS)
    ]


def parameter_tables(title: str, rows: Sequence[Mapping[str, Any]], runs: Sequence[FittedRun]) -> list[Table]:
    """The parameters, as `Calibration.rows` has them, and the errors of the runs that were learned from."""
    cells = [
        [
            row["name"],
            f"{digits(row['value'], 4)} {row['unit']}".strip(),
            f"{digits(row['low'])} to {digits(row['high'])}",
            digits(row["prior"]),
            "data" if row["identified"] else "prior",
        ]
        for row in rows
    ]
    shown = [Table(title, ["parameter", "value", "95 % interval", "prior", "decided by"], cells)]
    judged = [run for run in runs if run.error_pct]
    if judged:
        columns = ["run", "requests", "E2E %", "TTFT %", "TPOT %", "pace %"]
        text = "pace: how much longer this server takes for a step than others of its kind; the errors are at its pace"
        errors = [
            [
                run.name,
                str(run.requests) if run.requests else "-",
                *(pct(run.error_pct[name]) if name in run.error_pct else "-" for name in FITTED_METRICS),
                pct(100 * ((run.pace or 1.0) - 1)),
            ]
            for run in judged
        ]
        shown.append(Table("errors of means, in sample", columns, errors, text))
    return shown
