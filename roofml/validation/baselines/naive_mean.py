"""Naive mean: every step takes as long as the mean step measured. What any method has to beat; one number learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.engine.step_law import StepLaw
from roofml.latency.batch import StepTable
from roofml.traces.run import Floats, Run
from roofml.validation.baselines.baseline import Baseline, Trained, with_queueing
from roofml.validation.baselines.samples import Samples
from roofml.validation.cross_validation import Setting


def train(samples: Sequence[Samples], seed: int) -> Trained:
    """The mean pace of all requests."""
    mean = float(np.mean(np.concatenate([s.pace_us for s in samples])))

    def law_of(run: Run, where: Setting) -> StepLaw:
        def law(steps: StepTable) -> Floats:
            return np.full(len(steps), mean)

        return law

    return with_queueing(samples, law_of, free=1)


NAIVE_MEAN = Baseline("naive-mean", "every step takes the mean", train)
