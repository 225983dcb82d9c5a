"""Means: a weak fit, of runs of which means and percentiles are known and no request's times.

What measured means say of the parameters sharpens the prior (`aggregates`); what they leave open stays as uncertain as
it was, so that every prediction of such a fit has an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roofml.calibration.aggregates import ROUNDS, Aggregate, sharpened, statistics, warmed_up
from roofml.calibration.calibration import Calibration
from roofml.calibration.fit import ranges
from roofml.calibration.fitted_run import FittedRun
from roofml.calibration.posterior import Posterior
from roofml.calibration.predicted_means import predicted_means
from roofml.calibration.prior import Prior
from roofml.engine.replay import replay
from roofml.latency.components import ComponentTables
from roofml.latency.deployment import Deployment
from roofml.latency.parameters import Parameters
from roofml.traces.aggregate_run import AggregateRun
from roofml.traces.run import Run
from roofml.util.errors import InputError
from roofml.workloads.aggregate_load import rebuilt

FITTED = ("e2e_mean", "ttft_mean", "tpot_mean")
DECODING = ("tpot_mean", "tpot_median", "e2e_mean")
"""Means by which the time of steps is judged, the first that was measured."""
FARTHEST_PACE, BISECTIONS = 4.0, 8
MOST_ERROR_PCT = 15.0
"""How far a mean may stay from what was measured."""
SURPRISE_SD, SURPRISE = 4.0, 0.5
"""How far from what was believed a mean may lie: so many standard deviations, and that much of it."""


@dataclass(frozen=True, eq=False)
class MeansRun:
    """A run of means and the load that made them."""

    told: AggregateRun
    run: Run
    """Its requests on its server, with no latency."""

    def on(self, gpu: str) -> MeansRun:
        """The run on `gpu`, unless its files or the user named a GPU."""
        return MeansRun(self.told.on(gpu), self.run.on(gpu))

    def aggregate(self, deployment: Deployment) -> Aggregate:
        """What was measured of it, over the tables of its server."""
        measured = {name: value for name, value in self.told.measured.items() if not name.startswith("itl")}
        return Aggregate(self.run, deployment.serving(self.run.server).tables, measured)


def means_runs(aggregates: Sequence[AggregateRun]) -> list[MeansRun]:
    """The runs with the loads that made them. Raises InputError where a file does not tell that."""
    return [MeansRun(told, rebuilt(told)) for told in aggregates]


def usable(runs: Sequence[MeansRun]) -> list[MeansRun]:
    """Those that a fit may see. Raises InputError, with the reason, where one may not, for all were given to be."""
    for each in runs:
        if each.told.overview.unfit is not None:
            raise InputError(f"{each.told.name}: cannot be fitted on: {each.told.overview.unfit}")
    return [each for each in runs if not each.told.saturated] or list(runs)


def sharpened_by(prior: Prior, deployment: Deployment, runs: Sequence[MeansRun]) -> Prior:
    """The prior after the means of these runs. Their servers' pace is in it: few means cannot tell it apart."""
    aggregates = [each.aggregate(deployment) for each in runs]
    source = f"{prior.source}, and means of {len(runs)} run{'s' if len(runs) > 1 else ''}"
    start = _measured_pace(prior, aggregates)
    return sharpened(prior, 1.0, 0.0, aggregates, source, start).prior


def _measured_pace(prior: Prior, aggregates: Sequence[Aggregate]) -> float:
    """How many times as long steps must take as is believed for the loads to take as long as they did, by bisection."""
    low, high = -np.log(FARTHEST_PACE), np.log(FARTHEST_PACE)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        parameters = warmed_up(Parameters.of(prior.values).paced(float(np.exp(middle))))
        ratios = [
            measured / found
            for aggregate in aggregates
            for found, measured in [_second(aggregate, statistics(aggregate.run, replay(*_of(aggregate), parameters)))]
            if found and measured
        ]
        if not ratios:
            return 1.0
        low, high = (middle, high) if np.mean(np.log(ratios)) > 0 else (low, middle)
    return float(np.exp(0.5 * (low + high)))


def _of(aggregate: Aggregate) -> tuple[Run, ComponentTables]:
    return aggregate.run, aggregate.tables


def _second(aggregate: Aggregate, found: Mapping[str, float]) -> tuple[float, float]:
    """(replayed, measured) TPOT of a load, or the E2E where there is none; zeros where nobody knows it."""
    name = next((name for name in DECODING if aggregate.measured.get(name)), "")
    return found.get(name, 0.0), aggregate.measured.get(name, 0.0)


def fit_means(deployment: Deployment, prior: Prior, runs: Sequence[MeansRun]) -> Calibration:
    """The calibration that means alone give, with what they leave uncertain."""
    after = sharpened_by(prior, deployment, runs)
    believed = Calibration(deployment, _posterior(prior, prior, 0, {}))
    wrong = [text for each in runs if (text := _surprise(each, believed, deployment))]
    served = [replay(each.run, each.aggregate(deployment).tables, Parameters.of(after.values)) for each in runs]
    fitted: list[FittedRun] = []
    for each, replayed in zip(runs, served, strict=True):
        found = statistics(each.run, replayed)
        measured = each.told.measured
        errors = {
            name: 100 * (found[name] / measured[name] - 1) for name in FITTED if found.get(name) and measured.get(name)
        }
        if not wrong and any(abs(errors.get(name, 0.0)) > MOST_ERROR_PCT for name in ("e2e_mean", "tpot_mean")):
            said = ", ".join(f"{name} {error:+.0f} %" for name, error in errors.items())
            wrong.append(
                f"{each.told.name}: its means are not met ({said}): look at the limits of the server, and the load"
            )
        fitted.append(
            FittedRun(each.told.name, each.told.identity, None, errors, each.told.overview.completed, means_alone=True)
        )
    requests = sum(each.told.overview.completed for each in runs)
    posterior = _posterior(after, prior, requests, ranges([replayed.schedule for replayed in served]))
    return Calibration(deployment, posterior, tuple(fitted), misfit=tuple(wrong))


def _posterior(after: Prior, prior: Prior, requests: int, valid: dict[str, tuple[int, int]]) -> Posterior:
    return Posterior(after.values, after.covariance, prior, requests, ROUNDS, True, 0.0, {}, valid)


def _surprise(each: MeansRun, believed: Calibration, deployment: Deployment) -> str:
    """Whether decoding took so much longer or shorter than physics and priors allow that something else was served."""
    predicted = predicted_means(each.aggregate(deployment), believed, ())
    for name in DECODING:
        measured = each.told.measured.get(name)
        if name in predicted and measured:
            ratio = measured / predicted[name].value
            if abs(np.log(ratio)) > max(SURPRISE_SD * predicted[name].sd, SURPRISE):
                factor = f"{ratio:.3g} times as long" if ratio > 1 else f"{1 / ratio:.3g} times as short"
                said = f"{name} is {factor} as physics says of {deployment.title} (±{100 * predicted[name].sd:.0f} %)"
                return f"{each.told.name}: {said}: look at the model, the GPU and the load"
            break
    return ""
