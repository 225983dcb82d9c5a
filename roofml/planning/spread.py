"""How far predictions of a load may be off: the calibration's uncertainty, and the load's own chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay
from roofml.traces.engine_version import wider_for
from roofml.traces.run import Run

CHANCE = "load"
"""The variance that another load of the same kind would have."""


def predictions(
    calibration: Calibration,
    run: Run,
    served: Replay,
    values: Mapping[str, float],
    figures: Callable[[Run, Replay], Mapping[str, float]],
    chance: Mapping[str, float],
) -> dict[str, Prediction]:
    """Metric -> prediction: its value, and how it varies with the parameters and with `chance`, a variance of its
    logarithm. `figures` are those of a replay of the run."""
    drawn = [figures(run, each) for each in calibration.replays(run)]
    found: dict[str, Prediction] = {}
    wider = wider_for(run.server.engine)
    for metric, value in values.items():
        of_draws = [each[metric] for each in drawn if each.get(metric, 0.0) > 0]
        prediction = Prediction.of_draws(value, of_draws).stretched(wider)
        if of_draws:
            prediction = prediction.doubted(calibration.open_doubts)
        if chance.get(metric, 0.0) > 0:
            prediction = prediction.wider(CHANCE, chance[metric])
        found[metric] = prediction
    return found


def chance_of(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metric -> variance of its logarithm over loads that differ by chance alone."""
    found: dict[str, float] = {}
    for metric in samples[0] if samples else ():
        values = [each[metric] for each in samples if each.get(metric, 0.0) > 0]
        if len(values) > 1:
            found[metric] = float(np.var(np.log(values), ddof=1))
    return found
