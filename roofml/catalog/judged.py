"""Judged: one deployment's fit, and how far it is off on requests that it has not seen. What a worker computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roofml.calibration.calibrate import fit, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.coefficients import rounded
from roofml.calibration.pooling import fit_models
from roofml.calibration.prior import Prior
from roofml.calibration.step_breakdown import time_us
from roofml.calibration.untraced import untraced
from roofml.latency.batch import Batch
from roofml.latency.deployment import Deployment, deployment_of
from roofml.latency.feasibility import check_step
from roofml.latency.parameters import NAMES
from roofml.traces.run import Run
from roofml.traces.selection import Selection, trainable
from roofml.util.digest import digest
from roofml.util.errors import InputError, JobFailedError
from roofml.validation.as_blis import with_blis
from roofml.validation.cross_validation import of_fold
from roofml.validation.report import report
from roofml.validation.splits import temporal as temporal_split

TRAINED = 0.6
"""Share of each run that a fit to be judged learns from, as the protocol `temporal` of `roofml evaluate`."""
LATENCIES = ("e2e_mean", "ttft_mean", "tpot_mean")
REFERENCE = {
    "decode 1@1024": Batch(decode=[(1024, 1)]),
    "decode 16@1024": Batch(decode=[(1024, 16)]),
    "decode 64@1024": Batch(decode=[(1024, 64)]),
    "prefill 512": Batch(prefill=[(512, 0)]),
    "prefill 512 and decode 16@1024": Batch(prefill=[(512, 0)], decode=[(1024, 16)]),
}
"""Steps whose times two catalogues are compared by."""


def evidence_of(runs: Sequence[Run]) -> dict[str, Any]:
    """What the deployment's fit says to others: a member of a pooled file. The fit is that of `roofml pool`.

    Raises JobFailedError for one that does not describe its runs.
    """
    learned = trainable(runs)
    pooled = fit_models([(deployment_of(runs), learned)], lambda _done, _name: None)
    return pooled.members[0].model_dump(mode="json")


def judged_fit(
    runs: Sequence[Run], prior: Mapping[str, Any] | None, *, accept_misfit: bool, blis: bool = False
) -> dict[str, Any]:
    """Coefficients of a deployment as YAML, with what its index says of them. Plain data.

    `prior` is that of `prior_document`, or None for what the package's own fits say; with `blis` the file has what
    BLIS's own form needs, too. Raises JobFailedError for a fit that does not describe its runs, unless `accept_misfit`.
    """
    believed = None if prior is None else prior_of(prior)
    calibration = fit(runs, prior=believed)
    calibration.check_described(accept_misfit)
    if blis:
        calibration, _ = with_blis(calibration, trainable(runs))
    text = calibration.to_yaml()
    posterior, deployment = calibration.posterior, calibration.deployment
    return {
        "coefficients": text,
        "coefficients_sha256": digest(text),
        "model": deployment.model.name,
        "dtype": deployment.engine.dtype,
        "requests": posterior.requests,
        "prior": posterior.prior.source,
        "converged": calibration.converged,
        "misfit": list(calibration.misfit),
        "not_identified": list(calibration.not_identified),
        "valid": {name: list(ends) for name, ends in posterior.valid.items()},
        "in_sample_pct": _mean_errors([run.error_pct for run in calibration.runs]),
        "reference_us": _reference(calibration),
        **_held_out(runs, believed),
    }


def _held_out(runs: Sequence[Run], prior: Prior | None) -> dict[str, Any]:
    """Errors on what a fit of the first share of each run has not seen, and of the prior alone on the same requests.

    Both stand on the deployment as it is before any run: what the whole fit learned of it is not theirs.

    Runs too short to be divided, and saturated ones, are not judged: then there are no figures, and the reason.
    """
    nothing: dict[str, Any] = {"held_out_pct": {}, "held_out_worst_pct": {}, "untraced_pct": {}, "judged_runs": 0}
    used = trainable(runs)
    try:
        (fold,) = temporal_split(used, TRAINED)
        deployment = deployment_of([part.run for part in fold.test])
        believed = _default_prior(deployment) if prior is None else prior
        learned = of_fold(fold, lambda _deployment: believed)
        without_trace = uncalibrated(deployment, untraced(believed, deployment))
        held_out, zero_shot = ([_errors(part, of) for part in fold.test] for of in (learned, without_trace))
    except (InputError, JobFailedError) as error:
        return {**nothing, "not_judged": str(error)}
    return {
        "held_out_pct": _mean_errors(held_out),
        "held_out_worst_pct": _mean_errors(held_out, np.max),
        "untraced_pct": _mean_errors(zero_shot),
        "judged_runs": len(held_out),
        "not_judged": "",
    }


def _default_prior(deployment: Deployment) -> Prior:
    from roofml.calibration.other_models import read_other_models

    return read_other_models().prior(deployment)


def _errors(part: Selection, calibration: Calibration) -> dict[str, float]:
    """Errors of what a calibration says of a run's part, %; nobody asks for intervals here."""
    metrics = report(part, calibration.replay(part.run)).metrics
    return {name: metric.error_pct for name, metric in metrics.items()}


def _mean_errors(errors: Any, of: Any = np.mean) -> dict[str, float]:
    """Mean |error| (or the worst) of the means of each latency over runs, %."""
    every = list(errors)
    found: dict[str, float] = {}
    for name in LATENCIES:
        values = [abs(each[name]) for each in every if name in each and np.isfinite(each[name])]
        if values:
            found[name] = rounded(float(of(values)), 4)
    return found


def _reference(calibration: Calibration) -> dict[str, float | None]:
    """Times of the reference steps, µs; none of a step that the deployment cannot hold."""
    ours, times = calibration.deployment, dict[str, float | None]()
    for name, batch in REFERENCE.items():
        try:
            check_step(ours.on_rank, ours.gpu, ours.tp, batch, allow_oversize=calibration.allow_oversize)
            times[name] = rounded(time_us(ours, batch, calibration.parameters))
        except InputError:
            times[name] = None
    return times


def prior_document(prior: Prior, source: str) -> dict[str, Any]:
    """A prior as plain data, to digits that every machine computes alike."""
    return {
        "source": source,
        "mean": [float(f"{value:.10g}") for value in prior.mean],
        "covariance": [[float(f"{value:.10g}") for value in row] for row in prior.covariance],
        "parameters": list(NAMES),
    }


def prior_of(document: Mapping[str, Any]) -> Prior:
    """The prior that `prior_document` wrote."""
    return Prior(
        np.asarray(document["mean"], np.float64), np.asarray(document["covariance"], np.float64), document["source"]
    )
