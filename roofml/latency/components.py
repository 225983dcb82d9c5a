"""Components: the ideal time, in µs, of each physical resource a step uses on one GPU of the tensor-parallel group.

What depends on shapes alone (GEMMs, weights, all-reduce at M = 0..budget new tokens) becomes a table, once per model,
GPU and TP; what depends on requests enters as a few sums per step. `step_components` is then a lookup and a dozen
multiplications, the same Python function compiled by numba for the replay, traced by JAX for the fit and run by NumPy
on StepSums.

Symbols: M new tokens, d hidden size, H and Hkv heads and KV heads, h head size, a bytes per element, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from roofml.hardware import stand_ins
from roofml.hardware.expert_routing import experts_hit
from roofml.hardware.formats import WEIGHTS_ALONE
from roofml.hardware.gpu import Gpu
from roofml.hardware.kernels import Efficiency
from roofml.latency.attention import (
    attention_items_us,
    attention_sd,
    kv_token_us,
    mixing_us,
    near_tables,
    pair_us,
    per_step,
)
from roofml.latency.batch import MOST_NEW_TOKENS, NEAR, StepSums
from roofml.latency.kv_capacity import further_groups
from roofml.latency.launches import launches_us
from roofml.latency.parallel import BUSIEST_A_DOUBLING, Parallel, gathered_us, in_stages
from roofml.models.operations import Gemm
from roofml.models.spec import ModelSpec
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.jit_cache import called_by_compiled
from roofml.util.names import shown


class StepComponents(NamedTuple):
    """The ideal time of each resource that a step uses, µs: arrays of shape (steps,), or numbers in compiled code."""

    prefill_gemm: Floats
    """Arithmetic of GEMMs that prefill tokens add."""
    decode_gemm: Floats
    """Arithmetic of GEMMs on the decode tokens."""
    prefill_attention: Floats
    decode_attention: Floats
    weights: Floats
    """Reading the weights that every token needs."""
    expert_weights: Floats
    """Reading those of the experts that tokens touch."""
    kv_cache: Floats
    """Moving keys and values."""
    attention_items: Floats
    """Launching attention, and requests besides their keys and values."""
    long_context: Floats
    """Keys and values of grouped heads past `LONG_CONTEXT` tokens of a request, once more."""
    communication: Floats
    """All-reduces."""


COMPONENTS = StepComponents._fields


GRAPHS = (1, 2, 4, *range(8, 257, 8))
"""Numbers of tokens for which vLLM captures CUDA graphs with 128 seats (`server_defaults.graph_sizes`)."""


class ComponentTables(NamedTuple):
    """Everything about a model, GPU and TP that a step's components need. All times in µs."""

    gemm: Floats
    """(budget + 1,) compute time of the layers' GEMMs on M tokens."""
    weights: Floats
    """(budget + 1,) time to read the weights that every token needs."""
    expert_weights: Floats
    """(budget + 1,) time to read those of the experts that M tokens touch."""
    communication: Floats
    """(budget + 1,) time of the step's all-reduces on M tokens."""
    attention_items: Floats
    """(budget + 1,) time that the attention of R requests takes besides moving keys and values."""
    logits_per_request: float
    """Compute time of one row of the LM head."""
    prefill_pair: float
    """Compute time of one query-key pair in prefill attention, all layers."""
    decode_pair: float
    """The same in decode attention."""
    kv_token: float
    """Time to move the keys and values of one token of one request, all layers."""
    grouped_kv_token: float
    """The same of the layers whose query heads share KV heads."""
    layers: float
    """Number of layers, the multiplier of the overhead per layer."""
    experts: int = 0
    """Routed experts of a layer, 0 without; for the kernels compiled at a cold start."""
    experts_per_token: int = 0
    """Of which every token visits so many."""
    captured: int = GRAPHS[-1]
    """New tokens of the largest CUDA graph; 0 without."""
    reaches: Ints | None = None
    """(reaches, 4) what limits the layers that do not read their whole context (`models.reach`); None: all do."""
    near: Floats | None = None
    """(reaches, 4) times of `attention.near_tables`."""
    launches_us: float = 0.0
    """CPU time to launch the kernels of a step of more new tokens than that."""
    state_request: float = 0.0
    """Time to read and write a request's recurrent states, all layers."""
    prompt_token: float = 0.0
    """Time of a prompt's token besides its pairs, all layers: scans of recurrent layers."""
    prompt_launch: float = 0.0
    """Time of launching what computes prompts alone, in a step with any."""
    mixing: Floats | None = None
    """(budget + 1,) time of hyper-connections on M tokens; None without."""
    shares: Ints | None = None
    """(kinds, 3) how the blocks of further layer groups go (`kv_capacity.FurtherGroups`); None: there is one group."""
    block_ratio: int = 1
    """Tokens of a block of the first layer group over the engine's block size."""
    verified: float = 1.0
    """Tokens of a decode that a step computes: its own, and the drafts it verifies (`speculation`)."""
    per_verified: float = 1.0
    """One over that: a division, which may fail, would keep the compiled loop from holding a step in registers."""
    drafts: Floats | None = None
    """(budget + 1,) time of drafting for R requests; None without."""
    acceptance: float | None = None
    """Tokens that a decode keeps of a step on average; None: the one."""
    norm: float | None = None
    """None: what overlaps is combined by the learned blend. Else by the norm of this order, at least 1."""


