"""Direct calibration: an ideal step time plus a constant for each step, chosen so that mean E2E is the measured mean.

Earlier research on BLIS settled for this. The ideal is BLIS's roofline. One number is learned, and nothing about TTFT.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.engine.replay import replay_with
from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.deployment import Deployment
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.validation.baselines.baseline import NO_OVERHEAD, Baseline, StepTimesOf, Trained
from roofml.validation.baselines.blis_laws import roofline_of
from roofml.validation.baselines.samples import Samples

REPLAYS = 12
"""Most rounds of replays."""
CLOSE = 1e-4
"""Relative error of mean E2E that ends the search."""


def with_constant(overhead_us: float) -> StepTimesOf:
    """Return BLIS's roofline plus `overhead_us` for each step."""

    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        ideal = roofline_of(run, deployment)

        def times(steps: StepSums) -> Floats:
            return ideal(steps) + overhead_us

        return times

    return times_of


def train(samples: Sequence[Samples], seed: int) -> Trained:
    """Replay and correct the constant by secants within a bracket, because mean E2E rises with it.

    With several runs, the mean over runs of log(replayed mean/measured mean) becomes 0.
    """
    shown = [s for s in samples if s.paced.any()]

    def miss(overhead_us: float) -> float:
        times_of = with_constant(overhead_us)
        ratios: list[float] = []
        for s in shown:
            e2e_us = replay_with(s.run, times_of(s.run, s.deployment), NO_OVERHEAD).e2e_us
            ratios.append(float(np.log(np.mean(e2e_us[s.chosen]) / np.mean(s.run.e2e_us[s.chosen]))))
        return float(np.mean(ratios))

    pace = np.concatenate([s.pace_us for s in shown])
    ideal = [s.request_means(roofline_of(s.run, s.deployment)(s.schedule.steps)[:, None])[:, 0] for s in shown]
    low, high = 0.0, float(np.max(pace))  # no overhead, and a step that is all overhead
    guess = min(max(float(np.mean(pace - np.concatenate(ideal))), 0.0), high)
    earlier: tuple[float, float] | None = None
    best, least = guess, float("inf")  # mean E2E jumps where the schedule does: the last guess need not be the nearest
    for _ in range(REPLAYS):
        error = miss(guess)
        if abs(error) < least:
            best, least = guess, abs(error)
        if least < CLOSE:
            break
        low, high = (low, guess) if error > 0 else (guess, high)
        if high - low < 1e-3:  # a bracket of a nanosecond: a roofline that is too slow already stays without overhead
            break
        # The first correction takes E2E for proportional to the mean step.
        slope = 1 / float(np.mean(pace)) if earlier is None else (error - earlier[1]) / (guess - earlier[0])
        earlier = (guess, error)
        secant = guess - error / slope if slope > 0 else low
        guess = secant if low < secant < high else 0.5 * (low + high)
    return Trained(with_constant(best), NO_OVERHEAD, free=1)


DIRECT_CALIBRATION = Baseline("direct-calibration", "BLIS's roofline and one constant a step", train)
