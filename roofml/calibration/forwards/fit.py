"""Fit of bare forwards: what the times of exact batches say of the parameters.

Least squares in logarithms, by parameters and offsets together, both with their priors. What the formula gets wrong
about a batch no timing removes: no case is trusted further than `CASE_SD`, and all of one size share `STAIR_SD`. A
case whose samples
spread weighs less, one far from all others little; where residuals are larger than that, all weigh less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.calibration.bounded import solved_within
from roofml.calibration.forwards.kernels import KernelRows, kernel_rows
from roofml.calibration.forwards.offsets import ABSENT, OFFSET_NAMES, OFFSET_PRIOR, OFFSET_SD, OFFSETS, STAIR_SD, stairs
from roofml.calibration.forwards.times import Timed
from roofml.calibration.information import variances
from roofml.calibration.judge import FARTHEST_RATIO, FARTHEST_SD, PREDICTION_SD
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import Prior
from roofml.latency.bare_forward import bare_tables, sums_of
from roofml.latency.batch import StepSums
from roofml.latency.components import StepComponents
from roofml.latency.deployment import Deployment
from roofml.latency.formula import corrected
from roofml.latency.parameters import LOWER, NAMES, STEP_COUNT, UPPER, StepParameters, from_coordinates
from roofml.traces.forwards import Forwards
from roofml.util.arrays import Floats

CASE_SD = 0.007
"""Relative error of the formula about one batch that timing it does not remove, besides that of all batches of its size
(`offsets.STAIR_SD`)."""
SAMPLES_RANGE = 2.326
"""Expected range of five normal numbers, in standard deviations: the spread that the benchmark says is one."""
ROUTED_SD = 0.5
"""Relative error of what a mixture's experts take where the weights, and nobody knows which, chose them."""
OUTLIER = 8.0
"""A case beyond this many standard deviations loses weight, as a request does: not before, for one case may be all that
tells of a parameter that the prior is wrong about."""
FEWEST_TO_SCALE = 8
"""Cases from which on their own residuals say that they are worse than believed."""
ROUNDS, SETTLED = 40, 0.005
POOR = 0.1
"""Median residual after the fit, in logarithms, beyond which it does not describe its cases."""


@dataclass(frozen=True, eq=False)
class ForwardFit:
    """What one file of forwards says."""

    posterior: Posterior
    offsets: Floats
    """(offsets,) as found."""
    names: tuple[str, ...]
    """Of the cases."""
    error_pct: Floats
    """(cases,) 100·(predicted/measured - 1) of each after the fit."""
    sd_pct: Floats
    """(cases,) how far each was trusted."""
    misfit: tuple[str, ...]
    """Why it does not describe its cases; empty where it does."""

    def to_dict(self, file: str) -> dict[str, Any]:
        """As `roofml fit --json` prints it."""
        return {
            "file": file,
            "error_pct": dict(zip(self.names, self.error_pct.tolist(), strict=True)),
            "sd_pct": dict(zip(self.names, self.sd_pct.tolist(), strict=True)),
            "offsets": dict(zip(OFFSET_NAMES, self.offsets.tolist(), strict=True)),
        }


def case_sd(spread_pct: Floats) -> Floats:
    """(cases,) relative standard deviation of a case, from the spread of its samples."""
    return np.hypot(CASE_SD, spread_pct / 100 / SAMPLES_RANGE)


