"""Answer: what is predicted of a point, with intervals and reasons, or why nothing is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from roofml.calibration.aggregates import Aggregate
from roofml.calibration.calibration import Calibration
from roofml.calibration.predicted_means import predicted_means
from roofml.calibration.prediction import Prediction
from roofml.latency.doubts import Doubt, by_size
from roofml.validation.points.point import Point
from roofml.validation.points.serving import load_of, server_of


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
    metrics = predicted_means(aggregate_of(point, calibration), calibration, doubts, pace, engines=point.dp)
    if not metrics:
        return Answer(point, refusal="no request would complete")
    return Answer(point, metrics, reasons=tuple(doubt.sentence for doubt in by_size(doubts)))
