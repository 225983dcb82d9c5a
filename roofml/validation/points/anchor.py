"""Anchor: one measured point of a deployment, learned from to predict its others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from roofml.calibration.aggregates import SERVER_SD, sharpened
from roofml.calibration.calibration import Calibration
from roofml.calibration.posterior import posterior_of
from roofml.latency.doubts import Doubt, total_sd
from roofml.util.errors import InputError
from roofml.validation.points.answer import aggregate_of
from roofml.validation.points.point import Point

OTHER_LOADS = 0.7
"""Share of the doubts that one point leaves: what is wrong at its load is not what is wrong at others."""


def anchor_of(points: Sequence[Point]) -> Point:
    """The point of median concurrency (the lower of two in the middle), the first of equal ones."""
    order = sorted(points, key=lambda point: (point.concurrency, point.input_tokens, point.output_tokens))
    middle = order[(len(order) - 1) // 2].concurrency
    return next(point for point in order if point.concurrency == middle)


def anchored(
    calibration: Calibration, doubts: tuple[Doubt, ...], pace: float, learned: Point
) -> tuple[Calibration, tuple[Doubt, ...], float]:
    """Calibration, doubts and pace of a deployment after one of its points.

    As they were where the point cannot be served.
    """
    prior, sd = calibration.posterior.prior, max(SERVER_SD, total_sd(doubts))
    try:
        aggregate = aggregate_of(learned, calibration)
        after = sharpened(prior, pace, sd, [aggregate], f"{calibration.source}, and one measured point")
    except InputError:
        return calibration, doubts, pace
    left_sd = math.hypot(after.pace_sd, OTHER_LOADS * total_sd(doubts))
    left = Doubt("anchor", "what one measured point leaves open of its deployment", left_sd)
    return replace(calibration, posterior=posterior_of(after.prior)), (left,), after.pace
