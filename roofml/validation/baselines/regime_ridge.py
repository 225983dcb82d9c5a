"""Regime ridge: overhead floor or ridge regression on physics components, with weights for each kind of step.

The earlier research on BLIS found steps with and without prompts to follow different lines. Learned are a weight for
each component and a constant in each regime, and the floor: the least pace measured. How hard the ridge pulls is
chosen by generalized cross-validation. Weights are not negative, as more work in a simulator must not take less time;
without that a tenth to a quarter of random steps break it.
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
"""Prompt tokens from which a step counts as prefill-heavy: vLLM runs it without a CUDA graph."""
PULLS = np.logspace(-3, 6, 19)
"""Ridge penalties tried, in units of the standardized columns' squared error."""


def with_heavy(steps: StepSums) -> Ints:
    """0: decodes alone; 1: with prompts; 2: with `HEAVY` prompt tokens or more."""
    return mixed(steps) + (steps.prefill_tokens >= HEAVY)


def ridge(columns: Floats, target: Floats, weights: Floats) -> tuple[Floats, float]:
    """Ridge regression, not negative, with the penalty of the least generalized cross-validation error without that."""
    # Weights of mean 1, so that penalties mean the same for short and long steps.
    weights = weights / weights.mean()
    model = library("sklearn.linear_model").RidgeCV(alphas=PULLS)
    model.fit(columns, target, sample_weight=weights)
    centre, middle = np.average(columns, axis=0, weights=weights), float(np.average(target, weights=weights))
    rows = np.column_stack((columns - centre, target - middle)) * np.sqrt(weights)[:, None]
    triangle = np.linalg.qr(rows, mode="r")
    pull = np.column_stack((np.sqrt(model.alpha_) * np.eye(columns.shape[1]), np.zeros(columns.shape[1])))
    full = np.vstack((triangle, pull))
    found, _ = cast("tuple[Floats, float]", nnls(full[:, :-1], full[:, -1]))
    return found, middle - float(centre @ found)


def _two(samples: Sequence[Samples], seed: int) -> Trained:
    return trained(samples, Form(2, mixed), ridge)


def _three(samples: Sequence[Samples], seed: int) -> Trained:
    return trained(samples, Form(3, with_heavy), ridge)


TWO_REGIME_RIDGE = Baseline("two-regime-ridge", "floor or ridge on components: decode, mixed", _two)
THREE_REGIME_RIDGE = Baseline(
    "three-regime-ridge", "floor or ridge on components: decode, mixed, prefill-heavy", _three
)