def padded(tokens: Floats, graphs: Sequence[int] = GRAPHS) -> Floats:
    """M new tokens -> the size of the CUDA graph that runs them; more than the largest run as they are, without one."""
    if not graphs:
        return tokens
    sizes = np.array([0, *graphs], np.float64)
    place = np.searchsorted(sizes, tokens)
    return np.where(tokens <= sizes[-1], sizes[np.minimum(place, len(sizes) - 1)], tokens)


def measured_gemm(gemm: Gemm, gpu: Gpu, efficiency: Efficiency) -> tuple[Floats, Floats, float]:
    """M at which a product was measured, ascending, measured over ideal time there, and its relative sd."""
    kernel = gemm.kernel
    if gpu.computes_in(gemm.flops_dtype) != gemm.flops_dtype:
        kernel = WEIGHTS_ALONE.get(kernel, kernel)
    if not gemm.experts:
        slowdown, sd = stand_ins.product(efficiency, gpu, kernel, gemm.n, gemm.k)
        return efficiency.gemm.tokens, slowdown, sd
    rising = gemm.name != "expert_down"  # gate and up are one product, twice as wide as an expert
    hidden, inter = (gemm.k, gemm.n / (2 if gemm.name == "expert_gate_up" else 1)) if rising else (gemm.n, gemm.k)
    slowdown, sd = stand_ins.mixture(efficiency, gpu, kernel, gemm.experts, gemm.experts_per_token, hidden, inter)
    return efficiency.moe_tokens, slowdown, sd


def matrices_read(gemm: Gemm, tokens: Floats) -> Floats:
    """How many weight matrices M tokens touch: the one, or those of the experts that they hit."""
    if not gemm.experts:
        return np.where(tokens > 0, 1.0, 0.0)
    return experts_hit(gemm.experts, gemm.experts_per_token, tokens) / gemm.ranks


def gemm_rate(gemm: Gemm, gpu: Gpu) -> float:
    """Peak rate of a product on `gpu`, FLOP/µs: in bfloat16 where the GPU does not compute in its type."""
    return gpu.flops_rate(gpu.computes_in(gemm.flops_dtype))


def busiest(gemm: Gemm, engines: int) -> float:
    """Tokens that the busiest rank computes for one of its own: those of all engines, where experts are dealt to them.

    It is chosen more often than others.
    """
    return engines * (1 + BUSIEST_A_DOUBLING * math.log2(gemm.ranks)) if gemm.ranks > 1 else 1.0


def gemm_us(model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency, engines: int = 1) -> Floats:
    """Compute time of all layers' GEMMs: Σ 2·M·n·k / (peak·efficiency); each token visits its experts' only.

    The efficiency is that of the most tokens measured: where fewer reach less, arithmetic hides behind the weights, and
    one that rises with M would make a token cheaper in company than alone. The LM head does not count here. `engines`
    share experts that are dealt to ranks.
    Shape (M,) -> (M,), µs. Source: 2·M·n·k FLOP for a matrix product, shapes from the config.
    """
    per_token = 0.0
    for gemm in model.gemms(tp):
        if gemm.rows == "tokens":
            _, slowdown, _ = measured_gemm(gemm, gpu, efficiency)
            once = gemm.count * gemm.flops_per_row / gemm_rate(gemm, gpu) * slowdown[-1]
            per_token += once * busiest(gemm, engines)
    return tokens * per_token


