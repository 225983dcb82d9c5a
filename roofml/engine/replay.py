"""Replay: vLLM V1's scheduler and KV cache, compiled. A run and step-time parameters -> latencies and the schedule.

What is imitated, from vLLM's V1 scheduler and engine core (vllm/v1/core/sched/scheduler.py, v1/engine/core.py, v0.15):

- running requests are served before waiting ones, in order of arrival, under a token budget and `max_num_seqs`;
  a prompt that does not fit the budget is computed in chunks;
- full blocks of a prompt that are still in the cache are not computed again, except that the last token always is;
- when blocks run out the last running request is preempted, its blocks freed, and it is computed again later (unless
  the step in flight is its last);
- with async scheduling the batch of a step is formed when the step before it starts, so that a request joins one step
  later and a finished one leaves one step later.

Nothing is made per step: the compiled loop fills columns that grow by doubling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from roofml.engine.cold_start import EVENTS, first_time, start_server
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
from roofml.engine.step_law import Callback, Formula, StepLaw, law_us
from roofml.latency.batch import LONG_CONTEXT, StepTable
from roofml.latency.components import ComponentTables
from roofml.latency.formula import StepParameters
from roofml.traces.run import Run
from roofml.util.errors import InputError
from roofml.util.jit_cache import digest_argument

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class RequestParameters(NamedTuple):
    """What a request waits for besides steps of the usual time, µs; `params.py` gives each its bound and prior."""

    queueing_us: float = 5000.0
    """From the client's send to the scheduler's queue."""
    queueing_per_running_us: float = 30.0
    """Added to it for every request running at the time: the front end shares the CPU."""
    pipeline_delay_us: float = 1000.0
    """From the end of a step to the client's chunk; the step that async scheduling adds is in the replay itself."""
    cold_step_us: float = 0.0
    """Added once to the first mixed step of a server that has just started (`coldstart`)."""
    cold_kernel_us: float = 0.0
    """Added to a step that has a kernel compiled, as in a mixture of experts on a server that has just started."""


@dataclass(frozen=True)
class Schedule:
    """Which steps a run took and which requests were in them. Requests are in the run's order."""

    steps: StepTable
    step_start_us: Floats
    """(steps,)"""
    step_time_us: Floats
    """(steps,)"""
    first_step: Ints
    """(requests,) the step that made the first output token. Until its last a request waits for every step, and is in
    each unless it was preempted or the budget ran out before it."""
    last_step: Ints
    """(requests,) the step that made the last output token."""
    queued_us: Floats
    """(requests,) when it entered the scheduler's queue."""
    running_at_arrival: Ints
    """(requests,) requests running when it arrived."""
    cached_tokens: Ints
    """(requests,) prompt tokens found in the cache when first scheduled."""
    preemptions: Ints
    """(requests,)"""
    cold: Floats
    """(2, steps) 1 in steps that `cold_step_us`, and `cold_kernel_us`, were added to."""


@dataclass(frozen=True)
class Replay:
    """Predicted latencies of every request of a run, µs, and the schedule that they come from."""

    ttft_us: Floats
    e2e_us: Floats
    schedule: Schedule


class _Requests(NamedTuple):
    """What the compiled loop needs of the requests, in order of arrival."""

    arrival_us: Floats
    prompt: Ints
    output: Ints
    keys: BlockKeys


class _Limits(NamedTuple):
    max_num_seqs: int
    budget: int
    block_size: int
    num_gpu_blocks: int
    prefix_caching: bool
    steps_ahead: int
    fresh: bool
    experts: int
    experts_per_token: int


def _compiled_in() -> NDArray[Any]:
    """The files that `_run` compiles in, for the compiler's cache."""
    return digest_argument(
        *(
            Path(__file__).parents[1] / f"{name}.py"
            for name in (
                "latency/batch",
                "latency/components",
                "latency/formula",
                "engine/cold_start",
                "engine/kv_cache",
                "engine/step_law",
            )
        )
    )


