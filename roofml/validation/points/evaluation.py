"""Answering a file of points: one physics for all points of a deployment, all cores for the replays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.other_models import read_other_models
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.outside_text import for_line
from roofml.validation.points.answer import Answer, answer
from roofml.validation.points.judge import JudgedPoint, PointsEvaluation, judged
from roofml.validation.points.point import Point
from roofml.validation.points.serving import Served, deployment_of, served_of

Refused = InputError | NotSupportedError
OnPoint = Callable[[], None]


def evaluate_points(points: Sequence[Point], on_point: OnPoint = lambda: None) -> PointsEvaluation:
    """Answer every point by physics and what other models' fits say, and judge the answers.

    `on_point` is called when one is done. A point that cannot be priced is not answered, and says why.
    """
    other_models = read_other_models()
    groups: dict[Served, list[int]] = {}
    answers: dict[int, Answer] = {}
    for place, point in enumerate(points):
        try:
            groups.setdefault(served_of(point), []).append(place)
        except (InputError, NotSupportedError) as error:
            answers[place] = _refused(point, error)
            on_point()

    def answer_group(served: Served) -> None:
        places = groups[served]
        try:
            deployment = deployment_of(served)
            calibration = uncalibrated(deployment, other_models.prior(deployment))
        except (InputError, NotSupportedError) as error:
            for place in places:
                answers[place] = _refused(points[place], error)
                on_point()
            return
        for place in places:
            answers[place] = _answered(points[place], calibration)
            on_point()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(answer_group, groups))
    judgements: list[JudgedPoint] = [judged(answers[place]) for place in range(len(points))]
    return PointsEvaluation(judgements, "errors in %, by cell the mean of |error|; no point was learned from")


def _answered(point: Point, calibration: Calibration) -> Answer:
    try:
        return answer(point, calibration)
    except (InputError, NotSupportedError) as error:
        return _refused(point, error)


def _refused(point: Point, error: Exception) -> Answer:
    return Answer(point, refusal=for_line(str(error))[:300])
