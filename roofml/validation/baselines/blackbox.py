"""Blackbox: a step takes β0 + β1·prefill tokens + β2·decode tokens, the first form of BLIS and of many simulators.

It learns three non-negative numbers by least squares of relative errors on the means over each request's steps. It
knows nothing about the model or the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy.optimize import nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.deployment import Deployment
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.validation.baselines.baseline import Baseline, Trained, with_queueing
from roofml.validation.baselines.samples import Samples, stacked

LEAST_US = 1.0
"""Step time if all learned terms of a step are 0."""


def betas(samples: Sequence[Samples]) -> Floats:
    """Return β0 (µs), β1 (µs a prefill token) and β2 (µs a decode token)."""
    means, pace = stacked(samples, [features(s.schedule.steps) for s in samples])
    solution, _ = cast("tuple[Floats, float]", nnls(means / pace[:, None], np.ones(len(pace))))
    return solution


def features(steps: StepSums) -> Floats:
    """Return what the betas multiply, shape (steps, 3)."""
    return np.stack((np.ones(steps.length), steps.prefill_tokens, steps.decode_tokens), axis=1)


def train(samples: Sequence[Samples], seed: int) -> Trained:
    """Learn the three betas."""
    constant, prefill, decode = betas(samples).tolist()

    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        def times(steps: StepSums) -> Floats:
            times = constant + prefill * steps.prefill_tokens + decode * steps.decode_tokens
            return np.maximum(times, LEAST_US)

        return times

    return with_queueing(samples, times_of, free=3)


BLACKBOX = Baseline("blackbox", "linear in prefill and decode tokens", train)