def fit_forwards(deployment: Deployment, prior: Prior, forwards: Forwards) -> ForwardFit:
    """Fit the cases of a file, on a GPU of this deployment; what they do not reach stays as `prior` has it.

    Raises NotSupportedError for a deployment whose forwards are not fitted.
    """
    budget = max(case.new_tokens for case in forwards.cases)
    tables = bare_tables(deployment, budget)
    sums = sums_of([case.requests for case in forwards.cases], tables)
    timed = Timed.of(sums, tables, bare=True)
    measured = np.array([case.median_us for case in forwards.cases])
    sd = case_sd(np.array([case.spread_pct for case in forwards.cases]))
    real = np.array([case.routing == "real" for case in forwards.cases])
    routed = real * _share_of_experts(timed, prior.values)
    sd = np.hypot(sd, ROUTED_SD / 2 * routed)
    (sizes,) = stairs([case.new_tokens for case in forwards.cases])
    shared = _Shared(np.column_stack((sizes, routed)), np.array([STAIR_SD] * sizes.shape[1] + [ROUTED_SD]))
    problem = _Problem(prior, timed, np.log(measured), sd, shared, kernel_rows(forwards, timed))
    z, covariance = problem.solved()
    residual = problem.residuals(z)
    names = tuple(case.name for case in forwards.cases)
    error_pct = 100 * np.expm1(residual)
    misfit = _surprise(deployment, prior, problem) or _poor(names, residual)
    return ForwardFit(
        posterior=Posterior(
            values=from_coordinates(z[: len(NAMES)]),
            covariance=covariance,
            prior=prior,
            requests=0,
            rounds=problem.rounds,
            converged=problem.rounds < ROUNDS,
            loss=problem.loss(z),
            paces={},
            valid=_ranges(sums),
        ),
        offsets=z[len(NAMES) :][: len(OFFSETS)],
        names=names,
        error_pct=error_pct,
        sd_pct=100 * sd,
        misfit=tuple(f"{forwards.name}: {text}" for text in misfit),
    )


def _share_of_experts(timed: Timed, values: Floats) -> Floats:
    """(cases,) share of a forward that depends on how tokens were routed; 0 of a dense model."""
    if not timed.tables.experts:
        return np.zeros(timed.count)
    columns = [column[: timed.count] for column in timed.columns]
    parts = corrected(StepComponents(*columns[:-3]), columns[-3], StepParameters(*values[:STEP_COUNT]))
    times, _ = timed.times_and_slopes(values, OFFSET_PRIOR)
    return np.minimum(1.0, (parts.expert_weights + parts.prefill_gemm + parts.decode_gemm) / times)


@dataclass(frozen=True, eq=False)
class _Shared:
    """Errors that several cases share: those of one size, and those whose experts were chosen nobody knows how."""

    columns: Floats
    """(cases, errors) by how much each moves the logarithm of a case's time."""
    sd: Floats
    """(errors,)"""


class _Problem:
    """Least squares of the logarithms of times, by parameters, offsets and shared errors, in this order."""

    def __init__(
        self, prior: Prior, timed: Timed, target: Floats, sd: Floats, shared: _Shared, kernels: KernelRows
    ) -> None:
        self.timed, self.target, self.sd, self.shared, self.kernels = timed, target, sd, shared.columns, kernels
        self.rounds = 0
        own = np.concatenate((OFFSET_SD, shared.sd))
        self.free = np.concatenate((prior.sd > 0, np.ones(len(own), np.bool_)))
        self.low = np.concatenate((LOWER, np.full(len(own), -np.inf)))
        self.high = np.concatenate((UPPER, np.full(len(own), np.inf)))
        self.mean = np.concatenate((prior.mean, OFFSET_PRIOR, np.zeros(len(shared.sd))))
        full = np.zeros((len(self.mean),) * 2)
        full[: len(NAMES), : len(NAMES)] = prior.covariance
        full[len(NAMES) :, len(NAMES) :] = np.diag(own**2)
        self.covariance = full
        inner = full[np.ix_(self.free, self.free)]
        self.whitening = np.linalg.inv(np.linalg.cholesky(inner))

    def residuals(self, z: Floats) -> Floats:
        """(cases,) logarithm of predicted over measured, shared errors left out: they predict nothing."""
        return self.at(z)[0][: len(self.sd)] - self.shared @ z[len(NAMES) + len(OFFSETS) :]

    def at(self, z: Floats) -> tuple[Floats, Floats]:
        """(cases + kernels,) residuals, and (cases + kernels, coordinates) derivatives."""
        values, offsets = from_coordinates(z[: len(NAMES)]), z[len(NAMES) :][: len(OFFSETS)]
        times, slopes = self.timed.times_and_slopes(values, offsets)
        residual, rows = self.kernels.rows(values, offsets)
        fixed = np.zeros((len(rows), self.shared.shape[1]))
        of_cases = np.log(times) - self.target + self.shared @ z[len(NAMES) + len(OFFSETS) :]
        return np.concatenate((of_cases, residual)), np.block([[slopes, self.shared], [rows, fixed]])

    def _weights(self, residual: Floats) -> Floats:
        sd = np.concatenate((self.sd, self.kernels.sd))
        relative = np.abs(residual) / sd
        scale = 1.0
        if len(self.sd) >= FEWEST_TO_SCALE:
            scale = max(1.0, 1.4826 * float(np.median(relative[: len(self.sd)])))
        return 1 / (scale * sd) / np.maximum(1.0, relative / (OUTLIER * scale))

    def _cost(self, z: Floats, weights: Floats) -> float:
        away = self.whitening @ (z - self.mean)[self.free]
        return float(away @ away + np.sum((self.at(z)[0] * weights) ** 2))

    def loss(self, z: Floats) -> float:
        """Norm of the weighted residuals, priors included."""
        return self._cost(z, self._weights(self.at(z)[0])) ** 0.5

    def solved(self) -> tuple[Floats, Floats]:
        """The best coordinates (parameters + offsets,), and the covariance of the parameters'."""
        sd = np.sqrt(np.diag(self.covariance))
        z = np.clip(self.mean, self.low, self.high)
        for self.rounds in range(1, ROUNDS + 1):
            residual, slopes = self.at(z)
            weights = self._weights(residual)
            left = np.vstack((self.whitening, (slopes * weights[:, None])[:, self.free]))
            right = -np.concatenate((self.whitening @ (z - self.mean)[self.free], residual * weights))
            low, high = (self.low - z)[self.free] - 1e-12, (self.high - z)[self.free] + 1e-12
            step = np.zeros(len(z))
            step[self.free] = solved_within(left, right, low, high)
            cost, before = self._cost(z, weights), z
            for damping in (1.0, 0.5, 0.25, 0.1):
                tried = np.clip(before + damping * step, self.low, self.high)
                if self._cost(tried, weights) < cost:
                    z = tried
                    break
            if float(np.max(np.abs(z - before)[self.free] / sd[self.free])) < SETTLED:
                break
        residual, slopes = self.at(z)
        rows = (slopes * self._weights(residual)[:, None])[:, self.free]
        inner = np.linalg.inv(self.whitening.T @ self.whitening + rows.T @ rows)
        covariance = np.zeros_like(self.covariance)
        covariance[np.ix_(self.free, self.free)] = inner
        covariance = covariance[: len(NAMES), : len(NAMES)]
        return z, 0.5 * (covariance + covariance.T)


