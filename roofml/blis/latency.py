"""How long an engine step takes in BLIS: `trained-physics`, a basis of times weighted by betas, and `roofline`.

    T = β1·T_pf_c + β9·T_pf_kv + β2·T_dc_c + β10·T_dc_kv + β3·T_weight + β4·T_tp + β11·T_ep + β5·L + β6·B + β7 + β8·nM

With fewer than 9 betas the prefill terms are β1·max(T_pf_c, T_pf_kv), with fewer than 10 the decode terms likewise.
T is linear in the betas, and `basis` is its derivative. The basis is plain arithmetic on numbers or arrays, so that the
replay compiles the same function. Source: sim/latency/{trained_physics_model,roofline}.go of inference-sim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.optimize import nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.blis.deployment import ALL_TO_ALL, MAX_BETAS, BlisDeployment, check_deployment, validate_coefficients
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError

BETA_NAMES = (
    "prefill_compute",
    "decode_compute",
    "weights",
    "tp_communication",
    "layer_us",
    "request_us",
    "step_us",
    "moe_layer_us",
    "prefill_kv",
    "decode_kv",
    "ep_communication",
)
"""The terms that β1 .. β11 multiply. Betas of overheads are µs; the others are factors without a unit."""

INT64_MAX = 2**63 - 1


@dataclass(frozen=True, eq=False)
class BlisSteps:
    """Steps reduced to the sums that BLIS's formulas need. Every array has shape (steps,).

    A request is a prefill while its context is shorter than its prompt. After that it is a decode if it has output
    tokens; a request without output tokens counts in `requests` alone.
    """

    requests: Floats
    prefills: Floats
    prefill_tokens: Floats
    """Σ new tokens of prefills."""
    prefill_pairs: Floats
    """Σ over prefills of new·(prompt + new/2): `trained-physics` counts the whole prompt, not the context."""
    prefill_causal_pairs: Floats
    """Σ over prefills of new·(context + (new-1)/2), or new·context if new is 1: the pairs that `roofline` counts."""
    prefill_context: Floats
    """Σ context tokens of prefills."""
    decodes: Floats
    decode_context: Floats
    """Σ context tokens of decodes."""

    def __len__(self) -> int:
        return len(self.requests)

    @classmethod
    def from_batches(cls, batches: Iterable[Sequence[tuple[int, int, int, int]]]) -> BlisSteps:
        """Make steps from lists of requests, each (prompt tokens, output tokens, context, new tokens)."""
        rows: list[list[float]] = []
        for batch in batches:
            row = [0.0] * 8
            for prompt, output, context, new in batch:
                row[0] += 1
                if context < prompt:
                    row[1] += 1
                    row[2] += new
                    row[3] += new * (prompt + new / 2)
                    row[4] += new * (context + (new - 1) / 2 if new > 1 else context)
                    row[5] += context
                elif output > 0:
                    row[6] += 1
                    row[7] += context
            rows.append(row)
        return cls(*np.array(rows, np.float64).reshape(-1, 8).T)


class Rates(NamedTuple):
    """The constants of a deployment in `trained-physics`, in µs per unit of the sums that they multiply."""

    prefill_flops: float
    """Projections and MLP, per new token."""
    prefill_attention: float
    """Per token pair."""
    prefill_kv: float
    """KV write, per new token."""
    decode_flops: float
    """Projections and MLP, per decode."""
    decode_attention: float
    """Per context token."""
    decode_kv: float
    """KV read and write, per context token or decode."""
    weights: float
    """Per step."""
    tp_communication: float
    """All-reduces, per new token."""
    ep_communication: float
    """MoE dispatch and combine, per new token."""
    layers: float
    interleaved_moe_layers: float


def rates(deployment: BlisDeployment) -> Rates:
    """Return the constants of `trained-physics` for one deployment.

    Each is the FLOP or the bytes of a term of BLIS's formula, divided by the peak rate or by the bandwidth. A head has
    hidden size // heads elements. Raises InputError for a deployment that BLIS refuses.
    """
    check_deployment(deployment)
    model, tp, dp = deployment.model, float(deployment.tp), float(deployment.dp)
    layers, hidden, group = float(model.layers), float(model.hidden_size), float(deployment.expert_group)
    head = float(model.hidden_size // model.heads)
    kv = (model.kv_heads or model.heads) * head
    moe, dense = float(model.moe_layers), float(model.layers - model.moe_layers)
    expert_width = float(model.expert_width or model.intermediate_size)
    dense_width = float(model.dense_width or model.intermediate_size)
    shared = float(model.shared_expert_width)
    active = float(max(1, model.experts_per_token))
    peak, bandwidth = deployment.flops_per_us, deployment.bytes_per_us

    mlp = moe * active / group * 6 * hidden * expert_width
    mlp += moe * 6 * hidden * shared / (tp * dp) + dense * 6 * hidden * dense_width / (tp * dp)
    token_flops = layers * 2 * hidden * (2 * hidden + 2 * kv) / (tp * dp) + mlp
    attention_flops = layers * 4 * (model.heads / tp) * head / dp
    weight_elements = layers * hidden * (2 * hidden + 2 * kv) / tp
    weight_elements += moe * (model.experts / group) * 3 * hidden * expert_width
    weight_elements += moe * 3 * hidden * shared / tp + dense * 3 * hidden * dense_width / tp
    all_reduce = hidden * model.dtype_bytes * 2 * (tp - 1) / tp / bandwidth
    reductions = (layers + dense) / dp + (moe if deployment.dp == 1 else 0.0)
    dispatch = (group - 1) / group * 2 * hidden * model.dtype_bytes / bandwidth / dp
    if deployment.moe_comm_backend in ALL_TO_ALL:
        dispatch *= active
    return Rates(
        prefill_flops=token_flops / peak,
        prefill_attention=attention_flops / peak,
        prefill_kv=layers * 2 * (kv / (tp * dp)) * 2 / bandwidth,
        decode_flops=token_flops / peak,
        decode_attention=attention_flops / peak,
        decode_kv=layers * 2 * (kv / (tp * dp)) * 2 / bandwidth,
        weights=weight_elements * model.weight_bytes / bandwidth,
        tp_communication=reductions * all_reduce,
        ep_communication=moe * dispatch if deployment.dp > 1 else 0.0,
        layers=layers,
        interleaved_moe_layers=moe if model.interleave_step > 0 else 0.0,
    )


def basis_times(
    rate: Any,
    prefill_split: bool,
    decode_split: bool,
    prefill_tokens: Any,
    prefill_pairs: Any,
    decodes: Any,
    decode_context: Any,
    requests: Any,
) -> tuple[Any, ...]:
    """Return what β1 .. β11 multiply, for the sums of one step (numbers) or of many (arrays)."""
    prefill_compute = rate.prefill_flops * prefill_tokens + rate.prefill_attention * prefill_pairs
    prefill_kv = rate.prefill_kv * prefill_tokens
    decode_compute = rate.decode_flops * decodes + rate.decode_attention * decode_context
    decode_kv = rate.decode_kv * (decode_context + decodes)
    if not prefill_split:
        prefill_compute = np.maximum(prefill_compute, prefill_kv)
        prefill_kv = 0.0 * prefill_kv
    if not decode_split:
        decode_compute = np.maximum(decode_compute, decode_kv)
        decode_kv = 0.0 * decode_kv
    tokens = prefill_tokens + decodes
    unit = 0.0 * requests + 1.0
    return (
        prefill_compute,
        decode_compute,
        rate.weights * unit,
        rate.tp_communication * tokens,
        rate.layers * unit,
        requests,
        unit,
        rate.interleaved_moe_layers * unit,
        prefill_kv,
        decode_kv,
        rate.ep_communication * tokens,
    )


def weighted_sum(t: tuple[Any, ...], betas: Any) -> Any:
    """Return Σ β·t, added in BLIS's order so that the last bit agrees."""
    total = betas[0] * t[0] + betas[8] * t[8]
    total = total + (betas[1] * t[1] + betas[9] * t[9])
    total = total + betas[2] * t[2]
    total = total + betas[3] * t[3]
    total = total + betas[10] * t[10]
    total = total + betas[4] * t[4]
    total = total + betas[5] * t[5]
    total = total + betas[6] * t[6]
    return total + betas[7] * t[7]


