"""Posterior: what a fit says of the parameters, and how surely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from roofml.calibration.prior import Prior
from roofml.calibration.subset import Subset
from roofml.latency.parameters import LOWER, NAMES, UPPER, from_coordinates, to_coordinates
from roofml.latency.pauses import Pauses
from roofml.util.arrays import Floats

UNDECIDED = 0.5
"""A parameter is not identified where more than this share of its prior's variance is left."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """A normal distribution of the parameters' coordinates. Arrays are in the order of `parameters.PARAMETERS`."""

    values: Floats
    """(parameters,)"""
    covariance: Floats
    """(parameters, parameters), of the logarithm for corrections and of the value for the others."""
    prior: Prior
    """What was believed before."""
    requests: int
    """Requests whose latencies were used."""
    rounds: int
    converged: bool
    """False: the schedule still moved in the last round; more requests or a smaller load settle it."""
    loss: float
    """Norm of the weighted residuals of the last round, priors included: what the fit makes small."""
    paces: Mapping[str, float]
    """Identity of a run -> its server's step times over those of the parameters: near 1, what sets this server apart
    from others of its kind. A run that was not fitted has none, and 1 is to be expected of it, give or take
    `solver.PACE_SD`."""
    valid: Mapping[str, tuple[int, int]]
    """Smallest and largest batch, mean context and new tokens of the steps seen."""
    pauses: Mapping[str, Pauses] = field(default_factory=dict[str, Pauses])
    """Identity of a run -> the pauses of its server's front end, where they were found."""
    stairs: Mapping[int, float] = field(default_factory=dict[int, float])
    """Captured size -> how much longer it takes to read its weights, relatively, where steps of it were seen."""
    subsets: Mapping[str, Subset] = field(default_factory=dict[str, Subset])
    """Identity of a run -> what was fitted of it, where that is not all."""

    @property
    def sd(self) -> Floats:
        """(parameters,) standard deviations: relative for corrections, in the parameter's unit for the others."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def not_identified(self) -> tuple[str, ...]:
        """Parameters of which the prior knew more than the data added: more than half the prior's variance is left."""
        left = self.sd**2 / self.prior.sd**2
        return tuple(name for name, share in zip(NAMES, left, strict=True) if share > UNDECIDED)

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Lower and upper ends of each parameter's interval, shape (parameters,), cut at its bounds.

        Of what is known without doubt, a parameter that a file lacks, both are its value.
        """
        reach = NormalDist().inv_cdf(0.5 + level / 2) * self.sd
        x = to_coordinates(self.values)
        low, high = from_coordinates(np.maximum(x - reach, LOWER)), from_coordinates(np.minimum(x + reach, UPPER))
        return np.where(reach > 0, low, self.values), np.where(reach > 0, high, self.values)


def posterior_of(prior: Prior) -> Posterior:
    """A prior that nothing was added to."""
    return Posterior(prior.values, prior.covariance, prior, 0, 0, True, 0.0, {}, {})