def _surprise(deployment: Deployment, prior: Prior, problem: _Problem) -> tuple[str, ...]:
    """Whether the cases took so much longer or shorter than is believed that something else was timed."""
    residual, slopes = problem.at(problem.mean)
    count = problem.timed.count
    ratio = float(np.exp(-np.median(residual[:count])))
    sd = float(np.hypot(np.sqrt(np.median(variances(problem.covariance, slopes[:count]))), PREDICTION_SD))
    if abs(np.log(ratio)) < max(np.log(FARTHEST_RATIO), FARTHEST_SD * sd):
        return ()
    factor = f"{ratio:.3g} times as long" if ratio > 1 else f"{1 / ratio:.3g} times as short"
    said = f"forwards take {factor} as physics says of {deployment.title} (±{100 * sd:.0f} %)"
    return (f"{said}: look at the model, the GPU, the tensor parallel size and the precision",)


def _poor(names: Sequence[str], residual: Floats) -> tuple[str, ...]:
    """Whether the fit is far from its own cases."""
    typical = float(np.median(np.abs(residual[: len(names)])))
    if typical < POOR:
        return ()
    worst = names[int(np.argmax(np.abs(residual[: len(names)])))]
    return (f"half of the cases are over {100 * typical:.0f} % off after the fit, {worst} most",)


def _ranges(sums: StepSums) -> dict[str, tuple[int, int]]:
    """Smallest and largest batch, mean context and new tokens of the cases."""
    decodes = sums.decode_tokens > 0
    context = sums.decode_context[decodes] / sums.decode_tokens[decodes]
    return {
        "batch": (int(sums.requests.min()), int(sums.requests.max())),
        "context": (int(context.min()), int(np.ceil(context.max()))) if len(context) else (0, 0),
        "new_tokens": (int(sums.new_tokens.min()), int(sums.new_tokens.max())),
    }


def unseen_by_forwards(deployment: Deployment) -> tuple[str, ...]:
    """Parameters that no forward tells anything of: those need a client's file of a server."""
    return (*ABSENT, *NAMES[STEP_COUNT:])