@njit(cache=True, nogil=True)
def _run(requests: Any, limits: Any, law: Any, q: Any, progress: Any, sources: Any) -> Any:
    """The loop. Returns the step columns and, per request, what Schedule holds. `progress[0]` counts the finished."""
    n = len(requests.prompt)
    block_size = limits.block_size
    cache = empty_cache(limits.num_gpu_blocks, requests.keys.total)
    most_blocks = (np.max(requests.prompt + requests.output) + block_size - 1) // block_size + 1

    computed = np.zeros(n, np.int64)  # tokens in the KV cache
    generated = np.zeros(n, np.int64)  # output tokens, those of steps in flight included
    held: Any = np.zeros(n, np.int64)  # blocks
    remembered = np.zeros(n, np.int64)  # of them full and known by key
    first_step = np.full(n, NOTHING, np.int64)
    last_step = np.full(n, NOTHING, np.int64)
    queued = np.full(n, np.inf)
    running_at_arrival = np.zeros(n, np.int64)
    cached_tokens = np.full(n, NOTHING, np.int64)
    preemptions = np.zeros(n, np.int64)

    slot = np.full(n, NOTHING, np.int64)  # row of a running request in `blocks`
    blocks: Any = np.empty((limits.max_num_seqs, most_blocks), np.int64)
    free_slots: Any = np.arange(limits.max_num_seqs, dtype=np.int64)
    running = np.empty(limits.max_num_seqs, np.int64)
    preempted = np.empty(limits.max_num_seqs, np.int64)
    finishing = np.empty((2, limits.max_num_seqs), np.int64)  # requests whose last step is in flight
    finishing_count = np.zeros(2, np.int64)
    running_count, preempted_count, arrived, admitted, finished, in_flight = 0, 0, 0, 0, 0, 0

    columns = np.empty((1024, 7))
    start = np.empty(1024)
    duration = np.empty(1024)
    cold = np.empty((1024, 2))
    met = np.zeros(EVENTS, np.bool_)
    start_server(met, limits.budget, limits.fresh, limits.experts, limits.experts_per_token)
    steps = 0
    now = requests.arrival_us[0]

    while finished < n:
        while arrived < n and requests.arrival_us[arrived] <= now:
            running_at_arrival[arrived] = running_count
            queued[arrived] = requests.arrival_us[arrived] + q.queueing_us + q.queueing_per_running_us * running_count
            arrived += 1

        # Form a batch: first what runs, then, if nothing had to be preempted, what waits.
        budget = limits.budget
        prefill_tokens, decode_tokens, in_step = 0, 0, 0
        prefill_pairs, prefill_context, decode_context, decode_beyond = 0.0, 0.0, 0.0, 0.0
        this = steps % 2
        finishing_count[this] = 0
        preempting = False
        index = 0
        while budget > 0:
            if index < running_count:
                r = running[index]
                index += 1
                new = min(requests.prompt[r] + generated[r] - computed[r], budget)
                if generated[r] == requests.output[r]:
                    continue  # its last step is in flight
                need = (computed[r] + new + block_size - 1) // block_size - held[r]
                while need > cache.free[0]:
                    victim = running[running_count - 1]
                    preempting = True
                    running_count -= 1
                    release(cache, blocks[slot[victim]], held[victim])
                    free_slots[limits.max_num_seqs - running_count - 1] = slot[victim]
                    slot[victim] = NOTHING
                    held[victim], remembered[victim], computed[victim] = 0, 0, 0
                    preemptions[victim] += 1
                    if generated[victim] < requests.output[victim]:  # else it ends with the step in flight
                        preempted[preempted_count] = victim
                        preempted_count += 1
                    if victim == r:
                        break
                if slot[r] == NOTHING:
                    break
            else:
                if preempting or running_count == limits.max_num_seqs:
                    break
                if preempted_count > 0:
                    r = preempted[preempted_count - 1]
                elif admitted < arrived and queued[admitted] <= now:
                    r = admitted
                else:
                    break
                known = requests.prompt[r] + generated[r]
                hits, idle_hits = 0, 0
                if limits.prefix_caching:
                    while hits < (known - 1) // block_size:
                        block: Any = cache.block_of_key[key_of(requests.keys, r, hits)]
                        if block == NOTHING:
                            break
                        if cache.users[block] == 0:
                            idle_hits += 1
                        hits += 1
                new = min(known - hits * block_size, budget)
                need = (hits * block_size + new + block_size - 1) // block_size - hits
                if need + idle_hits > cache.free[0]:
                    break
                if preempted_count > 0:
                    preempted_count -= 1
                else:
                    admitted += 1
                slot[r] = free_slots[limits.max_num_seqs - running_count - 1]
                for j in range(hits):
                    block = cache.block_of_key[key_of(requests.keys, r, j)]
                    take_cached(cache, block)
                    blocks[slot[r], j] = block
                held[r], remembered[r], computed[r] = hits, hits, hits * block_size
                if cached_tokens[r] == NOTHING:
                    cached_tokens[r] = computed[r]
                running[running_count] = r
                running_count += 1
                index = running_count

            for _ in range(need):
                blocks[slot[r], held[r]] = take_free(cache)
                held[r] += 1
            in_step += 1
            budget -= new
            if new > 1 or computed[r] < requests.prompt[r]:
                prefill_tokens += new
                prefill_pairs += new * (computed[r] + 0.5 * (new + 1))
                prefill_context += computed[r]
            else:
                decode_tokens += 1
                decode_context += computed[r]
                decode_beyond += max(0, computed[r] - LONG_CONTEXT)
            computed[r] += new
            if limits.prefix_caching:
                while (remembered[r] + 1) * block_size <= computed[r]:
                    remember(cache, blocks[slot[r], remembered[r]], key_of(requests.keys, r, remembered[r]))
                    remembered[r] += 1
            if computed[r] == requests.prompt[r] + generated[r]:
                generated[r] += 1
                if generated[r] == 1:
                    first_step[r] = steps
                if generated[r] == requests.output[r]:
                    last_step[r] = steps
                    finishing[this, finishing_count[this]] = r
                    finishing_count[this] += 1

        if in_step > 0:
            if steps == len(start):
                columns = np.concatenate((columns, np.empty_like(columns)))
                start = np.concatenate((start, np.empty_like(start)))
                duration = np.concatenate((duration, np.empty_like(duration)))
                cold = np.concatenate((cold, np.empty_like(cold)))
            row = columns[steps]
            row[0], row[1], row[2] = prefill_tokens, decode_tokens, in_step
            row[3], row[4], row[5], row[6] = prefill_pairs, prefill_context, decode_context, decode_beyond
            cold[steps, 0], cold[steps, 1] = first_time(
                met, prefill_tokens, decode_tokens, limits.experts, limits.experts_per_token
            )
            duration[steps] = law_us(law, row[0], row[1], row[2], row[3], row[4], row[5], row[6])
            duration[steps] += q.cold_step_us * cold[steps, 0] + q.cold_kernel_us * cold[steps, 1]
            start[steps] = now
            if steps > 0:
                start[steps] = max(now, start[steps - 1] + duration[steps - 1])
            steps += 1
            in_flight += 1
            if in_flight <= limits.steps_ahead:
                continue
        elif in_flight == 0:
            # Nothing to do until the next request arrives or reaches the queue.
            now = max(now, queued[admitted]) if admitted < arrived else requests.arrival_us[arrived]
            continue

        # The oldest step in flight ends: its finished requests leave.
        oldest = steps - in_flight
        now = start[oldest] + duration[oldest]
        in_flight -= 1
        which = oldest % 2
        if finishing_count[which] > 0:
            for i in range(finishing_count[which]):
                r = finishing[which, i]
                if slot[r] != NOTHING:  # it was not preempted meanwhile
                    release(cache, blocks[slot[r]], held[r])
                    held[r] = 0
            kept = 0
            for i in range(running_count):
                r = running[i]
                if held[r] == 0:
                    free_slots[limits.max_num_seqs - running_count + i - kept] = slot[r]
                    slot[r] = NOTHING
                else:
                    running[kept] = r
                    kept += 1
            finished += finishing_count[which]
            running_count = kept
            finishing_count[which] = 0
            progress[0] = finished
    return (
        columns[:steps].copy(),
        start[:steps].copy(),
        duration[:steps].copy(),
        cold[:steps].T.copy(),
        first_step,
        last_step,
        queued,
        running_at_arrival,
        cached_tokens,
        preemptions,
    )


