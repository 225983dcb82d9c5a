"""Prediction: a value, and an interval that is a sum of named variances.

Draws of what is uncertain say how wide a prediction is and to which side, not where it lies. Parameters have bounds
that good fits touch (no `growth_*` is negative), so draws of them lie to one side: by 2 to 2.5 % of a step's time
before any trace. The value is the best single guess, and measured values scatter around it and not around the middle of
the draws. So draws are moved, in logarithms, until their median is the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from roofml.latency.doubts import Doubt
from roofml.util.arrays import Floats

NORMAL_REACH = 1.6448536269514722
"""Standard deviations from the middle of a normal distribution to the ends of its 90 % interval."""
PARAMETERS = "parameters"
"""The variance that comes from the parameters' uncertainty, that of kernel tables outside their shapes included."""
SERVER = "server"
"""Servers of one kind differ: nothing where this very server was fitted."""
FORMULA = "formula"
"""What no parameters make right."""
RANGE = "range"
"""Steps outside of what a fit has seen."""
OVERLOAD = "overload"
"""Servers at overload slow down, and no cause is proven."""
FIRST_TOKEN = "first token"
"""What comes before the engine: network, tokenization, the front end."""
TAIL = "tail"
"""What a few requests meet, and the replay does not know: pauses of the host, cold starts, a few odd steps."""
REQUESTS = "requests"
"""A mean, or percentile, of so many requests as there were: each has its own noise."""


@dataclass(frozen=True)
class Prediction:
    """A predicted value, and how uncertain it is: nothing is said where there is no variance.

    `variances` are of the logarithm, by where they come from; independent sources add. Replayed draws give the interval
    their own shape, for latency near capacity is far more likely to be longer than shorter; every further variance
    widens both sides alike.
    """

    value: float
    variances: Mapping[str, float] = field(default_factory=dict[str, float])
    drawn: tuple[float, float] | None = None
    """The ends that draws gave."""
    of_drawn: frozenset[str] = frozenset({PARAMETERS})
    """The variances that the draws stand for."""

    @classmethod
    def of_draws(
        cls,
        value: float,
        draws: Sequence[float] | Floats,
        paces: Floats | None = None,
        sources: Mapping[str, float] | None = None,
    ) -> Prediction:
        """From values that parameters as uncertain as they are gave; without any, no interval.

        Each side reaches as far as a normal distribution with that side's mean square would: few draws tell a mean
        square better than a quantile. Draws of steps that were also taken at a pace have its logarithms, (draws,), in
        `paces`, whose variance is the sum of the `sources`. What the pace explains of the draws, by regression, is the
        sources'; the rest is the parameters'. A draw without a logarithm says nothing.
        """
        values = np.asarray(draws, np.float64)
        kept = np.isfinite(values) & (values > 0)
        if not kept.any() or not value > 0:
            return cls(value)
        logs: Floats = np.log(values[kept])
        off = logs - np.median(logs)
        total = float(np.mean(off**2))
        sides = (np.minimum(off, 0.0), np.maximum(off, 0.0))  # half of all draws lie on each side of the median
        below, above = (NORMAL_REACH * float(np.sqrt(2 * np.mean(side**2))) for side in sides)
        ends = (value * float(np.exp(-below)), value * float(np.exp(above)))
        known = {name: variance for name, variance in (sources or {}).items() if variance > 0}
        explained = 0.0
        if paces is not None and known:
            of_kept = paces[kept] - np.mean(paces[kept])
            square = float(of_kept @ of_kept)
            slope = float(of_kept @ (logs - np.mean(logs))) / square if square > 0 else 0.0
            explained = min(total, slope**2 * square / len(of_kept))
        share = explained / sum(known.values()) if known else 0.0
        of_paces = {name: share * variance for name, variance in known.items()}
        return cls(value, {PARAMETERS: total - explained, **of_paces}, ends, frozenset({PARAMETERS, *known}))

    def wider(self, source: str, variance: float) -> Prediction:
        """With one more source of uncertainty: a variance of the logarithm."""
        return self._with({**self.variances, source: self.variances.get(source, 0.0) + variance})

    def doubted(self, doubts: Iterable[Doubt]) -> Prediction:
        """With every doubt's variance, under its name."""
        added = {doubt.name: doubt.variance for doubt in doubts if doubt.variance > 0}
        return self._with({**self.variances, **added}) if added else self

    def _with(self, variances: Mapping[str, float]) -> Prediction:
        return Prediction(self.value, variances, self.drawn, self.of_drawn)

    def stretched(self, factor: float) -> Prediction:
        """With an interval `factor` times as wide, in logarithms, to both sides."""
        if factor == 1.0:
            return self
        ends = None
        if self.drawn is not None:
            low, high = (self.value * float((end / self.value) ** factor) for end in self.drawn)
            ends = (low, high)
        variances = {name: of * factor**2 for name, of in self.variances.items()}
        return Prediction(self.value, variances, ends, self.of_drawn)

    def scaled(self, factor: float) -> Prediction:
        """Of `factor` times as much, as sure as this."""
        ends = self.drawn and (factor * self.drawn[0], factor * self.drawn[1])
        return Prediction(factor * self.value, self.variances, ends, self.of_drawn)

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
        rest = sum(variance for source, variance in self.variances.items() if source not in self.of_drawn)
        if rest == 0:
            return self.drawn
        low, high = (abs(np.log(end / self.value)) for end in self.drawn)
        below, above = (float(np.hypot(side, NORMAL_REACH * np.sqrt(rest))) for side in (low, high))
        return self.value * float(np.exp(-below)), self.value * float(np.exp(above))

    def z(self, measured: float) -> float:
        """How many standard deviations above the value a measurement lies, by the width of the side it is on.

        0 without an interval, and where nothing was measured.
        """
        ends = self.interval_90
        if ends is None or measured <= 0:
            return 0.0
        off = float(np.log(measured / self.value))
        side = abs(float(np.log(ends[off > 0] / self.value)))
        return NORMAL_REACH * off / side if side > 0 else 0.0
