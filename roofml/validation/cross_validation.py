"""Cross-validation: fit what a protocol lets be seen, judge the rest (`splits` says which is which)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.calibration import Calibration, FittedRun
from roofml.calibration.fit import fit_parameters
from roofml.calibration.judge import judge as judge_fit
from roofml.calibration.other_models import OtherModels, evidence_of
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import PACKAGE, ModelEvidence, Prior, pool
from roofml.calibration.seen_stalls import replay_as_seen
from roofml.calibration.untraced import untraced
from roofml.engine.replay import Replay
from roofml.latency.deployment import Deployment, deployment_of
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.validation import splits
from roofml.validation.report import RunReport, report
from roofml.validation.splits import Fold

PriorOf = Callable[[Deployment], Prior]
"""A deployment -> what is believed before a trace of its model."""
OnFold = Callable[[str], None]
"""Called with what is left out, before each fold."""
Judged = tuple[list[RunReport], list[Calibration]]
"""Reports by run, and what was fitted on the way."""


def package_prior(deployment: Deployment) -> Prior:
    """The prior without any other model's fit."""
    return PACKAGE


def temporal(
    runs: Sequence[Run], train_fraction: float, on_fold: OnFold | None = None, prior_of: PriorOf = package_prior
) -> Judged:
    """Fit each model/GPU/TP on the first `train_fraction` of its runs and judge the rest of each.

    A saturated run is never fitted (unless its group has no other) and is judged over all of its requests, apart.
    """
    return _fitted(splits.temporal(runs, train_fraction), on_fold, prior_of)


def lowo(runs: Sequence[Run], on_fold: OnFold | None = None, prior_of: PriorOf = package_prior) -> Judged:
    """Leave one workload out: judge every run by a fit of its model's others."""
    return _fitted(splits.lowo(runs), on_fold, prior_of)


def load(runs: Sequence[Run], on_fold: OnFold | None = None, prior_of: PriorOf = package_prior) -> Judged:
    """Fit each model/GPU/TP on the lowest rate of its runs and judge the rates above it, as a planner does.

    Runs of one rate are left out (`splits.of_one_stage`).
    """
    return _fitted(splits.load(runs), on_fold, prior_of)


def _fitted(folds: Sequence[Fold], on_fold: OnFold | None, prior_of: PriorOf) -> Judged:
    reports: list[RunReport] = []
    fits: list[Calibration] = []
    for fold in folds:
        if on_fold is not None:
            on_fold(fold.name)
        calibration = of_fold(fold, prior_of)
        served = [_as_learned(learned, calibration) for learned in fold.train]
        misfit = judge_fit(calibration.deployment, calibration.posterior, fold.train, served)
        calibration = replace(calibration, misfit=misfit)
        fits.append(calibration)
        reports += [judge(judged, calibration) for judged in fold.test]
    return reports, fits


def _as_learned(learned: Selection, calibration: Calibration) -> Replay:
    """The replay of a run that was fitted, its stalls where they were seen."""
    tables = calibration.deployment.serving(learned.run.server).tables
    return replay_as_seen(learned, tables, calibration.parameters_for(learned.run))


def of_fold(fold: Fold, prior_of: PriorOf = package_prior) -> Calibration:
    """The calibration that a fold is judged by, without errors in sample."""
    deployment = deployment_of([judged.run for judged in fold.test])
    return of_selections(deployment, fit_selections(fold.train, deployment, prior_of(deployment)), fold.train)


def fit_selections(
    selections: Sequence[Selection], deployment: Deployment, prior: Prior = PACKAGE, *, for_others: bool = False
) -> Posterior:
    """Fit the selected requests, which are of one deployment, `for_others` as `fit_parameters` has it."""
    return fit_parameters(selections, deployment.tables, prior=prior, for_others=for_others)


def of_selections(deployment: Deployment, fitted: Posterior, selections: Sequence[Selection]) -> Calibration:
    """The calibration of a fit of `selections`, without errors in sample."""
    runs = [selection.run for selection in selections]
    seen = (FittedRun(run.name, run.identity, fitted.paces.get(run.identity)) for run in runs)
    return Calibration(deployment, fitted, tuple(seen))


def lomo(runs: Sequence[Run], on_fold: OnFold | None = None) -> Judged:
    """Leave one model out: judge every model by what fits of the others say of it, with intervals.

    Every model is fitted once, with the package's prior, and pooled with the others of each fold.
    """
    fits: dict[tuple[str, str, str, int], Calibration] = {}
    reports: list[RunReport] = []
    for fold in splits.lomo(runs):
        if on_fold is not None:
            on_fold(fold.name)
        evidence: list[ModelEvidence] = []
        for group in splits.by_model(fold.train):
            deployment = deployment_of([selection.run for selection in group])
            if deployment.identity not in fits:
                fitted = fit_selections(group, deployment, for_others=True)
                fits[deployment.identity] = of_selections(deployment, fitted, group)
            evidence.append(evidence_of(fits[deployment.identity].posterior, deployment.model.name))
        deployment = deployment_of([judged.run for judged in fold.test])
        calibration = uncalibrated(deployment, untraced(pool(evidence), deployment))
        reports += [judge(judged, calibration) for judged in fold.test]
    return reports, list(fits.values())


def zero_shot(
    runs: Sequence[Run], others: OtherModels, after: float = 0.0, on_run: OnFold | None = None
) -> list[RunReport]:
    """Judge every run by physics and what other models taught, without its own trace, with intervals."""
    reports: list[RunReport] = []
    for run in runs:
        if on_run is not None:
            on_run(run.name)
        deployment = deployment_of([run])
        calibration = uncalibrated(deployment, untraced(others.prior(deployment), deployment))
        reports.append(judge(Selection.between(run, after), calibration))
    return reports


def judge(judged: Selection, calibration: Calibration) -> RunReport:
    """Replay a run and compare it, with intervals."""
    served = calibration.replay(judged.run)
    return report(judged, served, calibration.replays(judged.run, served=served, judged=judged))