def _requests(run: Run) -> _Requests:
    """The run's requests, and keys for every full block of prompt and output: a preempted request finds its own."""
    block_size = run.server.block_size
    shared = np.where(run.prefix_group >= 0, np.minimum(run.prefix_tokens, run.prompt_tokens) // block_size, 0)
    full = (run.prompt_tokens + run.output_tokens) // block_size + 1
    keys = block_keys(run.prefix_group, shared, full)
    return _Requests(run.arrival_us, run.prompt_tokens, run.output_tokens, keys)


def _check_fits(run: Run) -> None:
    server = run.server
    tokens = run.prompt_tokens + run.output_tokens
    if len(run) == 0:
        raise InputError(f"{run.name}: no requests to replay")
    if run.prompt_tokens.min() < 1 or run.output_tokens.min() < 1:
        row = int(np.argmin(np.minimum(run.prompt_tokens, run.output_tokens)))
        raise InputError(f"{run.name}: request {run.request_id[row]}: expected at least one prompt and output token")
    worst = int(np.argmax(tokens))
    if tokens[worst] > server.max_model_len:
        raise InputError(
            f"{run.name}: request {run.request_id[worst]}: {tokens[worst]} tokens exceed max_model_len "
            f"{server.max_model_len}"
        )
    if -(-int(tokens[worst]) // server.block_size) > server.num_gpu_blocks - 1:
        raise InputError(
            f"{run.name}: request {run.request_id[worst]}: {tokens[worst]} tokens do not fit in "
            f"{server.num_gpu_blocks} KV blocks of {server.block_size}"
        )


def replay(
    run: Run,
    tables: ComponentTables,
    step: StepParameters,
    request: RequestParameters,
    progress: Ints | None = None,
) -> Replay:
    """Serve the run's requests as vLLM would, with steps as long as the parameters say.

    `progress`, an array of one, is kept at the number of finished requests while the compiled loop runs (it releases
    the GIL). Raises InputError for a request that can never run, ValueError for tables that end before the budget.
    """
    budget = run.server.max_num_batched_tokens
    if len(tables.gemm) <= budget:
        raise ValueError(f"tables of {len(tables.gemm) - 1} tokens for a budget of {budget}")
    experts = (int(tables.experts), int(tables.experts_per_token))
    return _serve(run, Formula(tables, StepParameters(*map(float, step))), request, progress, experts)


def replay_with(run: Run, law: StepLaw, request: RequestParameters, progress: Ints | None = None) -> Replay:
    """As `replay`, with steps as long as any function says: some µs more a step, and whatever the function takes.

    Raises what the law raises, and ValueError for a time that is not positive.
    """
    callback = Callback(law)
    result = _serve(run, callback.pointer, request, progress)
    callback.check()
    return result


def _serve(
    run: Run, law: Any, request: RequestParameters, progress: Ints | None, experts: tuple[int, int] = (0, 0)
) -> Replay:
    _check_fits(run)
    server = run.server
    limits = _Limits(
        server.max_num_seqs,
        server.max_num_batched_tokens,
        server.block_size,
        server.num_gpu_blocks,
        server.prefix_caching,
        1 if server.async_scheduling else 0,
        server.fresh,
        *experts,
    )
    columns, start, duration, cold, first, last, queued, running, cached, preemptions = _run(
        _requests(run),
        limits,
        law,
        RequestParameters(*map(float, request)),
        np.zeros(1, np.int64) if progress is None else progress,
        _compiled_in(),
    )
    end = start + duration
    return Replay(
        ttft_us=end[first] - run.arrival_us + request.pipeline_delay_us,
        e2e_us=end[last] - run.arrival_us + request.pipeline_delay_us,
        schedule=Schedule(
            StepTable.from_columns(columns), start, duration, first, last, queued, running, cached, preemptions, cold
        ),
    )
