"""The compiled scheduler: vLLM V1's, with its KV cache, over arrays. `replay` gives it a run and reads its answer.

What is imitated, from vLLM's V1 scheduler and engine core (vllm/v1/core/sched/scheduler.py, v1/engine/core.py, v0.15):

- running requests are served before waiting ones, in order of arrival, under a token budget and `max_num_seqs`;
  a prompt that does not fit the budget is computed in chunks;
- full blocks of a prompt that are still in the cache are not computed again, except that the last token always is;
- when blocks run out the last running request is preempted, its blocks freed, and it is computed again later (unless
  the step in flight is its last);
- with async scheduling the batch of a step is formed when the step before it starts, so that a request joins one step
  later and a finished one leaves one step later.

Nothing is made per step: the compiled loop fills columns that grow by doubling. What it does to one request stands in
functions of its own, which numba compiles into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from roofml.engine.cold_start import EVENTS, first_time, start_server
from roofml.engine.kv_cache import (
    NOTHING,
    BlockKeys,
    empty_cache,
    key_of,
    release,
    remember,
    take_cached,
    take_free,
)
from roofml.engine.step_time import time_of_step
from roofml.latency.batch import StepSums
from roofml.traces.steps.table import LONG_CONTEXT
from roofml.util.arrays import Floats, Ints
from roofml.util.jit_cache import compiled, digest_argument


class Requests(NamedTuple):
    """What the compiled loop needs of the requests, in order of arrival."""

    arrival_us: Floats
    prompt: Ints
    output: Ints
    keys: BlockKeys


class Limits(NamedTuple):
    """What the server allows, and what it starts as."""

    max_num_seqs: int
    budget: int
    block_size: int
    num_gpu_blocks: int
    prefix_caching: bool
    steps_ahead: int
    fresh: bool
    experts: int
    experts_per_token: int


ONE_STEP: Any = StepSums
"""The sums of one step, as plain numbers."""
BOOKED = np.dtype(
    [
        (name, np.int64)
        for name in ("computed", "generated", "held", "remembered", "slot", "cached_tokens", "preemptions")
    ]
)
"""What the loop keeps of a request: tokens in the KV cache; output tokens, those of steps in flight included; blocks;
of them full and known by key; its row in `Seats.blocks`; and what `Schedule` says of it."""


class Seats(NamedTuple):
    """The running requests and their blocks."""

    blocks: Ints
    """(seats, blocks)"""
    free: Ints
    """(seats,) rows of `blocks` that nobody has: the first `counts[FREE]`."""
    running: Ints
    """(seats,) the running requests in order of arrival: the first `counts[RUNNING]`."""
    preempted: Ints
    """(seats,) those to be computed again, the next one last: the first `counts[PREEMPTED]`."""
    counts: Ints


RUNNING, PREEMPTED, FREE = 0, 1, 2
"""Places in `Seats.counts`."""


@register_jitable
def _make_room(books: Any, seats: Any, cache: Any, output: Any, r: int, need: int) -> None:
    """Preempt from the end of the running requests until `need` blocks are free or r itself is preempted."""
    while need > cache.free[0]:
        seats.counts[RUNNING] -= 1
        victim = seats.running[seats.counts[RUNNING]]
        booked = books[victim]
        _free_seat(booked, seats, cache)
        booked.remembered, booked.computed = 0, 0
        booked.preemptions += 1
        if booked.generated < output[victim]:  # else it ends with the step in flight
            seats.preempted[seats.counts[PREEMPTED]] = victim
            seats.counts[PREEMPTED] += 1
        if victim == r:
            break


@register_jitable
def _free_seat(booked: Any, seats: Any, cache: Any) -> None:
    release(cache, seats.blocks[booked.slot], booked.held)
    seats.free[seats.counts[FREE]] = booked.slot
    seats.counts[FREE] += 1
    booked.slot, booked.held = NOTHING, 0


@register_jitable
def _cached_blocks(cache: Any, keys: Any, r: int, most: int) -> Any:
    """Leading blocks of request r that are in the cache, `most` at most, and how many of them nobody uses."""
    hits, idle = 0, 0
    while hits < most:
        block = cache.block_of_key[key_of(keys, r, hits)]
        if block == NOTHING:
            break
        if cache.users[block] == 0:
            idle += 1
        hits += 1
    return hits, idle


@register_jitable
def _admit(booked: Any, seats: Any, cache: Any, keys: Any, r: int, hits: int, block_size: int) -> None:
    """Seat request r with the `hits` blocks that it found in the cache."""
    seats.counts[FREE] -= 1
    booked.slot = seats.free[seats.counts[FREE]]
    for j in range(hits):
        block = cache.block_of_key[key_of(keys, r, j)]
        take_cached(cache, block)
        seats.blocks[booked.slot, j] = block
    booked.held, booked.remembered, booked.computed = hits, hits, hits * block_size
    if booked.cached_tokens == NOTHING:
        booked.cached_tokens = booked.computed
    seats.running[seats.counts[RUNNING]] = r
    seats.counts[RUNNING] += 1


@register_jitable
def _leave(books: Any, seats: Any, cache: Any, ended: Any) -> None:
    """Free the seats and blocks of the requests that ended, unless they were preempted meanwhile."""
    for r in ended:
        if books[r].slot != NOTHING:
            _free_seat(books[r], seats, cache)
    kept = 0
    for i in range(seats.counts[RUNNING]):
        r = seats.running[i]
        if books[r].slot != NOTHING:
            seats.running[kept] = r
            kept += 1
    seats.counts[RUNNING] = kept


@register_jitable
def _grown(column: Any) -> Any:
    return np.concatenate((column, np.empty_like(column)))


def compiled_in() -> NDArray[Any]:
    """The files that `serve` compiles in, for the compiler's cache."""
    return digest_argument(
        *(
            Path(__file__).parents[1] / f"{name}.py"
            for name in (
                "latency/batch",
                "latency/components",
                "latency/formula",
                "engine/cold_start",
                "engine/kv_cache",
                "engine/step_time",
            )
        )
    )


