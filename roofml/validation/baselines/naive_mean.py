"""Naive mean: every step takes as long as the mean measured step. One number is learned; any method has to beat it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.deployment import Deployment
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.validation.baselines.baseline import Baseline, Trained, with_queueing
from roofml.validation.baselines.samples import Samples


def train(samples: Sequence[Samples], seed: int) -> Trained:
    """Learn the mean pace of all requests."""
    mean = float(np.mean(np.concatenate([s.pace_us for s in samples])))

    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        def times(steps: StepSums) -> Floats:
            return np.full(steps.length, mean)

        return times

    return with_queueing(samples, times_of, free=1)


NAIVE_MEAN = Baseline("naive-mean", "every step takes the mean", train)
