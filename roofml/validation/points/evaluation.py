"""Answering a file of points: one physics for all points of a deployment, all cores for the replays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.older_engines import with_older_engine
from roofml.calibration.other_models import OtherModels, read_other_models
from roofml.calibration.untraced import SUSTAINED, SUSTAINED_SD, untraced
from roofml.hardware.gpu import TYPICAL
from roofml.latency.deployment import Deployment
from roofml.latency.doubts import Doubt
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.validation.points.anchor import anchor_of, anchored
from roofml.validation.points.answer import Answer, answer
from roofml.validation.points.judge import PointsEvaluation, judged
from roofml.validation.points.point import Point
from roofml.validation.points.serving import Served, deployment_of, served_of

OnPoint = Callable[[], None]


def evaluate_points(
    points: Sequence[Point], *, anchor: bool = False, on_point: OnPoint = lambda: None
) -> PointsEvaluation:
    """Answer every point by physics and what other models' fits say, and judge the answers.

    With `anchor`, the point of median concurrency of each deployment is learned from, and the others are judged.
    `on_point` is called when one is done. A point that cannot be priced is not answered, and says why.
    """
    other_models = read_other_models()
    groups: dict[Served, list[int]] = {}
    answers: dict[int, Answer] = {}
    for place, point in enumerate(points):
        try:
            groups.setdefault(served_of(point), []).append(place)
        except InputError as error:
            answers[place] = _refused(point, error)
            on_point()

    def answer_group(served: Served) -> None:
        places = groups[served]
        try:
            deployment = deployment_of(served)
            calibration, doubts, pace = believed(served, deployment, other_models)
        except InputError as error:
            for place in places:
                answers[place] = _refused(points[place], error)
                on_point()
            return
        if anchor:
            learned = anchor_of([points[place] for place in places])
            places = [place for place in places if points[place] is not learned]
            calibration, doubts, pace = anchored(calibration, doubts, pace, learned)
            on_point()
        for place in places:
            answers[place] = _answered(points[place], calibration, doubts, pace)
            on_point()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(answer_group, groups))
    how = "the point of median concurrency of each deployment is learned from" if anchor else "no point is learned from"
    return PointsEvaluation(
        [judged(answers[place]) for place in sorted(answers)], f"errors in %, by cell the mean of |error|; {how}"
    )


def believed(
    served: Served, deployment: Deployment, other_models: OtherModels
) -> tuple[Calibration, tuple[Doubt, ...], float]:
    """What is believed of a deployment that no point was seen of: its calibration, doubts, and pace."""
    prior, doubts, pace = other_models.prior(deployment), deployment.doubts, 1.0
    if served.older:
        ported = deployment.gpu.kernels_of == TYPICAL
        prior = prior.slower(SUSTAINED, SUSTAINED_SD)
        prior, pace, doubt = with_older_engine(prior, served.engine, served.parallel.tp, ported=ported)
        doubts = (*doubts, doubt)
    else:
        prior = untraced(prior, deployment)
    return uncalibrated(deployment, prior), doubts, pace


def _answered(point: Point, calibration: Calibration, doubts: Sequence[Doubt], pace: float) -> Answer:
    try:
        return answer(point, calibration, doubts, pace)
    except InputError as error:
        return _refused(point, error)


def _refused(point: Point, error: Exception) -> Answer:
    return Answer(point, refusal=for_line(str(error))[:300])
