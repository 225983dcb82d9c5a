"""Answer: what is predicted of a point, with intervals and reasons, or why nothing is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from roofml.calibration.aggregates import KINDS, Aggregate, ratios, statistics
from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import replay
from roofml.latency.doubts import Doubt, by_size
from roofml.latency.parameters import Parameters
from roofml.traces.engine_version import wider_for
from roofml.util.arrays import Floats
from roofml.validation.points.point import Point
from roofml.validation.points.serving import load_of, server_of

FIRST_TOKEN_SD, FIRST_TOKEN_US = 0.25, 30_000.0
"""What tokenization, HTTP and the first requests of a server do to a mean TTFT: a share of it, and some time."""
DRAWS = 40
"""Sets of parameters behind an interval."""


@dataclass(frozen=True)
class Answer:
    """Predicted metrics of one point; times in µs."""

    point: Point
    metrics: Mapping[str, Prediction] = field(default_factory=dict[str, Prediction])
    """Metric -> prediction, for all of `Point.measured`'s names; `output_tokens_per_s` in tokens a second."""
    refusal: str | None = None
    """Why there is none."""
    reasons: tuple[str, ...] = ()
    """What makes it less sure than a measured deployment is, the largest first."""

    @property
    def answered(self) -> bool:
        """Whether anything is predicted."""
        return self.refusal is None


def aggregate_of(point: Point, calibration: Calibration) -> Aggregate:
    """The point's load on its server. Raises InputError where its GPUs cannot hold it."""
    deployment = calibration.deployment
    server = server_of(point, deployment)
    return Aggregate(load_of(point).run(server), deployment.serving(server).tables, point.measured)


def answer(point: Point, calibration: Calibration, doubts: Sequence[Doubt], pace: float = 1.0) -> Answer:
    """Serve the point's load with a calibration of its deployment, whose steps take `pace` times as long.

    Raises InputError where its GPUs cannot.
    """
    asked = aggregate_of(point, calibration)
    parameters = calibration.parameters.paced(pace)
    served = replay(asked.run, asked.tables, parameters)
    figures = statistics(asked.run, served)
    if not figures:
        return Answer(point, refusal="no request would complete")
    drawn = [Parameters.of(values).paced(pace) for values in calibration.draws(DRAWS)]
    spread = ratios(served, asked.tables, parameters, drawn).T
    slower: dict[str, Floats] = {**dict(zip(KINDS, spread, strict=True)), "output": 1 / spread[KINDS.index("e2e")]}
    wider = wider_for(calibration.deployment.engine.name)
    metrics: dict[str, Prediction] = {}
    for name, value in figures.items():
        drawn_values = value * slower[name.split("_")[0]]
        if name == "output_tokens_per_s":  # of all engines
            value, drawn_values = value * point.dp, drawn_values * point.dp
        prediction = Prediction.of_draws(value, drawn_values).stretched(wider).doubted(doubts)
        if name.startswith("ttft"):
            prediction = prediction.wider("first token", FIRST_TOKEN_SD**2 + (FIRST_TOKEN_US / value) ** 2)
        metrics[name] = prediction
    return Answer(point, metrics, reasons=tuple(doubt.sentence for doubt in by_size(doubts)))
