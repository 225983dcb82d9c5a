"""A compiled replay of BLIS's way of running requests through steps: it computes what `blis replay` prints.

BLIS differs from vLLM, and from our replay: a step begins when the one before it ends, times are whole µs, a block is
in the cache from the moment it is handed out, a prompt may be cached to its last token, a preempted request starts
over, and the last step of a batch that empties does not hold up the next arrival.
Source: sim/{simulator,event,batch_formation}.go and sim/kv/cache.go of inference-sim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roofml.blis.deployment import BlisDeployment, validate_coefficients
from roofml.blis.latency import BlisSteps, basis_times, complete, rates, weighted_sum
from roofml.engine.kv_cache import (
    NOTHING,
    BlockKeys,
    block_keys,
    empty_cache,
    key_of,
    release,
    remember,
    take_cached,
    take_free,
)
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.util.jit_cache import compiled, digest_argument

UNBOUNDED = 2**62

_basis_times = compiled()(basis_times)
_weighted_sum = compiled()(weighted_sum)


@dataclass(frozen=True, eq=False)
class BlisSchedule:
    """The steps that BLIS ran, and which of them each request was in: NOTHING (-1) for a request it did not finish."""

    steps: BlisSteps
    start_us: Ints
    """(steps,) start of the step."""
    time_us: Ints
    """(steps,) duration of the step."""
    admitted_step: Ints
    """(requests,) the step in which the request began, for the last time if it was preempted."""
    first_step: Ints
    """(requests,) the step that made the first output token."""
    last_step: Ints
    """(requests,) the step that made the last output token."""
    preemptions: Ints
    """(requests,) how often the request was preempted."""


@dataclass(frozen=True, eq=False)
class BlisReplay:
    """BLIS's predictions (requests,), µs: NaN for a request that it drops or does not finish by the horizon."""

    ttft_us: Floats
    e2e_us: Floats
    schedule: BlisSchedule


class _Requests(NamedTuple):
    """The requests as the compiled loop needs them, in order of arrival."""

    queued_us: Ints
    prompt: Ints
    output: Ints
    keys: BlockKeys


class _Limits(NamedTuple):
    """The server's settings, and the time after which no step begins."""

    max_num_seqs: int
    budget: int
    block_size: int
    blocks: int
    prefix_caching: bool
    max_model_len: int
    horizon_us: int


def for_blis(run: Run) -> Run:
    """Return `run` with prefixes that make BLIS do what vLLM does.

    A prefix is one token shorter than the prompt at most: vLLM computes the last block of a cached prompt again, and
    BLIS does not. All prefixes of a group have one length, because BLIS takes the group's length from its first row.
    """
    shared = np.minimum(run.prefix_tokens, run.prompt_tokens - 1)
    groups, group = np.unique(run.prefix_group, return_inverse=True)
    shortest = np.full(len(groups), np.iinfo(np.int64).max)
    np.minimum.at(shortest, group, shared)
    prefix = np.where(run.prefix_group >= 0, shortest[group], 0)
    return replace(run, prefix_tokens=prefix.astype(np.int64))


