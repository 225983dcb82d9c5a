"""Identifiability: what a fit's data say of each parameter, and what they leave open.

- `parameters` and `directions`: how much of the prior's uncertainty the data removed, by parameter and by combination.
- `profiles`: intervals where the covariance is a poor guide, because the prior or a bound decides.

Which small workloads would tell more says `experiment_design`.

All in the coordinates of `parameters`: an sd is relative for corrections, and in the parameter's unit for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from scipy.optimize import brentq  # pyright: ignore[reportUnknownVariableType]

from roofml.calibration.bounded import solved_within
from roofml.calibration.measured_load import at_measured_load
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import Prior
from roofml.calibration.solver import Problem, solve
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import LOWER, NAMES, UPPER, from_coordinates, to_coordinates
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats

CHI2 = 3.84
"""Rise of chi² at the ends of a 95 % interval (one degree of freedom)."""
WIDER = 10.0
"""Factor that makes a parameter's prior so wide that only the data decide."""
PARTNER = 0.1
"""Smallest correlation that makes another parameter a partner."""
AT_BOUND = 1e-3
"""A value nearer to its bound than this, in standard deviations of the prior, is at it."""
SETTLED = 0.05
"""The end of a profile interval is found when it moves by less than this share of its distance to the estimate."""


@dataclass(frozen=True)
class Knowledge:
    """What is known of one parameter."""

    name: str
    value: float
    prior_sd: float
    posterior_sd: float
    variance_removed: float
    """Share of the prior's variance that the data removed: 0, they say nothing; 1, they say everything."""
    partner: str | None
    """The parameter it is most correlated with: what the data cannot tell apart from it."""
    correlation: float
    bound: Literal["lower", "upper"] | None
    """Where the fit stopped at a bound: the sd is then not an interval."""


def parameters(fit: Posterior) -> tuple[Knowledge, ...]:
    """What a fit knows of each parameter, in the order of `parameters.PARAMETERS`."""
    x, sd, before = to_coordinates(fit.values), fit.sd, fit.prior.sd
    correlation = fit.covariance / np.outer(sd, sd)
    np.fill_diagonal(correlation, 0.0)
    partners = [int(i) for i in np.argmax(np.abs(correlation), axis=1)]
    knowledge: list[Knowledge] = []
    for i, name in enumerate(NAMES):
        strongest = float(correlation[i, partners[i]])
        low, high = (abs(x[i] - end[i]) < AT_BOUND * before[i] for end in (LOWER, UPPER))
        knowledge.append(
            Knowledge(
                name=name,
                value=float(fit.values[i]),
                prior_sd=float(before[i]),
                posterior_sd=float(sd[i]),
                variance_removed=float(np.clip(1 - (sd[i] / before[i]) ** 2, 0, 1)),
                partner=NAMES[partners[i]] if abs(strongest) > PARTNER else None,
                correlation=strongest,
                bound="lower" if low else "upper" if high else None,
            )
        )
    return tuple(knowledge)


@dataclass(frozen=True, eq=False)
class Direction:
    """A combination of parameters that the data decide, or do not, apart from all others."""

    variance_removed: float
    """Share of the prior's variance along it that the data removed."""
    weights: Floats
    """(parameters,) how far each parameter moves along it, in standard deviations of its prior; of length 1."""

    def terms(self, least: float = 0.3) -> list[tuple[str, float]]:
        """The parameters with a weight of at least `least`, or the heaviest, heaviest first."""
        order = np.argsort(-np.abs(self.weights), kind="stable")
        return [(NAMES[i], float(self.weights[i])) for i in order if abs(self.weights[i]) >= least or i == order[0]]


def directions(fit: Posterior) -> tuple[Direction, ...]:
    """All directions, the best decided first.

    Eigenvectors of the posterior covariance relative to the prior's: with C = LL' the prior's, those v of inverse(L) P
    inverse(L)', moved back by L. An eigenvalue is the share of variance that is left (as in Spantini et al. 2015).
    """
    half = np.linalg.cholesky(fit.prior.covariance)
    whitening = fit.prior.whitening()
    left = whitening @ fit.covariance @ whitening.T
    shares, vectors = np.linalg.eigh(0.5 * (left + left.T))
    ordered: list[Direction] = []
    for share, vector in zip(shares, vectors.T, strict=True):
        weights = (half @ vector) / fit.prior.sd
        weights = weights / np.linalg.norm(weights)
        sign = np.sign(weights[np.argmax(np.abs(weights))])
        ordered.append(Direction(float(np.clip(1 - share, 0, 1)), sign * weights))
    return tuple(ordered)


def effective_parameters(of_fit: Sequence[Direction]) -> float:
    """How many parameters the data decide: the sum of the directions' shares."""
    return sum(direction.variance_removed for direction in of_fit)


# Profile intervals


@dataclass(frozen=True)
class Profile:
    """95 % intervals of one parameter, every other refitted. None is an open end: its bound fits as well."""

    name: str
    low: float | None
    high: float | None
    data_low: float | None
    """With the parameter's own prior made `WIDER`: what the data, and beliefs about the others, say."""
    data_high: float | None
    settled: bool
    """False where the search for one of the four ends still moved when it stopped: that end is rough."""


