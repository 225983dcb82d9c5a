"""Prediction: a value, and an interval that is a sum of named variances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from roofml.latency.doubts import Doubt
from roofml.util.arrays import Floats

LOW, HIGH = 0.05, 0.95
"""The ends of a 90 % interval, as shares of what is expected to lie below."""
NORMAL_REACH = 1.6448536269514722
"""Standard deviations from the middle of a normal distribution to the ends of its 90 % interval."""
PARAMETERS = "parameters"
"""The variance that comes from the parameters' uncertainty, that of kernel tables outside their shapes included."""


@dataclass(frozen=True)
class Prediction:
    """A predicted value, and how uncertain it is: nothing is said where there is no variance.

    `variances` are of the logarithm, by where they come from; independent sources add. Replayed draws of the parameters
    give the interval their own shape, for latency near capacity is far more likely to be longer than shorter; every
    further variance widens both sides alike.
    """

    value: float
    variances: Mapping[str, float] = field(default_factory=dict[str, float])
    drawn: tuple[float, float] | None = None
    """The ends that draws of the parameters gave."""

    @classmethod
    def of_draws(cls, value: float, draws: Sequence[float] | Floats) -> Prediction:
        """From values that parameters as uncertain as they are gave; without any, no interval."""
        if not len(draws):
            return cls(value)
        low, high = (float(np.quantile(draws, share)) for share in (LOW, HIGH))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.asarray(draws, np.float64))
        variance = float(np.var(logs)) if np.all(np.isfinite(logs)) else float("inf")
        return cls(value, {PARAMETERS: variance}, (low, high))

    def wider(self, source: str, variance: float) -> Prediction:
        """With one more source of uncertainty: a variance of the logarithm."""
        return Prediction(self.value, {**self.variances, source: variance}, self.drawn)

    def doubted(self, doubts: Iterable[Doubt]) -> Prediction:
        """With every doubt's variance, under its name."""
        added = {doubt.name: doubt.variance for doubt in doubts if doubt.variance > 0}
        return Prediction(self.value, {**self.variances, **added}, self.drawn) if added else self

    def stretched(self, factor: float) -> Prediction:
        """With an interval `factor` times as wide, in logarithms, to both sides."""
        if factor == 1.0:
            return self
        ends = None
        if self.drawn is not None:
            low, high = (self.value * float((end / self.value) ** factor) for end in self.drawn)
            ends = (low, high)
        return Prediction(self.value, {name: of * factor**2 for name, of in self.variances.items()}, ends)

    @property
    def sd(self) -> float:
        """Relative standard deviation: the root of the variances' sum."""
        return float(np.sqrt(sum(self.variances.values())))

    @property
    def interval_90(self) -> tuple[float, float] | None:
        """Where a measurement lies with 90 % probability; None where nothing is known of that."""
        if not self.variances:
            return None
        if self.drawn is None:
            reach = float(np.exp(NORMAL_REACH * self.sd))
            return self.value / reach, self.value * reach
        rest = sum(variance for source, variance in self.variances.items() if source != PARAMETERS)
        if rest == 0:
            return self.drawn
        low, high = (abs(np.log(end / self.value)) for end in self.drawn)
        below, above = (float(np.hypot(side, NORMAL_REACH * np.sqrt(rest))) for side in (low, high))
        return self.value * float(np.exp(-below)), self.value * float(np.exp(above))
