"""Regime ridge: ridge regression on physics components with a floor, and with weights for each kind of step.

Earlier research on BLIS found that steps with and without prompts follow different lines. The baseline learns a weight
for each component and a constant in each regime, and the floor, which is the least measured pace. Generalized
cross-validation chooses the penalty. Weights are not negative, because more work in a simulator must not take less
time; with free weights a tenth to a quarter of random steps break this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy.optimize import nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.latency.batch import StepSums
from roofml.util.arrays import Floats, Ints
from roofml.validation.baselines.baseline import Baseline, Trained, library
from roofml.validation.baselines.piecewise import Form, mixed, trained
from roofml.validation.baselines.samples import Samples

HEAVY = 256.0
"""A step with this many prompt tokens is prefill-heavy: vLLM runs it without a CUDA graph."""
PULLS = np.logspace(-3, 6, 19)
"""Ridge penalties to choose from, in units of the standardized columns' squared error."""


def with_heavy(steps: StepSums) -> Ints:
    """Return the regime of each step: 0 with decodes alone, 1 with prompts, 2 with `HEAVY` prompt tokens or more."""
    return mixed(steps) + (steps.prefill_tokens >= HEAVY)


def ridge(columns: Floats, target: Floats, weights: Floats) -> tuple[Floats, float]:
    """Fit a non-negative ridge regression. Cross-validation of the ridge with free signs chooses the penalty."""
    # Weights of mean 1, so that penalties mean the same for short and long steps.
    weights = weights / weights.mean()
    model = library("sklearn.linear_model").RidgeCV(alphas=PULLS)
    model.fit(columns, target, sample_weight=weights)
    centre, middle = np.average(columns, axis=0, weights=weights), float(np.average(target, weights=weights))
    rows = np.column_stack((columns - centre, target - middle)) * np.sqrt(weights)[:, None]
    triangle = np.linalg.qr(rows, mode="r")
    pull = np.column_stack((np.sqrt(model.alpha_) * np.eye(columns.shape[1]), np.zeros(columns.shape[1])))
    full = np.vstack((triangle, pull))
    coefficients, _ = cast("tuple[Floats, float]", nnls(full[:, :-1], full[:, -1]))
    return coefficients, middle - float(centre @ coefficients)


def _two(samples: Sequence[Samples], seed: int) -> Trained:
    return trained(samples, Form(2, mixed), ridge)


def _three(samples: Sequence[Samples], seed: int) -> Trained:
    return trained(samples, Form(3, with_heavy), ridge)


TWO_REGIME_RIDGE = Baseline("two-regime-ridge", "floor or ridge on components: decode, mixed", _two)
THREE_REGIME_RIDGE = Baseline(
    "three-regime-ridge", "floor or ridge on components: decode, mixed, prefill-heavy", _three
)