def replay(run: Run, deployment: BlisDeployment, alphas: Any, betas: Any, horizon_us: int | None = None) -> BlisReplay:
    """Serve the run's requests as BLIS would with `--latency-model trained-physics` and these coefficients.

    Prefixes are used as they are; `for_blis` adapts them. No step begins after `horizon_us`. None means no horizon,
    unlike BLIS's own default of twice the last arrival. Raises InputError for input that BLIS would refuse, for no
    requests, and for a request that it would preempt for ever.
    """
    validate_coefficients(alphas, betas)
    server = run.server
    queueing, completion, per_token = (int(alpha) for alpha in alphas[:3])
    served = _served(run)
    limits = _Limits(
        server.max_num_seqs,
        server.max_num_batched_tokens,
        server.block_size,
        server.num_gpu_blocks,
        server.prefix_caching,
        server.max_model_len,
        UNBOUNDED if horizon_us is None else horizon_us,
    )
    arrival = np.rint(run.arrival_us).astype(np.int64)
    requests = _requests(run, served, arrival + queueing, server.block_size)
    columns, start, time, admitted, first, last, decoding, preemptions = _run(
        requests,
        limits,
        empty_cache(limits.blocks + 1, requests.keys.total),
        rates(deployment),
        complete(betas),
        (len(betas) >= 9, len(betas) >= 10),
        digest_argument(Path(__file__).with_name("latency.py"), Path(__file__).parents[1] / "engine" / "kv_cache.py"),
    )
    done = last != NOTHING
    ttft = np.full(int(served.sum()), np.nan)
    e2e = ttft.copy()
    ttft[done] = start[first[done]] + time[first[done]] + per_token - arrival[served][done]
    produced = run.output_tokens[served][done]
    e2e[done] = ttft[done] + decoding[done] + per_token * np.maximum(produced - 1, 0) + completion * (produced > 0)

    def for_all(values: Any, missing: float) -> Any:
        column = np.full(len(run), missing, values.dtype)
        column[served] = values
        return column

    zeros = np.zeros(len(start))
    return BlisReplay(
        for_all(ttft, np.nan),
        for_all(e2e, np.nan),
        BlisSchedule(
            BlisSteps(columns[:, 4], zeros, columns[:, 0], columns[:, 1], zeros, zeros, columns[:, 2], columns[:, 3]),
            start,
            time,
            for_all(admitted, NOTHING),
            for_all(first, NOTHING),
            for_all(last, NOTHING),
            for_all(preemptions, 0),
        ),
    )


