"""How far predictions of a load may be off: the calibration's uncertainty, and the load's own chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from roofml.calibration.prediction import REQUESTS, Prediction
from roofml.calibration.scatter import scatter
from roofml.engine.replay import Replay
from roofml.latency.doubts import Doubt, total_sd
from roofml.planning.served_load import ServedLoad
from roofml.planning.systems import Spread
from roofml.util.arrays import Floats

CHANCE = "load"
"""The variance that another load of the same kind would have."""
DOUBTS = "doubts"
"""The variance of a rate from what is unsure of all steps."""


def predictions(
    spread: Spread,
    served: ServedLoad,
    values: Mapping[str, float],
    figures: Callable[[Replay], Mapping[str, float]],
    chance: Mapping[str, float],
) -> dict[str, Prediction]:
    """Metric -> prediction: its value, and how it varies with what is uncertain of the servers and with `chance`, a
    variance of its logarithm. `figures` are those of a replay of the load."""
    drawn = spread.each(figures)
    found: dict[str, Prediction] = {}
    for metric, value in values.items():
        of_draws = [each.get(metric) for each in drawn]
        if metric.endswith("_per_s"):
            prediction = _rate(value, of_draws, [each.get("e2e_mean") for each in drawn], spread.doubts)
        else:
            own = scatter(metric, served.latency_us(metric.split("_")[0]))
            prediction = spread.predicted(metric, value, of_draws, {REQUESTS: own})
        if chance.get(metric, 0.0) > 0:
            prediction = prediction.wider(CHANCE, chance[metric])
        found[metric] = prediction
    return found


def _rate(
    value: float, drawn: Sequence[float | None], e2e: Sequence[float | None], doubts: Sequence[Doubt]
) -> Prediction:
    """A rate varies with its server as much as it does in the draws: not at all where requests come at a rate of their
    own, as much as E2E where clients wait for it. Doubts count in that proportion."""
    rates, times = (np.array([np.nan if each is None else each for each in of], np.float64) for of in (drawn, e2e))
    known = (rates > 0) & (times > 0)
    prediction = Prediction.of_draws(value, rates)
    sd = total_sd(doubts)
    if sd == 0 or known.sum() < 3:
        return prediction
    of_times: Floats = np.log(times[known])
    off = of_times - of_times.mean()
    square = float(off @ off)
    slope = float(off @ np.log(rates[known])) / square if square > 0 else 0.0
    return prediction.wider(DOUBTS, (slope * sd) ** 2)


def chance_of(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metric -> variance of its logarithm over loads that differ by chance alone."""
    found: dict[str, float] = {}
    for metric in samples[0] if samples else ():
        values = [each[metric] for each in samples if each.get(metric, 0.0) > 0]
        if len(values) > 1:
            found[metric] = float(np.var(np.log(values), ddof=1))
    return found
