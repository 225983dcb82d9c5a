"""Betas for a model that nobody has served: BLIS's form matched to our step times over the batches that matter.

Our physics, with a native fit's parameters or with the priors alone, gives the time of any step. The betas bring BLIS's
formula nearest to these times, relative to each time. BLIS cannot express a step in flight while the next is formed, or
a front end that grows busy; α0 includes both at a middling load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.blis.deployment import BlisCoefficients, BlisDeployment, hardware_of
from roofml.blis.fit import PRIORS
from roofml.blis.latency import BETA_NAMES, BlisSteps, basis, betas_from_step_times
from roofml.blis.model_view import blis_model
from roofml.calibration.calibrate import physics
from roofml.calibration.calibration import Calibration
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport
from roofml.hardware.gpu import load_gpu
from roofml.latency.batch import StepSums
from roofml.latency.formula import step_times
from roofml.latency.kv_capacity import kv_capacity
from roofml.latency.server_defaults import default_batch
from roofml.models.spec import config_path
from roofml.util.errors import InputError
from roofml.util.reading import read_json_object

CONTEXTS = (128, 512, 1024, 2048, 4096)
"""Mean contexts of the decodes in a batch, tokens."""
CHUNKS = (0, 16, 256, 1024)
"""New tokens of a prompt beside the decodes; the rest of the budget is one more choice. The prompt's context is 0."""
RARE = 0.03
"""Weight of a step that serving seldom runs: fewer than 8 decodes, or a prompt's chunk of hundreds of tokens."""
PRIOR_WEIGHT = 0.01
"""Pull towards the priors of `blis.fit`, in relative error of a step per prior standard deviation. It is enough to
choose between terms that are the same number in every step, such as weights and layers of a dense model."""

MOST_GPUS, MOST_SEQUENCES, MOST_TOKENS = 1024, 65_536, 1_048_576
"""Largest tensor parallel size, requests in a step and new tokens in a step: what is allocated grows with them."""


@dataclass(frozen=True)
class Derived:
    """Derived coefficients, and how far BLIS's form with them is from our step times."""

    coefficients: BlisCoefficients
    median_error_pct: float
    """Over the usual steps: 8 decodes or more, and a prompt's chunk of at most 16 tokens."""
    worst_usual_error_pct: float
    worst_error_pct: float
    """Over all matched steps, prompts that fill the budget included."""


def derive(native: Calibration, blis: BlisDeployment, max_num_seqs: int) -> Derived:
    """Match BLIS's betas to native step times of batches up to `max_num_seqs` requests and the tables' budget."""
    tables, (step, request, _), budget = native.deployment.tables, native.parameters, native.deployment.budget
    sizes = [n for n in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n <= min(max_num_seqs, budget)]
    native_batches: list[list[tuple[int, int, int]]] = []
    blis_batches: list[list[tuple[int, int, int, int]]] = []
    usual: list[bool] = []
    for decodes in sizes:
        for context in CONTEXTS:
            for chunk in dict.fromkeys((*CHUNKS, budget - decodes)):
                if decodes + chunk == 0 or decodes + chunk > budget:
                    continue
                prompt = [(chunk, 0, chunk)] if chunk else []
                native_batches.append(prompt + [(1, context, 0)] * decodes)
                own = [(chunk, 1, 0, chunk)] if chunk else []
                blis_batches.append(own + [(0, 1, context, 1)] * decodes)
                usual.append(decodes >= 8 and chunk <= 16)
    steps = StepSums.from_requests(native_batches, tables.reaches)
    times = step_times(tables, steps, step)
    matrix = basis(blis, BlisSteps.from_batches(blis_batches))
    centre = np.array([PRIORS[name].mean for name in BETA_NAMES])
    spread = np.array([PRIORS[name].spread for name in BETA_NAMES])
    weights = np.where(usual, 1.0, RARE)
    pull = PRIOR_WEIGHT / spread * np.sqrt(weights.sum())
    betas = betas_from_step_times(matrix, times, weights, prior=centre, prior_weight=pull)
    error = 100 * np.abs(matrix @ betas / times - 1)
    middling = [[(1, 1024, 0)] * max(1, min(max_num_seqs, budget) // 2)]
    pace = float(step_times(tables, StepSums.from_requests(middling, tables.reaches), step)[0])
    queueing = request.queueing_us + request.queueing_per_running_us * len(middling[0]) + request.pipeline_delay_us
    return Derived(
        BlisCoefficients.of([round(queueing + pace, 3), 0.0, 0.0], [float(f"{beta:.6g}") for beta in betas]),
        float(np.median(error[usual])),
        float(error[usual].max()),
        float(error.max()),
    )


def derived_export(model: str, gpu: str, tp: int, max_num_seqs: int | None, budget: int | None) -> BlisExport:
    """Derive coefficients from physics and priors alone, with the KV blocks that config and datasheet allow.

    Limits default to vLLM's on this GPU. Raises InputError, naming the option, for a limit that no server has.
    """
    usual_budget, usual_seqs = default_batch(load_gpu(gpu))
    max_num_seqs = usual_seqs if max_num_seqs is None else max_num_seqs
    budget = usual_budget if budget is None else budget
    for option, value, most in (
        ("--tp", tp, MOST_GPUS),
        ("--max-num-seqs", max_num_seqs, MOST_SEQUENCES),
        ("--max-num-batched-tokens", budget, MOST_TOKENS),
    ):
        if not 1 <= value <= most:
            raise InputError(f"{option} {value}: expected between 1 and {most}")
    native = physics(model, gpu, tp, budget=budget)
    deployment = native.deployment
    raw = read_json_object(config_path(model))
    blis = BlisDeployment(blis_model(raw, deployment.model.name), hardware_of(deployment.gpu), tp)
    derived = derive(native, blis, max_num_seqs)
    capacity = kv_capacity(
        deployment.model, deployment.gpu, tp, max_num_batched_tokens=budget, max_num_seqs=max_num_seqs, block_size=16
    )
    return BlisExport(
        model=ModelEntry(deployment.model.name, deployment.gpu.name, tp, model),
        coefficients=derived.coefficients,
        total_kv_blocks=capacity.blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        provenance=(
            "derived by roofml from config, datasheet and kernel measurements: not fitted to any trace",
            f"BLIS's form is {derived.median_error_pct:.1f} % (median), at most {derived.worst_usual_error_pct:.1f} %, "
            "from our time of a usual step",
        ),
    )