@dataclass(frozen=True, eq=False)
class _Point:
    """Coordinates, and the problem's QR factor there: its linear model."""

    x: Floats
    qr_factor: Floats

    @classmethod
    def at(cls, problem: Problem, x: Floats) -> _Point:
        return cls(x, problem.qr_factor(x))

    @property
    def chi2(self) -> float:
        """Of the problem itself at x."""
        return float(self.qr_factor[:, -1] @ self.qr_factor[:, -1])

    def best(self, index: int, value: float) -> tuple[Floats, float]:
        """The linear model's minimum with one coordinate held at `value` and all within bounds; chi² there."""
        jacobian, residual = self.qr_factor[:, :-1], self.qr_factor[:, -1]
        others = np.arange(len(self.x)) != index
        held = residual + jacobian[:, index] * (value - self.x[index])
        step: Floats = np.asarray(np.linalg.lstsq(jacobian[:, others], -held, rcond=None)[0], np.float64)
        low, high = LOWER[others] - self.x[others], UPPER[others] - self.x[others]
        if np.any((step < low) | (step > high)):
            step = solved_within(jacobian[:, others], -held, low - 1e-12, high + 1e-12)
        x = self.x.copy()
        x[others] = np.clip(x[others] + step, LOWER[others], UPPER[others])
        x[index] = value
        miss = residual + jacobian @ (x - self.x)
        return x, float(miss @ miss)

    def reaches(self, index: int, target: float, start: float, bound: float, tolerance: float) -> float:
        """Where from `start` to `bound` the linear model's chi² reaches `target`, or the bound if it does not."""

        def rise(value: float) -> float:
            return self.best(index, value)[1] - target

        if rise(bound) <= 0:
            return bound
        if rise(start) >= 0:  # beyond a kink the model does not know the start: half-way back
            return 0.5 * (start + float(self.x[index]))
        return float(cast("Any", brentq)(rise, start, bound, xtol=tolerance))


def problem_of(fit: Posterior, selections: Sequence[Selection], tables: ComponentTables) -> Problem:
    """The least-squares problem of a fit of `selections` at its values, schedules frozen."""
    schedules = [at_measured_load(selection, tables, fit.values) for selection in selections]
    return Problem.of(selections, schedules, [tables] * len(schedules), to_coordinates(fit.values), fit.prior)


def unsure(knowledge: Sequence[Knowledge]) -> tuple[str, ...]:
    """Parameters whose covariance is a poor guide: half or more is the prior's, or a bound is active."""
    return tuple(of.name for of in knowledge if of.variance_removed < 0.5 or of.bound is not None)


def profiles(
    problem: Problem,
    x: Floats,
    names: Sequence[str],
    on_profile: Callable[[int, int], None] | None = None,
) -> tuple[Profile, ...]:
    """Profile intervals of the parameters `names`, from coordinates near the problem's minimum.

    A coordinate is moved away from its estimate, all others refitted, until chi² has risen by `CHI2` (Venzon and
    Moolgavkar 1988). `on_profile(i, n)` is called before each.
    """
    start = _Point.at(problem, solve(problem, x)[0])
    intervals: list[Profile] = []
    for number, name in enumerate(names):
        if on_profile is not None:
            on_profile(number, len(names))
        index = NAMES.index(name)
        wide = replace(problem, prior=_wider(problem.prior, index))
        alone = _Point.at(wide, solve(wide, start.x)[0])
        ends = [_end(p, best, index, side) for p, best in ((problem, start), (wide, alone)) for side in (LOWER, UPPER)]
        intervals.append(Profile(name, *(end for end, _ in ends), settled=all(settled for _, settled in ends)))
    return tuple(intervals)


def _wider(prior: Prior, index: int) -> Prior:
    """The prior with one parameter's standard deviation `WIDER`, its correlations as they are."""
    scale = np.ones(len(prior.mean))
    scale[index] = WIDER
    return replace(prior, covariance=prior.covariance * np.outer(scale, scale))


def _end(problem: Problem, best: _Point, index: int, bounds: Floats) -> tuple[float | None, bool]:
    """The parameter's value where chi² has risen by CHI2 towards its bound, None where it has not when it gets there;
    and whether the search settled.

    The linear model at a point says where; the model is then made anew there, until the end stays.
    """
    target, bound, estimate = best.chi2 + CHI2, float(bounds[index]), float(best.x[index])
    if abs(bound - estimate) < AT_BOUND * problem.prior.sd[index]:
        return None, True
    point, end, inside, settled = best, estimate, estimate, False
    for _ in range(12):
        before, end = end, point.reaches(index, target, inside, bound, 1e-3 * float(problem.prior.sd[index]))
        settled = abs(end - before) <= SETTLED * abs(end - estimate)
        if settled:
            break
        point = _Point.at(problem, point.best(index, end)[0])
        if point.chi2 <= target:
            inside = end
    if end == bound:
        return None, settled
    coordinates = best.x.copy()
    coordinates[index] = end
    return float(from_coordinates(coordinates)[index]), settled