def complete(betas: Sequence[float]) -> Floats:
    """Return β1 .. β11 of a set of 7 or more betas. Missing β8 to β10 are 0, and a missing β11 is β4."""
    filled = np.zeros(MAX_BETAS)
    filled[: len(betas[:MAX_BETAS])] = betas[:MAX_BETAS]
    if len(betas) < MAX_BETAS:
        filled[10] = filled[3]
    return filled


def basis(deployment: BlisDeployment, steps: BlisSteps, betas: int = MAX_BETAS) -> Floats:
    """Return the derivative of the step time by β1 .. β11, shape (steps, 11), µs, for a set of `betas` betas."""
    sums = (steps.prefill_tokens, steps.prefill_pairs, steps.decodes, steps.decode_context, steps.requests)
    return np.stack(basis_times(rates(deployment), betas >= 9, betas >= 10, *sums), axis=1)


def step_times_us(deployment: BlisDeployment, steps: BlisSteps, betas: Sequence[float]) -> Ints:
    """Return `trained-physics` step times as BLIS does: µs, truncated, at least 1 and at most the largest int64.

    Raises InputError for betas or a deployment that BLIS refuses.
    """
    validate_coefficients((0.0, 0.0, 0.0), betas)
    columns = tuple(basis(deployment, steps, len(betas)).T)
    with np.errstate(over="ignore", invalid="ignore"):
        times = weighted_sum(columns, complete(betas))
    return np.where(steps.requests > 0, clamp(times), 1)


