"""Naive mean: every step takes as long as the mean step measured. What any method has to beat; one number learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.baselines.baseline import Baseline, Trained, with_queueing
from roofml.baselines.samples import Samples
from roofml.batch import StepTable
from roofml.evaluate import Setting
from roofml.runs.run import Floats, Run
from roofml.steplaw import StepLaw


def train(samples: Sequence[Samples], seed: int) -> Trained:
    """The mean pace of all requests."""
    mean = float(np.mean(np.concatenate([s.pace_us for s in samples])))

    def law_of(run: Run, where: Setting) -> StepLaw:
        def law(steps: StepTable) -> Floats:
            return np.full(len(steps), mean)

        return law

    return with_queueing(samples, law_of, free=1)


NAIVE_MEAN = Baseline("naive-mean", "every step takes the mean", train)
