"""Blackbox: a step takes β0 + β1·prefill tokens + β2·decode tokens, the first form of BLIS and of many simulators.

Three non-negative numbers are learned, by least squares of relative errors on the means over each request's steps;
nothing about the model or the GPU goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy.optimize import nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.engine.step_law import StepLaw
from roofml.latency.batch import StepTable
from roofml.traces.run import Floats, Run
from roofml.validation.baselines.baseline import Baseline, Trained, with_queueing
from roofml.validation.baselines.samples import Samples, stacked
from roofml.validation.cross_validation import Setting

LEAST_US = 1.0
"""Where all that was learned is 0 for a step."""


def betas(samples: Sequence[Samples]) -> Floats:
    """β0, β1, β2: µs, µs a prefill token, µs a decode token."""
    means, pace = stacked(samples, [features(s.schedule.steps) for s in samples])
    solution, _ = cast("tuple[Floats, float]", nnls(means / pace[:, None], np.ones(len(pace))))
    return solution


def features(steps: StepTable) -> Floats:
    """(steps, 3): what the betas multiply."""
    return np.stack((np.ones(len(steps)), steps.prefill_tokens, steps.decode_tokens), axis=1)


def train(samples: Sequence[Samples], seed: int) -> Trained:
    """Regress the three betas."""
    constant, prefill, decode = betas(samples).tolist()

    def law_of(run: Run, where: Setting) -> StepLaw:
        def law(steps: StepTable) -> Floats:
            times = constant + prefill * steps.prefill_tokens + decode * steps.decode_tokens
            return np.maximum(times, LEAST_US)

        return law

    return with_queueing(samples, law_of, free=3)


BLACKBOX = Baseline("blackbox", "linear in prefill and decode tokens", train)
