"""Predicted means: what a client would print of a load, with intervals, from one replay and its schedule's steps."""

from __future__ import annotations

from collections.abc import Sequence

from roofml.calibration.aggregates import KINDS, Aggregate, ratios, statistics, warmed_up
from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import replay
from roofml.latency.doubts import Doubt
from roofml.latency.parameters import Parameters
from roofml.traces.engine_version import wider_for
from roofml.util.arrays import Floats

FIRST_TOKEN_SD, FIRST_TOKEN_US = 0.25, 30_000.0
"""What tokenization, HTTP and the first requests of a server do to a mean TTFT: a share of it, and some time."""
DRAWS = 40
"""Sets of parameters behind an interval."""


def predicted_means(
    asked: Aggregate, calibration: Calibration, doubts: Sequence[Doubt], pace: float = 1.0, *, engines: int = 1
) -> dict[str, Prediction]:
    """Metric of `aggregates.statistics` -> prediction, of steps that take `pace` times as long as the parameters say.

    The load is that of one of so many `engines`. Empty where nothing would complete.
    """
    parameters = warmed_up(calibration.parameters.paced(pace))
    served = replay(asked.run, asked.tables, parameters)
    figures = statistics(asked.run, served)
    if not figures:
        return {}
    drawn = [warmed_up(Parameters.of(values).paced(pace)) for values in calibration.draws(DRAWS)]
    spread = ratios(served, asked.tables, parameters, drawn).T
    slower: dict[str, Floats] = {**dict(zip(KINDS, spread, strict=True)), "output": 1 / spread[KINDS.index("e2e")]}
    wider = wider_for(calibration.deployment.engine.name)
    metrics: dict[str, Prediction] = {}
    for name, value in figures.items():
        drawn_values = value * slower[name.split("_")[0]]
        if name == "output_tokens_per_s":  # of all engines
            value, drawn_values = value * engines, drawn_values * engines
        prediction = Prediction.of_draws(value, drawn_values).stretched(wider).doubted(doubts)
        if name.startswith("ttft"):
            prediction = prediction.wider("first token", FIRST_TOKEN_SD**2 + (FIRST_TOKEN_US / value) ** 2)
        metrics[name] = prediction
    return metrics