def weights_us(
    model: ModelSpec, gpu: Gpu, tp: int, tokens: Floats, efficiency: Efficiency, experts: bool, engines: int = 1
) -> Floats:
    """Time of a step's GEMMs while they are bound by reading weights: each weight touched once, at the measured speed.

    Those of routed `experts`, or all others.

    Prefill and decode share the read, and kernels take larger tiles as M grows, so measured times rise a little even
    here. Past the last M where reading takes longer than computing, the speed there holds. The LM head is read whole.
    Shape (M,) -> (M,), µs, never falling in M; nothing for an empty step.
    """
    time = np.zeros_like(tokens)
    for gemm in model.gemms(tp):
        if bool(gemm.experts) != experts:
            continue
        once = gemm.count * gemm.weight_bytes / gpu.bandwidth_bytes_per_us
        m, slowdown, _ = measured_gemm(gemm, gpu, efficiency)
        seen = tokens * (engines if gemm.ranks > 1 else 1)
        compute = gemm.count * gemm.flops_per_row * m / gemm_rate(gemm, gpu)
        reading = max(1, int(np.count_nonzero(once * matrices_read(gemm, m) >= compute)))
        if gemm.rows == "sampled":
            reading = 1
        factor = np.interp(seen, m[:reading], slowdown[:reading])
        time += once * matrices_read(gemm, seen) * factor
    return np.maximum.accumulate(time)


def communication_us(model: ModelSpec, parallel: Parallel, tokens: Floats, efficiency: Efficiency) -> Floats:
    """An all-reduce of M·d·a bytes after every mixer and MLP and after the embedding, at its measured time.

    Where experts are dealt to the ranks of several engines, their tokens are gathered instead. Nothing on one GPU or
    for an empty step. Shape (M,) -> (M,), µs.
    """
    gathered = gathered_us(model, parallel, tokens, efficiency)
    if parallel.tp == 1:
        return gathered
    once = efficiency.allreduce_us_at(parallel.tp, tokens * model.hidden_size * model.dtype_bytes)
    return np.where(tokens > 0, model.allreduces * once, 0.0) + gathered


def component_sd(model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency) -> dict[str, float]:
    """Component -> relative standard deviation that comes from shapes the kernel tables do not hold.

    That of the tables themselves is part of the corrections' priors and left out. A component of several products has
    the mean of theirs, weighted by the time that reading their weights takes.
    """
    weighted: dict[str, list[tuple[float, float]]] = {}

    def add(component: str, weight: float, sd: float, known: float) -> None:
        weighted.setdefault(component, []).append((weight, max(0.0, sd**2 - known**2) ** 0.5))

    for gemm in model.gemms(tp):
        _, _, sd = measured_gemm(gemm, gpu, efficiency)
        known = efficiency.moe.sd if gemm.experts and efficiency.moe else efficiency.gemm.sd
        add("expert_weights" if gemm.experts else "weights", gemm.resident_bytes, sd, known)
        add("decode_gemm", gemm.resident_bytes, sd, known)
    attention_sd(model, gpu, tp, efficiency, add)
    return {
        name: sum(weight * sd for weight, sd in parts) / sum(weight for weight, _ in parts)
        for name, parts in weighted.items()
    }


def component_tables(
    model: ModelSpec,
    gpu: Gpu,
    parallel: Parallel | int,
    budget: int,
    efficiency: Efficiency,
    graphs: Sequence[int] = GRAPHS,
) -> ComponentTables:
    """The tables for steps of up to `budget` new tokens, on a server with CUDA graphs of these sizes.

    `parallel` is how the model is spread over GPUs; a number is a tensor parallel size. With several engines a step is
    that of one of them. Raises InputError where the model does not divide by `tp`, and for a budget that no engine has.
    """
    if not 1 <= budget <= MOST_NEW_TOKENS:
        raise InputError(f"max_num_batched_tokens {shown(budget)}: expected between 1 and {MOST_NEW_TOKENS}")
    spread = Parallel(tp=parallel) if isinstance(parallel, int) else parallel
    spread.check(model)
    model, tp, engines = spread.cut(model), spread.tp, spread.dp
    model.check_tensor_parallel(tp)
    tokens = np.arange(budget + 1, dtype=np.float64)
    head = next(gemm for gemm in model.gemms(tp) if gemm.rows == "sampled")
    prefill_pair, decode_pair = pair_us(model, gpu, tp, efficiency)
    reaches, near = near_tables(model, gpu, tp, efficiency)
    run = padded(tokens, graphs)
    tables = ComponentTables(
        gemm=gemm_us(model, gpu, tp, tokens, efficiency, engines),
        weights=weights_us(model, gpu, tp, run, efficiency, experts=False),
        expert_weights=weights_us(model, gpu, tp, run, efficiency, experts=True, engines=engines),
        communication=communication_us(model, spread, run, efficiency),
        attention_items=attention_items_us(model, gpu, tp, tokens, efficiency),
        logits_per_request=head.flops_per_row / gemm_rate(head, gpu),
        prefill_pair=prefill_pair,
        decode_pair=decode_pair,
        kv_token=kv_token_us(model, gpu, tp, efficiency),
        grouped_kv_token=kv_token_us(model, gpu, tp, efficiency, grouped_only=True),
        layers=float(model.num_layers),
        experts=max(gemm.experts for gemm in model.gemms(tp)),
        experts_per_token=max(gemm.experts_per_token for gemm in model.gemms(tp)),
        captured=max(graphs, default=0),
        reaches=reaches,
        near=near,
        launches_us=launches_us(model.num_layers, graphs),
        **further_groups(model, tp)._asdict(),
        **per_step(model, gpu, tp, efficiency)._asdict(),
        mixing=mixing_us(model, gpu, run, efficiency),
    )
    return in_stages(tables, model, gpu, spread.pp)


