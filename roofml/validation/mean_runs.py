"""Judging runs of which means alone are known: their load is rebuilt, served, and its means compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roofml.calibration.aggregates import statistics
from roofml.calibration.calibration import Calibration
from roofml.calibration.means import MeansRun
from roofml.calibration.predicted_means import predicted_means
from roofml.engine.replay import Replay
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.validation.report import METRICS, Metric, RunReport
from roofml.workloads.aggregate_load import rebuilt, varies

VARIANTS = 4
"""Other loads that a file may tell of; each is served, and how far their means lie apart widens the intervals."""
PERCENTILE_SD = 0.1
"""Relative: how much a 99th percentile of some hundred requests differs between servers of one mean."""


def judge_means(each: MeansRun, calibration: Calibration) -> RunReport:
    """Serve the load of a run of means and compare what a client would have printed, with intervals.

    Raises InputError for a run of another deployment, and for a load that its server cannot take.
    """
    each = each.on(calibration.deployment.gpu.name)
    calibration.check(each.run)
    predicted = predicted_means(each.aggregate(calibration.deployment), calibration, calibration.open_doubts)
    own = _figures(each.run, calibration.replay(each.run))
    others = [_figures(other, calibration.replay(other)) for other in _variants(each)]
    metrics: dict[str, Metric] = {}
    for name in METRICS:
        measured, value = each.told.measured.get(name, 0.0), own.get(name, 0.0)
        kind = f"{name.split('_')[0]}_mean"
        if measured <= 0 or value <= 0 or kind not in predicted:
            continue
        prediction = predicted[kind]
        if name != kind:
            prediction = prediction.scaled(value / prediction.value).wider("percentile", PERCENTILE_SD**2)
        if others:
            logs = np.log([value, *(other.get(name, value) for other in others)])
            prediction = prediction.wider("load", float(np.var(logs)))
        metrics[name] = Metric(measured, prediction)
    server = each.run.server
    return RunReport(
        run=each.told.name,
        model=server.model,
        gpu=server.gpu or "",
        tp=server.tensor_parallel,
        requests=each.told.overview.completed,
        saturated=each.told.saturated,
        metrics=metrics,
        request_e2e_mape_pct=float("nan"),
    )


def _variants(each: MeansRun) -> list[Run]:
    """Other loads on the same server that the file may tell of."""
    numbers = range(1, VARIANTS + 1) if varies(each.told) else ()
    return [replace(rebuilt(each.told, number), server=each.run.server) for number in numbers]


def _figures(run: Run, served: Replay) -> dict[str, float]:
    """Metric -> µs, of what completed in a replay."""
    done = served.completed
    gaps = np.maximum(run.output_tokens - 1, 1)
    kinds: dict[str, Floats] = {
        "ttft": served.ttft_us[done],
        "e2e": served.e2e_us[done],
        "tpot": ((served.e2e_us - served.ttft_us) / gaps)[done & (run.output_tokens > 1)],
    }
    high = {f"{kind}_p99": float(np.percentile(values, 99)) for kind, values in kinds.items() if len(values)}
    return statistics(run, served) | high