def _served(run: Run) -> Bools:
    """Return the requests within `max_model_len`; BLIS drops the others.

    Raises InputError for no requests, and for a request that is larger than the whole KV cache.
    """
    server = run.server
    tokens = run.prompt_tokens + run.output_tokens
    blocks = -(-tokens // server.block_size)
    served = (tokens <= server.max_model_len) & (run.prompt_tokens < server.max_model_len)
    if len(run) == 0:
        raise InputError(f"{run.name}: no requests to replay")
    if np.any(blocks[served] > server.num_gpu_blocks):
        largest = int(np.argmax(np.where(served, blocks, 0)))
        raise InputError(
            f"{run.name}: request {run.request_id[largest]}: {tokens[largest]} tokens do not fit in "
            f"{server.num_gpu_blocks} KV blocks of {server.block_size}"
        )
    return served


def _requests(run: Run, served: Bools, queued_us: Ints, block_size: int) -> _Requests:
    """Return the served requests, with keys for the full blocks of their prompts."""
    prompt, group = run.prompt_tokens[served], run.prefix_group[served]
    shared = np.where(group >= 0, np.minimum(run.prefix_tokens[served], prompt) // block_size, 0)
    keys = block_keys(group, shared, prompt // block_size)
    return _Requests(queued_us[served], prompt, run.output_tokens[served], keys)


@compiled()
def _step_us(constants: Any, betas: Floats, prefill_split: bool, decode_split: bool, row: Floats) -> int:
    """Return the time of the step with these columns, truncated to whole µs and at least 1."""
    if row[4] == 0:
        return 1
    basis = _basis_times(constants, prefill_split, decode_split, row[0], row[1], row[2], row[3], row[4])
    time = _weighted_sum(basis, betas)
    return max(1, int(time)) if time < 2.0**62 else 2**62


@compiled(nogil=True)
def _run(
    requests: Any, limits: Any, cache: Any, constants: Any, betas: Floats, splits: tuple[bool, bool], sources: Any
) -> Any:
    """Run all requests through steps.

    Returns, for each step, its columns (prefill tokens, prefill pairs, decodes, decode context, requests), start and
    time, µs; for each request its admitted, first and last step, the time of its decode steps, µs, and its preemptions.
    """
    n = len(requests.prompt)
    block_size = limits.block_size
    most_blocks = np.max(requests.prompt + requests.output) // block_size + 2

    computed = np.zeros(n, np.int64)  # tokens known by the end of the step being formed (BLIS: ComputedTokens)
    progress = np.zeros(n, np.int64)  # tokens known when the step began (BLIS: ProgressIndex)
    stored = np.zeros(n, np.int64)  # tokens in its blocks
    held: Any = np.zeros(n, np.int64)  # blocks it has
    keyed = np.zeros(n, np.int64)  # blocks that are full and have a key
    new_tokens = np.zeros(n, np.int64)
    admitted_step = np.full(n, NOTHING, np.int64)
    first_step = np.full(n, NOTHING, np.int64)
    last_step = np.full(n, NOTHING, np.int64)
    decoding = np.zeros(n, np.int64)  # sum of the times of its decode steps
    preemptions = np.zeros(n, np.int64)

    slot: Any = np.full(n, NOTHING, np.int64)
    blocks = np.empty((limits.max_num_seqs, most_blocks), np.int64)
    free_slots = np.arange(int(limits.max_num_seqs))
    running = np.empty(limits.max_num_seqs, np.int64)
    preempted = np.empty(limits.max_num_seqs, np.int64)
    running_count, preempted_count, arrived, admitted = 0, 0, 0, 0

    columns = np.empty((1024, 5))
    start, times = np.empty(1024, np.int64), np.empty(1024, np.int64)
    step = 0
    now = requests.queued_us[0] if n > 0 else limits.horizon_us + 1

    while now <= limits.horizon_us:
        while arrived < n and requests.queued_us[arrived] <= now:
            arrived += 1
        for i in range(running_count):
            new_tokens[running[i]] = 0

        # First what runs, in order of admission, evicting from the tail where blocks run out.
        budget = limits.budget
        preempting = False
        index = 0
        while index < running_count and budget > 0:
            r = running[index]
            if progress[r] < requests.prompt[r]:
                new = min(requests.prompt[r] - progress[r], budget)
            elif requests.output[r] > 0 and progress[r] + 1 < limits.max_model_len:
                new = 1
            else:
                index += 1
                continue
            need = (stored[r] + new + block_size - 1) // block_size - held[r]
            while need > cache.free[0] and slot[r] != NOTHING:
                preempting = True
                running_count -= 1
                victim = running[running_count]
                release(cache, blocks[slot[victim]], held[victim], False)
                free_slots[limits.max_num_seqs - running_count - 1] = slot[victim]
                slot[victim], first_step[victim] = NOTHING, NOTHING
                held[victim], keyed[victim], stored[victim] = 0, 0, 0
                computed[victim], progress[victim], decoding[victim] = 0, 0, 0
                preemptions[victim] += 1
                preempted[preempted_count] = victim
                preempted_count += 1
            if slot[r] == NOTHING:
                break
            budget -= new
            _extend(cache, requests, limits, r, blocks, slot[r], new, held, keyed, stored)
            new_tokens[r] = new
            computed[r] += new
            index += 1

        # Then, unless something was evicted, what waits: first come, first served.
        while budget > 0 and running_count < limits.max_num_seqs and not preempting:
            if preempted_count > 0:
                r = preempted[preempted_count - 1]
            elif admitted < arrived:
                r = admitted
            else:
                break
            prompt_blocks = requests.prompt[r] // block_size if limits.prefix_caching else 0
            hits, idle_hits = _cached_prefix(cache, requests, r, prompt_blocks)
            new = min(requests.prompt[r] - hits * block_size, budget)
            if (new + block_size - 1) // block_size + idle_hits > cache.free[0]:
                break
            if preempted_count > 0:
                preempted_count -= 1
            else:
                admitted += 1
            slot[r] = free_slots[limits.max_num_seqs - running_count - 1]
            running[running_count] = r
            running_count += 1
            if new > 0:  # a prompt cached to its last block takes no blocks
                for j in range(hits):
                    block = cache.key[key_of(requests.keys, r, j)].first
                    take_cached(cache, block)
                    blocks[slot[r], j] = block
                held[r], keyed[r], stored[r] = hits, hits, hits * block_size
                _extend(cache, requests, limits, r, blocks, slot[r], new, held, keyed, stored)
            new_tokens[r] = new
            computed[r] = hits * block_size + new
            admitted_step[r] = step
            budget -= new

        if step == len(start):
            columns = np.concatenate((columns, np.empty_like(columns)))
            start = np.concatenate((start, np.empty_like(start)))
            times = np.concatenate((times, np.empty_like(times)))
        _fill_columns(columns[step], requests, running[:running_count], new_tokens, progress)
        start[step] = now
        times[step] = _step_us(constants, betas, splits[0], splits[1], columns[step])

        kept = 0
        for i in range(running_count):
            r = running[i]
            if progress[r] < requests.prompt[r]:
                progress[r] = computed[r]
            elif new_tokens[r] > 0:
                progress[r] += 1
                decoding[r] += times[step]
            if progress[r] == requests.prompt[r] and first_step[r] == NOTHING:
                first_step[r] = step
            if progress[r] >= min(requests.prompt[r] + max(requests.output[r], 1), limits.max_model_len) - 1:
                last_step[r] = step
                release(cache, blocks[slot[r]], held[r], False)
                free_slots[limits.max_num_seqs - running_count + i - kept] = slot[r]
                slot[r] = NOTHING
            else:
                running[kept] = r
                kept += 1
        running_count = kept
        step += 1
        if running_count > 0 or preempted_count > 0 or admitted < arrived:
            now += times[step - 1]
        elif arrived < n:
            now = requests.queued_us[arrived]
        else:
            break
    columns, start, times = columns[:step].copy(), start[:step].copy(), times[:step].copy()
    return columns, start, times, admitted_step, first_step, last_step, decoding, preemptions


@compiled()
def _cached_prefix(cache: Any, requests: Any, r: int, blocks: int) -> tuple[int, int]:
    """Count the leading blocks of the prompt that are in the cache, `blocks` at most, and those that nobody uses."""
    hits, idle_hits = 0, 0
    while hits < blocks:
        block = cache.key[key_of(requests.keys, r, hits)].first
        if block == NOTHING:
            break
        idle_hits += cache.block[block].users == 0
        hits += 1
    return hits, idle_hits


@compiled()
def _fill_columns(row: Floats, requests: Any, running: Ints, new_tokens: Ints, progress: Ints) -> None:
    """Sum the step's columns over the running requests into `row` (5,)."""
    row[:] = 0.0
    for r in running:
        if new_tokens[r] == 0:
            continue
        row[4] += 1
        if progress[r] < requests.prompt[r]:
            row[0] += new_tokens[r]
            row[1] += new_tokens[r] * (requests.prompt[r] + new_tokens[r] / 2)
        else:
            row[2] += 1
            row[3] += progress[r]


@compiled()
def _extend(
    cache: Any,
    requests: Any,
    limits: Any,
    r: int,
    blocks: Any,
    slot: int,
    new: int,
    held: Ints,
    keyed: Ints,
    stored: Ints,
) -> None:
    """Add blocks for `new` tokens to those of request r, and enter the full blocks of its prompt in the cache."""
    block_size = limits.block_size
    stored[r] += new
    while held[r] * block_size < stored[r]:
        blocks[slot, held[r]] = take_free(cache)
        held[r] += 1
    if limits.prefix_caching:
        while (keyed[r] + 1) * block_size <= min(stored[r], requests.prompt[r]):
            if cache.key[key_of(requests.keys, r, keyed[r])].first == NOTHING:  # BLIS knows one of two copies
                remember(cache, blocks[slot, keyed[r]], key_of(requests.keys, r, keyed[r]))
            keyed[r] += 1