@called_by_compiled
def drafting_us(drafts: Any, requests: Any) -> Any:
    """Time of the drafts of a step, µs: in the arithmetic and in the reading of weights, as neither hides it."""
    if drafts is None:  # decided when it is compiled
        return 0.0
    return drafts[requests]


@called_by_compiled
def mixed_us(mixing: Any, new_tokens: Any) -> Any:
    """Time of hyper-connections, µs."""
    if mixing is None:  # decided when it is compiled
        return 0.0
    return mixing[new_tokens]


@called_by_compiled
def near_us(times: Any, near: Any) -> Any:
    """Of layers that do not read their whole context: prefill and decode attention, KV cache, long contexts, µs.

    From `ComponentTables.near` and `StepSums.near`.
    """
    if times is None:  # decided when it is compiled
        return 0.0, 0.0, 0.0, 0.0
    prefill, decode, moved, beyond = 0.0, 0.0, 0.0, 0.0
    for kind in range(len(times)):
        prefill = prefill + times[kind, 0] * near[4 * kind + 2]
        decode = decode + times[kind, 1] * near[4 * kind]
        moved = moved + times[kind, 2] * (near[4 * kind] + near[4 * kind + 3])
        beyond = beyond + times[kind, 3] * near[4 * kind + 1]
    return prefill, decode, moved, beyond


@called_by_compiled
def step_components(tables: Any, sums: Any, new_tokens: Any, decodes: Any, requests: Any) -> Any:
    """The `StepComponents` of a step from its `StepSums`, µs. Plain arithmetic on numbers or arrays.

    `new_tokens`, `decodes` and `requests` are prefill + decode tokens, decode tokens and requests as integers, to look
    up the tables.
    decode_gemm is the GEMM time at M = decode tokens and prefill_gemm what the prefill tokens add to it, so the two
    sum to the mixed step exactly. A decode attends to its context and itself; KV traffic is every context token read
    and every new token written.
    """
    decode_gemm = tables.gemm[decodes] + tables.logits_per_request * sums.decode_tokens
    prefill_gemm = tables.gemm[new_tokens] - tables.gemm[decodes]
    prefill_gemm = prefill_gemm + tables.logits_per_request * (sums.requests - sums.decode_tokens * tables.per_verified)
    drafting = drafting_us(tables.drafts, requests)
    kv_tokens = sums.decode_context + sums.prefill_context + sums.prefill_tokens + sums.decode_tokens
    near = near_us(tables.near, sums.near)
    prompts = tables.prompt_token * sums.prefill_tokens + tables.prompt_launch * (
        0.5 * (sums.prefill_tokens + 1.0 - abs(sums.prefill_tokens - 1.0))  # the smaller of the tokens and 1
    )
    return StepComponents(
        prefill_gemm,
        decode_gemm + drafting,
        tables.prefill_pair * sums.prefill_pairs + prompts + near[0],
        tables.decode_pair
        * (tables.verified * sums.decode_context + 0.5 * (tables.verified + 1.0) * sums.decode_tokens)
        + tables.verified * near[1],
        tables.weights[new_tokens] + drafting,
        tables.expert_weights[new_tokens],
        tables.kv_token * kv_tokens + tables.state_request * sums.requests + near[2],
        tables.attention_items[requests] + mixed_us(tables.mixing, new_tokens),
        tables.grouped_kv_token * sums.decode_beyond + near[3],
        tables.communication[new_tokens],
    )


def components(tables: ComponentTables, steps: StepSums) -> StepComponents:
    """The components of every step, each (steps,), µs.

    Raises NotSupportedError for steps that lack the sums of a model's reaches.
    """
    if tables.near is not None and len(steps.near) != len(NEAR) * len(tables.near):
        raise NotSupportedError(
            "steps without the contexts of their requests: layers that do not read their whole context need those"
        )
    new_tokens, decodes, requests = (
        column.astype(np.int64) for column in (steps.new_tokens, steps.decode_tokens, steps.requests)
    )
    return step_components(tables, steps, new_tokens, decodes, requests)
