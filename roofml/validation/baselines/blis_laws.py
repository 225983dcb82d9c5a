"""BLIS's two step times with its defaults. Nothing is learned from the samples.

Source: github.com/inference-sim/inference-sim at f90a1e3, sim/latency and defaults.yaml. Our scheduler
serves them, and it forms a batch while the step before it runs. BLIS's scheduler does not; `roofml.blis.replay` is BLIS
as a whole. Both use BLIS's bundled alphas for the time that a request spends outside steps, although these were fitted
together with `trained-physics` alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.blis.deployment import BlisDeployment, blis_deployment_of, check_deployment
from roofml.blis.latency import BlisSteps, basis_times, clamp, complete, rates, weighted_sum
from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.deployment import Deployment
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.validation.baselines.baseline import NO_OVERHEAD, Baseline, StepTimesOf, Trained
from roofml.validation.baselines.samples import Samples

ALPHAS = (15563.199579, 777.3455, 45.907545)
"""From arrival to queue, at completion, per output token; µs, of which BLIS drops the fraction."""
BETAS = (0.152128, 0.0, 1.36252915, 0.752037, 32.09546717, 4.41684444, 126.024825, 481.8613888, 0.0, 1.94710771)
"""β1 .. β10; β11 is 0.752037, as β4."""


def blis_steps(steps: StepSums) -> BlisSteps:
    """Return the sums of BLIS's formulas. All are exact except `prefill_pairs`.

    This is Σ new·(prompt + new/2), and a StepSums has neither the prompt nor Σ new². So each prefill counts as its
    prompt's last chunk, prompt = context + new, and as long as the step's mean prefill.
    """
    prefills = steps.requests - steps.decode_tokens
    squares = steps.prefill_tokens**2 / np.maximum(prefills, 1.0)
    return BlisSteps(
        requests=steps.requests,
        prefills=prefills,
        prefill_tokens=steps.prefill_tokens,
        # ours is Σ new·(context + (new + 1)/2)
        prefill_pairs=steps.prefill_pairs + squares - 0.5 * steps.prefill_tokens,
        prefill_causal_pairs=steps.prefill_pairs - steps.prefill_tokens,
        prefill_context=steps.prefill_context,
        decodes=steps.decode_tokens,
        decode_context=steps.decode_context,
    )


def trained_physics(deployment: BlisDeployment) -> StepTimes:
    """Return `trained-physics`, µs, with the bundled betas: `blis.latency.step_times_us` with constants made once."""
    constants, betas = rates(deployment), complete((*BETAS, BETAS[3])).tolist()

    def times(steps: StepSums) -> Floats:
        s = blis_steps(steps)
        sums = (s.prefill_tokens, s.prefill_pairs, s.decodes, s.decode_context, s.requests)
        return clamp(weighted_sum(basis_times(constants, True, True, *sums), betas)).astype(np.float64)

    return times


def roofline(deployment: BlisDeployment) -> StepTimes:
    """Return `roofline`, max(compute, memory), µs, with its constants multiplied out so that a replay is fast.

    A test holds it equal to `roofml.blis.latency.roofline_times_us`. Raises InputError for a deployment that BLIS
    refuses.
    """
    check_deployment(deployment, "roofline")
    model, tp, hardware = deployment.model, deployment.tp, deployment.hardware
    layers, hidden, heads = model.layers, model.hidden_size, model.heads
    head = hidden / heads
    kv = (model.kv_heads or heads) * head
    moe, dense = model.moe_layers, model.layers - model.moe_layers
    width = model.intermediate_size or 4 * hidden
    expert_width, dense_width = model.expert_width or width, model.dense_width or width

    token_flops = layers * (4 * hidden * hidden + 4 * hidden * kv + 2 * hidden)
    token_flops += moe * 4 * hidden * expert_width * model.experts_per_token + dense * 4 * hidden * dense_width
    pair_flops = layers * (4 * heads * head + 5 * heads)
    rate = tp * deployment.flops_per_us
    prefill_token, prefill_pair = (flops / rate / hardware.mfu_prefill for flops in (token_flops, pair_flops))
    decode_token, decode_pair = (flops / rate / hardware.mfu_decode for flops in (token_flops, pair_flops))

    bandwidth = tp * deployment.bytes_per_us
    kv_token = 2 * layers * kv * model.dtype_bytes / bandwidth
    token = kv_token + layers * hidden * model.dtype_bytes / bandwidth
    elements = layers * (2 * hidden * hidden + 2 * hidden * kv) + dense * 2 * hidden * dense_width
    weights = elements * model.weight_bytes / bandwidth
    experts = moe * 2 * hidden * expert_width * model.experts * model.weight_bytes / bandwidth
    missed = (model.experts - model.experts_per_token) / model.experts if moe else 0.0

    def times(steps: StepSums) -> Floats:
        prefill, decode, context = steps.prefill_tokens, steps.decode_tokens, steps.decode_context
        compute = prefill_token * prefill + prefill_pair * (steps.prefill_pairs - prefill)
        compute = compute + decode_token * decode + decode_pair * context
        tokens = prefill + decode
        memory = weights + token * tokens + kv_token * (steps.prefill_context + context)
        if moe:
            memory = memory + experts * (1 - missed**tokens)
        return clamp(np.maximum(compute, memory)).astype(np.float64)

    return times


def with_alphas(times: StepTimesOf) -> Trained:
    """Add the bundled alphas to step times, truncated to whole µs as BLIS does."""
    queueing, completion, token = (float(int(alpha)) for alpha in ALPHAS)
    return Trained(times, NO_OVERHEAD._replace(queueing_us=queueing), 0, token_us=token, completion_us=completion)


def roofline_of(run: Run, deployment: Deployment) -> StepTimes:
    """Return BLIS's roofline for the run's model, GPU and tensor parallel size."""
    return roofline(blis_deployment_of(run))


def _train_roofline(samples: Sequence[Samples], seed: int) -> Trained:
    return with_alphas(roofline_of)


def _train_physics(samples: Sequence[Samples], seed: int) -> Trained:
    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        return trained_physics(blis_deployment_of(run))

    return with_alphas(times_of)


BLIS_ROOFLINE = Baseline("blis-roofline", "BLIS's roofline, nothing learned", _train_roofline)
BLIS_TRAINED_PHYSICS = Baseline(
    "blis-trained-physics", "BLIS's trained physics with its bundled coefficients", _train_physics
)
