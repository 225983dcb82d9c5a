"""Betas for a model that nobody has served: BLIS's form matched to our step times over the batches that matter.

Our physics, with a native fit's parameters or with the priors alone, gives the time of any step; the betas are those
with which BLIS's formula is nearest to it, relative to each time. What BLIS cannot say (one step in flight while the
next is formed, a front end that grows busy) goes into α0 at a middling load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.blis.deployment import BlisCoefficients, Deployment
from roofml.blis.fit import PRIORS
from roofml.blis.latency import BETA_NAMES, BlisSteps, basis, betas_from_step_times
from roofml.engine.replay import RequestParameters
from roofml.latency.batch import StepTable
from roofml.latency.formula import StepParameters, step_times
from roofml.validation.cross_validation import Setting

CONTEXTS = (128, 512, 1024, 2048, 4096)
"""Mean contexts of the decodes in a batch, tokens."""
CHUNKS = (0, 16, 256, 1024)
"""New tokens of a prompt computed beside them; the budget's rest comes on top. A prompt's context is taken as 0."""
RARE = 0.03
"""Weight of a step that serving seldom runs: fewer than 8 decodes, or a prompt's chunk of hundreds of tokens."""
PRIOR_WEIGHT = 0.01
"""Pull towards the priors of the fit to runs, in relative error of a step per prior standard deviation: enough to
choose between terms that are the same number in every step, such as weights and layers of a dense model."""


@dataclass(frozen=True)
class Derived:
    """The coefficients, and how far BLIS's form with them is from our step times."""

    coefficients: BlisCoefficients
    median_error_pct: float
    """Over the usual steps: 8 decodes or more, a prompt's chunk of at most 16 tokens."""
    worst_usual_error_pct: float
    worst_error_pct: float
    """Over every step matched, prompts that fill the budget included."""


def derive(
    where: Setting, deployment: Deployment, step: StepParameters, request: RequestParameters, max_num_seqs: int
) -> Derived:
    """Match BLIS's betas to native step times of batches up to `max_num_seqs` requests and the tables' budget."""
    budget = len(where.tables.gemm) - 1
    sizes = [n for n in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n <= min(max_num_seqs, budget)]
    native: list[list[tuple[int, int, int]]] = []
    theirs: list[list[tuple[int, int, int, int]]] = []
    usual: list[bool] = []
    for decodes in sizes:
        for context in CONTEXTS:
            for chunk in dict.fromkeys((*CHUNKS, budget - decodes)):
                if decodes + chunk == 0 or decodes + chunk > budget:
                    continue
                prompt = [(chunk, 0, chunk)] if chunk else []
                native.append(prompt + [(1, context, 0)] * decodes)
                own = [(chunk, 1, 0, chunk)] if chunk else []
                theirs.append(own + [(0, 1, context, 1)] * decodes)
                usual.append(decodes >= 8 and chunk <= 16)
    steps = StepTable.from_batches(native)
    times = step_times(where.tables, steps, step)
    matrix = basis(deployment, BlisSteps.from_batches(theirs))
    centre = np.array([PRIORS[name].mean for name in BETA_NAMES])
    spread = np.array([PRIORS[name].spread for name in BETA_NAMES])
    weights = np.where(usual, 1.0, RARE)
    pull = PRIOR_WEIGHT / spread * np.sqrt(weights.sum())
    betas = betas_from_step_times(matrix, times, weights, prior=centre, prior_weight=pull)
    error = 100 * np.abs(matrix @ betas / times - 1)
    middling = [[(1, 1024, 0)] * max(1, min(max_num_seqs, budget) // 2)]
    pace = float(step_times(where.tables, StepTable.from_batches(middling), step)[0])
    queueing = request.queueing_us + request.queueing_per_running_us * len(middling[0]) + request.pipeline_delay_us
    return Derived(
        BlisCoefficients.of([round(queueing + pace, 3), 0.0, 0.0], [float(f"{beta:.6g}") for beta in betas]),
        float(np.median(error[usual])),
        float(error[usual].max()),
        float(error.max()),
    )
