"""Bayesian ridge: regime ridge whose penalty is inferred from the data (MacKay's evidence), with hinges of batch size.

At a hinge the time may bend, as it does when kernels change tiles. The baseline learns a weight for each component and
hinge and a constant in each of two regimes, and the floor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.util.arrays import Floats
from roofml.validation.baselines.baseline import Baseline, Trained, library
from roofml.validation.baselines.piecewise import Form, mixed, trained
from roofml.validation.baselines.samples import Samples

FORM = Form(2, mixed, hinges=(0.0, 16.0, 32.0, 64.0))


def evidence(columns: Floats, target: Floats, weights: Floats) -> tuple[Floats, float]:
    """Fit a Bayesian linear regression: the precisions of noise and weights maximize the evidence."""
    model = library("sklearn.linear_model").BayesianRidge()
    model.fit(columns, target, sample_weight=weights / weights.mean())
    return np.asarray(model.coef_, np.float64), float(model.intercept_)


def _train(samples: Sequence[Samples], seed: int) -> Trained:
    return trained(samples, FORM, evidence)


BAYESIAN_RIDGE = Baseline("bayesian-ridge", "Bayesian ridge on components and batch hinges", _train)
