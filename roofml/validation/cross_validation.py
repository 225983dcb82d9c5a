"""Evaluate: how far predictions are from what was measured, on requests the fit has not seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from roofml.calibration.fit import Fit, fit
from roofml.calibration.other_models import learned_of
from roofml.calibration.prior import PACKAGE, Learned, Prior, pool
from roofml.engine.replay import Replay, RequestParameters, replay
from roofml.hardware.gpu import Gpu, load_gpu
from roofml.hardware.kernels import load_efficiency
from roofml.latency.components import ComponentTables, component_sd, component_tables
from roofml.latency.formula import StepParameters, scaled
from roofml.latency.parameters import NAMES, split
from roofml.models.spec import ModelSpec, load_model
from roofml.traces.doctor import Diagnosis
from roofml.traces.run import Bools, Floats, Run
from roofml.util.errors import InputError
from roofml.validation import splits
from roofml.validation.splits import Fold, Part, part

DRAWS = 60
"""Replays behind an interval."""
METRICS = ("e2e_mean", "ttft_mean", "tpot_mean", "e2e_p99", "ttft_p99", "tpot_p99")


@dataclass(frozen=True)
class Metric:
    """One figure of a run, measured and predicted, µs."""

    measured_us: float
    predicted_us: float
    interval_us: tuple[float, float] | None = None
    """Where the prediction says the measurement lies with 90 % probability; None where it was fitted."""

    @property
    def covered(self) -> bool:
        """Whether the interval contains the measurement; False without one."""
        return self.interval_us is not None and self.interval_us[0] <= self.measured_us <= self.interval_us[1]

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
    table_sd: Mapping[str, float]
    """Component -> relative standard deviation for shapes that were not measured; what was not has none."""


def setting(model: str, gpu: str, tp: int, budget: int) -> Setting:
    """Load config, datasheet and efficiencies, and make the component tables for steps of up to `budget` tokens."""
    spec, device = load_model(model), load_gpu(gpu)
    efficiency = load_efficiency(device)
    return Setting(
        spec,
        device,
        tp,
        component_tables(spec, device, tp, budget, efficiency),
        component_sd(spec, device, tp, efficiency),
    )


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


def report(
    run: Run, predicted: Predicted, judged: Bools, saturated: bool, draws: Sequence[Predicted] = ()
) -> RunReport:
    """Compare a replay with its run over the `judged` requests, shape (requests,).

    With `draws`, replays of parameters as uncertain as they are, every figure gets their 90 % interval.
    """

    def tpot(e2e: Floats, ttft: Floats) -> Floats:
        return ((e2e - ttft) / np.maximum(run.output_tokens - 1, 1))[judged & (run.output_tokens > 1)]

    def latency(of: Predicted | Run, name: str) -> Floats:
        return tpot(of.e2e_us, of.ttft_us) if name == "tpot" else (of.e2e_us if name == "e2e" else of.ttft_us)[judged]

    metrics: dict[str, Metric] = {}
    for name in METRICS:
        kind, statistic = name.split("_")
        of: Callable[[Floats], Any] = np.mean if statistic == "mean" else _p99
        truth = latency(run, kind)
        if len(truth) == 0 or of(truth) <= 0:
            continue  # TPOT is 0 where answers came in one piece: nothing to compare with
        interval = None
        if draws:
            drawn = [float(of(latency(draw, kind))) for draw in draws]
            interval = (float(np.quantile(drawn, 0.05)), float(np.quantile(drawn, 0.95)))
        metrics[name] = Metric(float(of(truth)), float(of(latency(predicted, kind))), interval)
    measured, simulated = latency(run, "e2e"), latency(predicted, "e2e")
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


PriorOf = Callable[[str, str], Prior]
"""Model name and GPU -> what is believed before a trace."""


def package_prior(model: str, gpu: str) -> Prior:
    """The prior without any other model's fit."""
    return PACKAGE


def temporal(
    diagnoses: Sequence[Diagnosis],
    train_fraction: float,
    on_fold: Callable[[str], None] | None = None,
    prior_of: PriorOf = package_prior,
) -> tuple[list[RunReport], list[Fit]]:
    """Fit each model/GPU/TP on the first `train_fraction` of its runs and judge the rest of each.

    A saturated run is never fitted (unless its group has no other) and is judged over all of its requests, apart.
    """
    return _fitted(splits.temporal(diagnoses, train_fraction), on_fold, prior_of)


def lowo(
    diagnoses: Sequence[Diagnosis], on_fold: Callable[[str], None] | None = None, prior_of: PriorOf = package_prior
) -> tuple[list[RunReport], list[Fit]]:
    """Leave one workload out: judge every run by a fit of its model's others."""
    return _fitted(splits.lowo(diagnoses), on_fold, prior_of)


