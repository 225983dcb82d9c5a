"""Evaluate: how far predictions are from what was measured, on requests the fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from roofml import protocols
from roofml.components import ComponentTables, component_tables
from roofml.efficiency import load_efficiency
from roofml.errors import InputError
from roofml.fit import Fit, fit
from roofml.gpu import Gpu, load_gpu
from roofml.model import ModelSpec, load_model
from roofml.params import split
from roofml.protocols import Part, part
from roofml.replay import Replay, RequestParameters, replay
from roofml.runs.doctor import Diagnosis
from roofml.runs.run import Bools, Floats, Run
from roofml.steptime import StepParameters

METRICS = ("e2e_mean", "ttft_mean", "tpot_mean", "e2e_p99", "ttft_p99", "tpot_p99")


@dataclass(frozen=True)
class Metric:
    """One figure of a run, measured and predicted, µs."""

    measured_us: float
    predicted_us: float

    @property
    def error_pct(self) -> float:
        """Signed: 100·(predicted/measured - 1)."""
        return 100 * (self.predicted_us / self.measured_us - 1)


@dataclass(frozen=True)
class RunReport:
    """Errors of one run on the requests judged."""

    run: str
    model: str
    gpu: str
    tp: int
    requests: int
    """Requests judged."""
    saturated: bool
    metrics: Mapping[str, Metric]
    request_e2e_mape_pct: float
    """Mean over requests of |predicted/measured - 1| of E2E, %."""


@dataclass(frozen=True)
class Setting:
    """A model on a GPU: what the physics of a group of runs needs."""

    model: ModelSpec
    gpu: Gpu
    tp: int
    tables: ComponentTables


def setting(model: str, gpu: str, tp: int, budget: int) -> Setting:
    """Load config, datasheet and efficiencies, and make the component tables for steps of up to `budget` tokens."""
    spec, device = load_model(model), load_gpu(gpu)
    return Setting(spec, device, tp, component_tables(spec, device, tp, budget, load_efficiency(device)))


def setting_of(runs: Sequence[Run]) -> Setting:
    """The setting that `runs` share. Raises InputError where they differ or one does not name its GPU."""
    first = runs[0].server
    for run in runs:
        if run.server.gpu is None:
            raise InputError(f"{run.name}: the run does not say its GPU: give --gpu")
        for field in ("model", "tensor_parallel", "gpu"):
            ours, theirs = getattr(first, field), getattr(run.server, field)
            if ours != theirs:
                raise InputError(
                    f"{run.name}: {field} {theirs!r} differs from {ours!r} of {runs[0].name}: one fit is of one model, "
                    "GPU and tensor parallel size"
                )
    budget = max(run.server.max_num_batched_tokens for run in runs)
    assert first.gpu is not None
    return setting(first.model, first.gpu, first.tensor_parallel, budget)


class Predicted(Protocol):
    """A replay's latencies, ours or BLIS's: one a request, µs."""

    @property
    def ttft_us(self) -> Floats:
        """(requests,)"""
        ...

    @property
    def e2e_us(self) -> Floats:
        """(requests,)"""
        ...


def report(run: Run, predicted: Predicted, judged: Bools, saturated: bool) -> RunReport:
    """Compare a replay with its run over the `judged` requests, shape (requests,)."""

    def tpot(e2e: Floats, ttft: Floats) -> Floats:
        return ((e2e - ttft) / np.maximum(run.output_tokens - 1, 1))[judged & (run.output_tokens > 1)]

    pairs = {
        "e2e": (run.e2e_us[judged], predicted.e2e_us[judged]),
        "ttft": (run.ttft_us[judged], predicted.ttft_us[judged]),
        "tpot": (tpot(run.e2e_us, run.ttft_us), tpot(predicted.e2e_us, predicted.ttft_us)),
    }
    metrics: dict[str, Metric] = {}
    for name in METRICS:
        latency, statistic = name.split("_")
        measured, simulated = pairs[latency]
        of: Callable[[Floats], Any] = np.mean if statistic == "mean" else _p99
        if len(measured) and of(measured) > 0:  # TPOT is 0 where answers came in one piece: nothing to compare with
            metrics[name] = Metric(float(of(measured)), float(of(simulated)))
    measured, simulated = pairs["e2e"]
    return RunReport(
        run=run.name,
        model=run.server.model,
        gpu=run.server.gpu or "",
        tp=run.server.tensor_parallel,
        requests=int(judged.sum()),
        saturated=saturated,
        metrics=metrics,
        request_e2e_mape_pct=100 * float(np.mean(np.abs(simulated / measured - 1))),
    )


def _p99(values: Floats) -> float:
    return float(np.percentile(values, 99))


def temporal(
    diagnoses: Sequence[Diagnosis],
    train_fraction: float,
    on_group: Callable[[str], None] | None = None,
) -> tuple[list[RunReport], list[Fit]]:
    """Fit each model/GPU/TP on the first `train_fraction` of its runs and judge the rest of each.

    A saturated run is never fitted (unless its group has no other) and is judged over all of its requests, apart.
    """
    reports: list[RunReport] = []
    fits: list[Fit] = []
    for fold in protocols.temporal(diagnoses, train_fraction):
        if on_group is not None:
            on_group(fold.name)
        where = setting_of([part.run for part in fold.test])
        fitted = fit([part.run for part in fold.train], where.tables, train_fraction)
        fits.append(fitted)
        reports += [judge(part, where, fitted) for part in fold.test]
    return reports, fits


def judge(part: Part, where: Setting, fitted: Fit) -> RunReport:
    """Replay a run with what a fit found, and compare the requests of `part`."""
    predicted = replay(part.run, where.tables, *split(fitted.values))
    return report(part.run, predicted, part.requests, part.diagnosis.saturated)


def with_parameters(
    diagnoses: Sequence[Diagnosis],
    where: Setting,
    step: StepParameters,
    request: RequestParameters,
    after: float = 0.0,
    until: float = 1.0,
) -> tuple[list[RunReport], list[Replay]]:
    """Judge given parameters on the requests between the shares `after` and `until` of each run."""
    replays = [replay(d.run, where.tables, step, request) for d in diagnoses]
    return [
        report(d.run, r, part(d, after, until).requests, d.saturated) for d, r in zip(diagnoses, replays, strict=True)
    ], replays


def in_sample_error_pct(reports: Sequence[RunReport]) -> dict[str, dict[str, float]]:
    """Errors of the means by run, as a coefficients file records them."""
    names = ("e2e_mean", "ttft_mean", "tpot_mean")
    return {r.run: {name: r.metrics[name].error_pct if name in r.metrics else 0.0 for name in names} for r in reports}


def document(protocol: str, train_fraction: float, reports: Sequence[RunReport]) -> dict[str, Any]:
    """The JSON document of `roofml evaluate`. `summary` is over runs that are not saturated; those stand apart."""
    normal = [r for r in reports if not r.saturated]
    return {
        "protocol": protocol,
        "train_fraction": train_fraction,
        "runs": [
            {
                "run": r.run,
                "model": r.model,
                "gpu": r.gpu,
                "tp": r.tp,
                "requests": r.requests,
                "saturated": r.saturated,
                "metrics": {
                    name: {
                        "measured_us": metric.measured_us,
                        "predicted_us": metric.predicted_us,
                        "error_pct": metric.error_pct,
                    }
                    for name, metric in r.metrics.items()
                },
                "request_e2e_mape_pct": r.request_e2e_mape_pct,
            }
            for r in reports
        ],
        "summary": summary(normal),
        "summary_saturated": summary([r for r in reports if r.saturated]),
    }


def summary(reports: Sequence[RunReport]) -> dict[str, Any]:
    """Mean and largest absolute error over runs, by metric, %; empty without runs."""
    if not reports:
        return {}
    result: dict[str, Any] = {}
    for name in METRICS:
        errors = [abs(r.metrics[name].error_pct) for r in reports if name in r.metrics]
        if errors:
            result[name] = {"mean_abs_error_pct": float(np.mean(errors)), "max_abs_error_pct": max(errors)}
    single = [r.request_e2e_mape_pct for r in reports]
    result["request_e2e_mape"] = {"mean_abs_error_pct": float(np.mean(single)), "max_abs_error_pct": max(single)}
    return result
