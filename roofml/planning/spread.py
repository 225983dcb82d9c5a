"""How far predictions of a load may be off: the calibration's uncertainty, and the load's own chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay
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
    """Metric -> prediction: its value, and how it varies with all that is uncertain of the server, and with `chance`.

    `figures` are those of a replay of the run, and `chance` is a variance of their logarithms.
    """
    spread = calibration.replays(run, served=served)
    drawn = spread.each(lambda replayed: figures(run, replayed))
    found: dict[str, Prediction] = {}
    for metric, value in values.items():
        prediction = spread.predicted(metric, value, [each.get(metric) for each in drawn])
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