def clamp(times: Floats) -> Ints:
    """Convert times to integer µs as BLIS does: truncated, at least 1. NaN and overflow become the largest int64."""
    overflow = ~(times < 2.0**63)
    return np.maximum(np.where(overflow, INT64_MAX, np.where(overflow, 0.0, times).astype(np.int64)), 1)


def roofline_times_us(deployment: BlisDeployment, steps: BlisSteps) -> Ints:
    """Return `roofline` step times as BLIS does: µs, max(compute, memory) without communication or overhead.

    Raises InputError for a deployment that BLIS refuses.
    """
    check_deployment(deployment, "roofline")
    model, tp, hardware = deployment.model, float(deployment.tp), deployment.hardware
    layers, hidden, heads = float(model.layers), float(model.hidden_size), float(model.heads)
    head = hidden / heads
    kv_heads = float(model.kv_heads or model.heads)
    kv = kv_heads * head
    moe, dense = float(model.moe_layers), float(model.layers - model.moe_layers)
    width = float(model.intermediate_size) or 4.0 * hidden
    expert_width, dense_width = float(model.expert_width) or width, float(model.dense_width) or width

    token_flops = layers * (2 * (hidden * hidden + 2 * hidden * kv) + 2 * hidden * hidden + 2 * hidden)
    token_flops += moe * 2 * 2 * hidden * expert_width * model.experts_per_token + dense * 2 * 2 * hidden * dense_width
    pair_flops = layers * (4 * heads * head + 5 * heads)
    peak = deployment.flops_per_us
    compute = (token_flops * steps.prefill_tokens + pair_flops * steps.prefill_causal_pairs) / hardware.mfu_prefill
    compute = compute + (token_flops * steps.decodes + pair_flops * steps.decode_context) / hardware.mfu_decode

    tokens = steps.prefill_tokens + steps.decodes
    kv_bytes = 2 * layers * kv_heads * head * model.dtype_bytes
    traffic = kv_bytes * (tokens + steps.prefill_context + steps.decode_context)
    traffic = traffic + layers * hidden * model.dtype_bytes * tokens
    experts = np.zeros(len(steps))
    if moe:
        hit = 1 - ((model.experts - model.experts_per_token) / model.experts) ** tokens
        experts = moe * 2 * hidden * expert_width * model.experts * hit
    elements = layers * (hidden * (hidden + 2 * kv) + hidden * hidden) + dense * 2 * hidden * dense_width + experts
    memory = (elements * model.weight_bytes + traffic) / tp / deployment.bytes_per_us
    times = clamp(np.maximum(compute / (tp * peak), memory))
    return np.where(steps.prefills + steps.decodes > 0, times, 1)


def betas_from_step_times(
    basis_matrix: Floats,
    times_us: Floats,
    weights: Floats | None = None,
    prior: Floats | None = None,
    prior_weight: Floats | float = 0.0,
) -> Floats:
    """Return the non-negative β1 .. β11 (11,) whose step times are nearest to `times_us` (steps,), relative to them.

    They minimize Σ weights·((basis·β - T)/T)² + Σ (prior_weight·(β - prior))². Raises InputError for shapes that do not
    fit, and for times that are not positive.
    """
    steps, columns = basis_matrix.shape
    if times_us.shape != (steps,) or not np.all(times_us > 0):
        raise InputError(f"step times: expected {steps} positive numbers, found shape {times_us.shape}")
    root_weight = np.sqrt(np.ones(steps) if weights is None else weights)
    centre = np.zeros(columns) if prior is None else prior
    pull = np.broadcast_to(np.asarray(prior_weight, float), (columns,))
    matrix = np.vstack((basis_matrix * (root_weight / times_us)[:, None], np.diag(pull)))
    solution, _ = cast("tuple[Floats, float]", nnls(matrix, np.concatenate((root_weight, pull * centre))))
    return solution
