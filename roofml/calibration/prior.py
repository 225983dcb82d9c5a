"""Prior: what is believed of a model's parameters before its trace, and how fits of other models sharpen it.

Models scatter around a common centre. The centre is the mean of what fits found, with the package's own prior as one
more model; a new model scatters around it as the others do, and is as uncertain as they remained. All in the
coordinates of `parameters` (logarithms of corrections).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from roofml.latency.parameters import (
    BETWEEN_SD,
    LOWER,
    NAMES,
    PARAMETERS,
    PRIOR_SD,
    PRIOR_VALUES,
    UPPER,
    from_coordinates,
    to_coordinates,
)
from roofml.util.arrays import Floats

OF_KERNELS = np.array([float(parameter.group == "corrections") for parameter in PARAMETERS])
"""(parameters,) 1 for the corrections of kernels' times."""
MODELS_IMAGINED = 4.0
"""Weight of `between_sd`, in models, against the scatter of the models that were fitted."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A normal distribution of the parameters' coordinates, in the order of `parameters.PARAMETERS`."""

    mean: Floats
    """(parameters,)"""
    covariance: Floats
    """(parameters, parameters)"""
    source: str
    """Where it comes from, for people to read."""

    @property
    def values(self) -> Floats:
        """(parameters,) the parameters at the mean."""
        return from_coordinates(self.mean)

    @property
    def sd(self) -> Floats:
        """(parameters,) standard deviations: relative for corrections, in the parameter's unit for the others."""
        return np.sqrt(np.diag(self.covariance))

    def whitening(self) -> Floats:
        """W (parameters, parameters) with W·(x - mean) of unit covariance."""
        return np.asarray(np.linalg.inv(np.linalg.cholesky(self.covariance)), np.float64)

    def widened(self, sd: Mapping[str, float], common: float = 0.0) -> Prior:
        """With the uncertainty of kernel tables added: component -> relative sd of shapes that were not measured.

        `common` is a variance that the logarithms of all components share: of kernels that stand for a GPU's own.
        """
        extra = np.array([sd.get(name, 0.0) for name in NAMES])
        shared = common * np.outer(OF_KERNELS, OF_KERNELS)
        return replace(self, covariance=self.covariance + np.diag(extra**2) + shared)

    def slower(self, factors: Mapping[str, float], sd: float) -> Prior:
        """With corrections raised by `factors`, each known to a relative `sd`."""
        mean, extra = self.mean.copy(), np.zeros(len(self.mean))
        for name, factor in factors.items():
            mean[NAMES.index(name)] += np.log(factor)
            extra[NAMES.index(name)] = sd**2
        return replace(self, mean=mean, covariance=self.covariance + np.diag(extra))

    def longer(self, name: str, extra: float, sd: float) -> Prior:
        """With `extra` more of an overhead, known to `sd`, both in the parameter's unit."""
        mean, covariance, place = self.mean.copy(), self.covariance.copy(), NAMES.index(name)
        mean[place] += extra
        covariance[place, place] += sd**2
        return replace(self, mean=mean, covariance=covariance)

    def draws(self, count: int, seed: int = 0) -> Floats:
        """`count` sets of parameter values, shape (count, parameters), moved into their bounds; the same for a seed.

        Drawn in pairs mirrored at the mean, so that their mean is exact before they are moved. Not to be written to:
        who asks again gets the same array.
        """
        return _drawn(self, count, seed)

    def at(self, normal: Floats) -> Floats:
        """Parameter values for numbers of a standard normal distribution, (count, parameters) both, within bounds.

        Where a parameter leaves its bounds it is set on the bound, and the others to where they are then expected: a
        fit knows sums better than their parts, and a part that is cut short would make the sum too large.
        """
        unsure = self.sd > 0  # what is known without doubt, a parameter that a file lacks, stays as it is
        x = np.tile(self.mean, (len(normal), 1))
        covariance = self.covariance[np.ix_(unsure, unsure)]
        free = x[:, unsure] + normal[:, unsure] @ np.linalg.cholesky(covariance).T
        for row in free:
            _move_within(row, covariance, LOWER[unsure], UPPER[unsure])
        x[:, unsure] = free
        return from_coordinates(x)


@lru_cache(maxsize=16)  # a step is predicted in a hundredth of the time that the draws take
def _drawn(prior: Prior, count: int, seed: int) -> Floats:
    normal = np.random.default_rng(seed).standard_normal((count - count // 2, len(prior.mean)))
    drawn = prior.at(np.vstack((normal, -normal))[:count])
    drawn.flags.writeable = False
    return drawn


def _move_within(x: Floats, covariance: Floats, lower: Floats, upper: Floats) -> None:
    """Move coordinates x (parameters,) of a normal distribution into their bounds, the others with them, in place."""
    drawn, wanted, held = x.copy(), x.copy(), np.zeros(len(x), bool)
    while (out := ~held & ((x < lower) | (x > upper))).any():
        wanted[out], held = np.clip(x, lower, upper)[out], held | out
        back = np.linalg.solve(covariance[np.ix_(held, held)], wanted[held] - drawn[held])
        x[:] = drawn + covariance[:, held] @ back
        x[held] = wanted[held]


PACKAGE = Prior(to_coordinates(PRIOR_VALUES), np.diag(PRIOR_SD**2), "package")
"""What is known without any trace: kernel measurements, and how vLLM is built (`parameters.PARAMETERS`)."""


@dataclass(frozen=True, eq=False)
class ModelEvidence:
    """What one fit says of its model: mean and covariance of the coordinates under the prior it was fitted with."""

    model: str
    mean: Floats
    covariance: Floats


def pool(evidence: Sequence[ModelEvidence], base: Prior = PACKAGE) -> Prior:
    """The prior for another model, from fits that all had the prior `base`. Without fits: `base` itself.

    Posterior means are averaged as they are. Taking the prior out of each first, as a full hierarchical model would,
    follows directions in which a fit is nearly blind (all-reduces against GEMMs) to where no single model is.
    """
    if not evidence:
        return base
    count = len(evidence)
    means = np.array([fitted.mean for fitted in evidence])
    centre = (means.sum(axis=0) + base.mean) / (count + 1)
    scatter = (MODELS_IMAGINED * BETWEEN_SD**2 + ((means - centre) ** 2).sum(axis=0)) / (MODELS_IMAGINED + count)
    # What each fit says of the centre: its data, blurred by the scatter.
    alone = np.linalg.inv(base.covariance)
    precision = alone.copy()
    for fitted in evidence:
        data = np.linalg.inv(fitted.covariance) - alone
        precision += data - data @ np.linalg.inv(data + np.diag(1 / scatter)) @ data
    left = np.linalg.inv(precision)
    names = ", ".join(fitted.model for fitted in evidence)
    return Prior(centre, 0.5 * (left + left.T) + np.diag(scatter), f"package, sharpened by {names}")