def _fitted(
    folds: Sequence[Fold], on_fold: Callable[[str], None] | None, prior_of: PriorOf
) -> tuple[list[RunReport], list[Fit]]:
    reports: list[RunReport] = []
    fits: list[Fit] = []
    for fold in folds:
        if on_fold is not None:
            on_fold(fold.name)
        where = setting_of([p.run for p in fold.test])
        fitted = fit_parts(fold.train, where, prior_of(where.model.name, where.gpu.name))
        fits.append(fitted)
        reports += [judge(p, where, fitted.values, pace=fitted.paces.get(p.run.name, 1.0)) for p in fold.test]
    return reports, fits


def fit_parts(parts: Sequence[Part], where: Setting, prior: Prior = PACKAGE) -> Fit:
    """Fit the requests of `parts`, which are of one setting."""
    return fit([p.run for p in parts], where.tables, prior=prior, chosen=[p.requests for p in parts])


def lomo(
    diagnoses: Sequence[Diagnosis], on_fold: Callable[[str], None] | None = None
) -> tuple[list[RunReport], list[Fit]]:
    """Leave one model out: judge every model by what fits of the others say of it, with intervals.

    Every model is fitted once, with the package's prior, and pooled with the others of each fold.
    """
    folds = splits.lomo(diagnoses)
    fits: dict[str, Fit] = {}
    reports: list[RunReport] = []
    for fold in folds:
        if on_fold is not None:
            on_fold(fold.name)
        learned: list[Learned] = []
        for group in splits.groups([p.diagnosis for p in fold.train]):
            where = setting_of([d.run for d in group])
            name = f"{where.model.name} {where.gpu.name} {where.tp}"
            if name not in fits:
                fits[name] = fit_parts([p for p in fold.train if p.diagnosis in group], where)
            learned.append(learned_of(fits[name], where.model.name))
        where = setting_of([p.run for p in fold.test])
        prior = widened(pool(learned), where)
        reports += [judge(p, where, prior.values, prior) for p in fold.test]
    return reports, list(fits.values())


def zero_shot(
    diagnoses: Sequence[Diagnosis],
    prior_of: PriorOf,
    after: float = 0.0,
    on_run: Callable[[str], None] | None = None,
) -> list[RunReport]:
    """Judge every run by physics and what other models taught, without its own trace, with intervals."""
    reports: list[RunReport] = []
    for diagnosis in diagnoses:
        if on_run is not None:
            on_run(diagnosis.run.name)
        where = setting_of([diagnosis.run])
        prior = widened(prior_of(where.model.name, where.gpu.name), where)
        reports.append(judge(part(diagnosis, after), where, prior.values, prior))
    return reports


def judge(judged: Part, where: Setting, values: Floats, uncertain: Prior | None = None, pace: float = 1.0) -> RunReport:
    """Replay a run with parameter values (parameters,), and compare; `uncertain` gives every figure an interval.

    `pace`: of the run's server, where a fit has seen it (`fit.Fit.paces`).
    """
    run = judged.run
    step, request = split(values)
    predicted = replay(run, where.tables, scaled(step, pace), request)
    draws = [] if uncertain is None else replays(run, where, uncertain.draws(DRAWS))
    return report(run, predicted, judged.requests, judged.diagnosis.saturated, draws)


def replays(run: Run, where: Setting, values: Floats) -> list[Replay]:
    """A replay for every row of parameter values, shape (draws, parameters); on all cores: the loop drops the GIL."""

    def served(row: Floats) -> Replay:
        return replay(run, where.tables, *split(row))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(served, values))


def widened(prior: Prior, where: Setting) -> Prior:
    """`prior` with the uncertainty of kernel tables where the setting's shapes lie outside those measured."""
    extra = np.zeros_like(prior.mean)
    for name, sd in where.table_sd.items():
        extra[NAMES.index(name)] = sd
    return replace(prior, covariance=prior.covariance + np.diag(extra**2))


def with_parameters(
    diagnoses: Sequence[Diagnosis],
    where: Setting,
    step: StepParameters,
    request: RequestParameters,
    after: float = 0.0,
    until: float = 1.0,
    paces: Mapping[str, float] | None = None,
) -> tuple[list[RunReport], list[Replay]]:
    """Judge given parameters on the requests between the shares `after` and `until` of each run.

    `paces`: run -> that of its server, where a fit has seen it.
    """
    known = paces or {}
    replays = [replay(d.run, where.tables, scaled(step, known.get(d.run.name, 1.0)), request) for d in diagnoses]
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
                        **({} if metric.interval_us is None else {"interval_90_us": list(metric.interval_us)}),
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
            found = [r.metrics[name] for r in reports if name in r.metrics]
            if all(metric.interval_us for metric in found):
                result[name]["inside_interval_90_pct"] = 100 * float(np.mean([metric.covered for metric in found]))
    single = [r.request_e2e_mape_pct for r in reports]
    result["request_e2e_mape"] = {"mean_abs_error_pct": float(np.mean(single)), "max_abs_error_pct": max(single)}
    return result