@compiled(nogil=True)
def serve(requests: Any, limits: Any, source: Any, q: Any, progress: Any, sources: Any) -> Any:
    """The loop. Returns the step columns and, per request, what Schedule holds. `progress[0]` counts the finished."""
    n = len(requests.prompt)
    block_size = limits.block_size
    cache = empty_cache(limits.num_gpu_blocks, requests.keys.total)
    most_blocks = (np.max(requests.prompt + requests.output) + block_size - 1) // block_size + 1
    books: Any = np.zeros(n, BOOKED)
    books.slot[:] = NOTHING
    books.cached_tokens[:] = NOTHING
    seats = Seats(
        np.empty((limits.max_num_seqs, most_blocks), np.int64),
        np.arange(limits.max_num_seqs)[::-1].copy(),
        np.empty(limits.max_num_seqs, np.int64),
        np.empty(limits.max_num_seqs, np.int64),
        np.array([0, 0, limits.max_num_seqs]),
    )
    # Arrays that every decode touches have names of their own: taking them out of a tuple would cost as much as it.
    running: Any = seats.running
    blocks, counts, free = seats.blocks, seats.counts, cache.free
    keys, prompt, output, arrival = requests.keys, requests.prompt, requests.output, requests.arrival_us

    first_step = np.full(n, NOTHING, np.int64)
    last_step = np.full(n, NOTHING, np.int64)
    queued = np.full(n, np.inf)
    running_at_arrival = np.zeros(n, np.int64)
    finishing = np.empty((2, limits.max_num_seqs), np.int64)  # requests whose last step is in flight
    finishing_count = np.zeros(2, np.int64)
    arrived, admitted, finished, in_flight, steps = 0, 0, 0, 0, 0

    columns = np.empty((1024, 7))
    start = np.empty(1024)
    duration = np.empty(1024)
    cold = np.empty((1024, 2))
    met = np.zeros(EVENTS, np.bool_)
    start_server(met, limits.budget, limits.fresh, limits.experts, limits.experts_per_token)
    now = requests.arrival_us[0]

    while finished < n:
        while arrived < n and arrival[arrived] <= now:
            running_at_arrival[arrived] = counts[RUNNING]
            queued[arrived] = arrival[arrived] + q.queueing_us + q.queueing_per_running_us * counts[RUNNING]
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
            if index < counts[RUNNING]:
                r = running[index]
                booked = books[r]
                index += 1
                new = min(prompt[r] + booked.generated - booked.computed, budget)
                if booked.generated == output[r]:
                    continue  # its last step is in flight
                need = (booked.computed + new + block_size - 1) // block_size - booked.held
                if need > free[0]:
                    preempting = True
                    _make_room(books, seats, cache, output, r, need)
                    if booked.slot == NOTHING:
                        break
            else:
                if preempting or counts[RUNNING] == limits.max_num_seqs:
                    break
                if counts[PREEMPTED] > 0:
                    r: Any = seats.preempted[counts[PREEMPTED] - 1]
                elif admitted < arrived and queued[admitted] <= now:
                    r = admitted
                else:
                    break
                booked = books[r]
                known = prompt[r] + booked.generated
                hits, idle_hits = 0, 0
                if limits.prefix_caching:
                    hits, idle_hits = _cached_blocks(cache, keys, r, (known - 1) // block_size)
                new = min(known - hits * block_size, budget)
                need = (hits * block_size + new + block_size - 1) // block_size - hits
                if need + idle_hits > free[0]:
                    break
                if counts[PREEMPTED] > 0:
                    counts[PREEMPTED] -= 1
                else:
                    admitted += 1
                _admit(booked, seats, cache, keys, r, hits, block_size)
                index = counts[RUNNING]

            in_step += 1
            budget -= new
            context = booked.computed
            if new > 1 or context < prompt[r]:
                prefill_tokens += new
                prefill_pairs += new * (context + 0.5 * (new + 1))
                prefill_context += context
            else:
                decode_tokens += 1
                decode_context += context
                decode_beyond += max(0, context - LONG_CONTEXT)
            for _ in range(need):
                blocks[booked.slot, booked.held] = take_free(cache)
                booked.held += 1
            booked.computed = context + new
            if limits.prefix_caching:
                while (booked.remembered + 1) * block_size <= booked.computed:
                    block: Any = blocks[booked.slot, booked.remembered]
                    remember(cache, block, key_of(keys, r, booked.remembered))
                    booked.remembered += 1
            if booked.computed == prompt[r] + booked.generated:
                booked.generated += 1
                if booked.generated == 1:
                    first_step[r] = steps
                if booked.generated == output[r]:
                    last_step[r] = steps
                    finishing[this, finishing_count[this]] = r
                    finishing_count[this] += 1

        if in_step > 0:
            if steps == len(start):
                columns, start, duration, cold = _grown(columns), _grown(start), _grown(duration), _grown(cold)
            sums = ONE_STEP(
                float(prefill_tokens),
                float(decode_tokens),
                float(in_step),
                prefill_pairs,
                prefill_context,
                decode_context,
                decode_beyond,
            )
            for i in range(len(sums)):
                columns[steps, i] = sums[i]
            cold[steps, 0], cold[steps, 1] = first_time(
                met, prefill_tokens, decode_tokens, limits.experts, limits.experts_per_token
            )
            duration[steps] = time_of_step(source, sums)
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
            now = max(now, queued[admitted]) if admitted < arrived else arrival[arrived]
            continue

        # The oldest step in flight ends: its finished requests leave.
        oldest = steps - in_flight
        now = start[oldest] + duration[oldest]
        in_flight -= 1
        which = oldest % 2
        if finishing_count[which] > 0:
            _leave(books, seats, cache, finishing[which, : finishing_count[which]])
            finished += finishing_count[which]
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
        books.cached_tokens.copy(),
        books.preemptions.copy(),
    )
