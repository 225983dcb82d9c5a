"""The compiled scheduler: vLLM V1's, with its KV cache, over arrays. `replay` gives it a run and reads its answer.

What is imitated, from vLLM's V1 scheduler and engine core (vllm/v1/core/sched/scheduler.py, v1/engine/core.py), v0.8 to
v0.33; what changed between them is in `Rules`, and `versions` says which version does what:

- running requests are served before waiting ones, in order of admission, under a token budget and `max_num_seqs`;
  a prompt that does not fit the budget is computed in chunks;
- full blocks of a prompt that are still in the cache are not computed again, except that the last token always is;
- when blocks run out the last running request is preempted, or that of the lowest priority, its blocks freed, and it is
  computed again later (unless the step in flight is its last);
- with async scheduling the batch of a step is formed when the step before it starts, so that a request joins one step
  later and a finished one leaves one step later;
- a request that its client gives up leaves the queue, or its seat and blocks, before the next batch is formed.

Nothing is made per step: the compiled loop fills columns that grow by doubling. What it does to one request stands in
functions of their own (`seats`, `waiting`), which numba compiles into it. `benchmarks/conformance.py` holds it against
the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from roofml.engine.cold_start import EVENTS, first_time, start_server
from roofml.engine.forming import EMPTY, summed, with_request, withdraw
from roofml.engine.kv_cache import NOTHING, BlockKeys, empty_cache, take_free
from roofml.engine.seats import (
    RUNNING,
    admit,
    cached_blocks,
    close_ranks,
    free_seat,
    no_books,
    no_seats,
    remember_blocks,
    victim_by_priority,
)
from roofml.engine.step_time import time_of_step
from roofml.engine.waiting import (
    ENTERED,
    LENGTH,
    enter,
    first_waiting,
    give_up_waiting,
    leave_queue,
    nobody_waits,
    put_back,
)
from roofml.latency.batch import StepSums
from roofml.util.arrays import Floats, Ints
from roofml.util.jit_cache import compiled, digest_argument


class Requests(NamedTuple):
    """What the compiled loop needs of the requests, in order of arrival."""

    arrival_us: Floats
    prompt: Ints
    output: Ints
    keys: BlockKeys
    priority: Ints
    """Lower numbers first; read where priorities rule."""
    given_up_us: Floats
    """When the client goes away if its answer is not there; infinite where it never does."""
    giving_up: Ints
    """The requests in order of `given_up_us`."""
    clients: int
    """Of a closed loop, each of which sends the next request when its last is answered; 0: arrivals are given. Times
    of requests that are not sent yet are infinite, and filled in when they are."""
    deadline_us: float
    """After how long a client gives up."""


ONE_STEP: Any = StepSums
"""The sums of one step, as plain numbers."""


@register_jitable
def _preempt(
    place: int, books: Any, seats: Any, waiting: Any, cache: Any, requests: Any, limits: Any, rules: Any, oldest: int
) -> None:
    """Preempt the running request at `place`."""
    victim = seats.running[place]
    seats.counts[RUNNING] -= 1
    for i in range(place, seats.counts[RUNNING]):
        seats.running[i] = seats.running[i + 1]
    booked = books[victim]
    free_seat(booked, seats, cache, requests.keys, victim, limits, rules.empty_first, oldest)
    booked.preemptions += 1
    if booked.generated < requests.output[victim]:  # else it ends with the step in flight
        put_back(waiting, victim, rules.by_priority)


@register_jitable
def _give_up(
    now: float, given_up: int, books: Any, seats: Any, waiting: Any, cache: Any, requests: Any, limits: Any, rules: Any,
    oldest: int, last_step: Any,
) -> Any:  # fmt: skip
    """Requests whose client has gone by now leave their seats, or the queue.

    The first `given_up` have already, in the order of `giving_up`. Returns how many have now, how many did not have
    their answer, and the prompt tokens of those without a token.
    """
    left, tokens = 0, 0
    while given_up < len(requests.giving_up) and requests.given_up_us[requests.giving_up[given_up]] <= now:
        r = requests.giving_up[given_up]
        booked = books[r]
        given_up += 1
        if booked.gone:
            continue
        booked.gone = 1
        left += 1
        last_step[r] = NOTHING
        if booked.generated == 0:
            tokens += requests.prompt[r]
        if booked.slot != NOTHING:
            free_seat(booked, seats, cache, requests.keys, r, limits, rules.empty_first, oldest)
            close_ranks(books, seats)
        elif booked.generated < requests.output[r]:  # else it was preempted during its last step
            give_up_waiting(waiting, r, rules.by_priority)
    return given_up, left, tokens


@register_jitable
def _decodes(books: Any, seats: Any) -> bool:
    """Whether a running request is past its prompt."""
    for i in range(seats.counts[RUNNING]):  # noqa: SIM110  # numba compiles no generators
        if books[seats.running[i]].sampled != NOTHING:
            return True
    return False


@register_jitable
def _longest_chunk(rules: Any, budget: int, requests: int) -> int:
    """Most tokens of one request in this step where there is a limit, with so many requests running and waiting."""
    if requests < 2 and not rules.longest_chunk_alone:
        return budget
    if rules.fair_chunk:
        return max(rules.longest_chunk, budget // max(requests, 1))
    return rules.longest_chunk


@register_jitable
def _grown(column: Any) -> Any:
    return np.concatenate((column, np.empty_like(column)))


def compiled_in() -> NDArray[Any]:
    """The files that `serve` compiles in, for the compiler's cache."""
    return digest_argument(
        *(
            Path(__file__).parents[1] / f"{name}.py"
            for name in (
                *("latency/batch", "latency/components", "latency/formula"),
                *("engine/cold_start", "engine/forming", "engine/kv_cache", "engine/seats"),
                *("engine/step_time", "engine/waiting"),
            )
        )
    )


@compiled(nogil=True)
def serve(requests: Any, limits: Any, rules: Any, source: Any, q: Any, progress: Any, sources: Any) -> Any:
    """The loop. Returns the step columns and, per request, what Schedule holds. `progress[0]` counts those that ended.

    Of a request that does not get its answer, `last_step` is NOTHING.
    """
    n = len(requests.prompt)
    block_size = limits.block_size
    cache = empty_cache(limits.num_gpu_blocks, requests.keys.total)
    most_blocks = (np.max(requests.prompt + requests.output) + block_size - 1) // block_size + 1
    books: Any = no_books(n)
    seats: Any = no_seats(limits.max_num_seqs, most_blocks)
    waiting: Any = nobody_waits(limits.max_num_seqs, requests.priority, rules.by_priority)
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
    arrived, given_up, ended, in_flight, steps, queued_tokens = 0, 0, 0, 0, 0, 0
    sent = requests.clients if requests.clients > 0 else n
    last_prefill_step, prefill_waits = -rules.prefill_interval, False

    columns = np.empty((1024, 7))
    start = np.empty(1024)
    duration = np.empty(1024)
    cold = np.empty((1024, 2))
    met = np.zeros(EVENTS, np.bool_)
    start_server(met, limits.budget, limits.fresh, limits.experts, limits.experts_per_token, limits.captured)
    now = requests.arrival_us[0]

    while ended < n:
        while sent < n and sent < ended + requests.clients:
            arrival[sent] = now + q.pipeline_delay_us
            requests.given_up_us[sent] = arrival[sent] + requests.deadline_us
            sent += 1
        while arrived < n and arrival[arrived] <= now:
            r: Any = arrived
            running_at_arrival[r] = counts[RUNNING]
            queued[r] = arrival[r] + q.queueing_us + q.queueing_per_running_us * counts[RUNNING]
            arrived += 1
            if arrived - ended > rules.most_requests or queued_tokens >= rules.most_queued_tokens:
                books[r].gone = 1
                ended += 1
            else:
                queued_tokens += prompt[r]
        while waiting.counts[ENTERED] < arrived and queued[waiting.counts[ENTERED]] <= now:
            enter(waiting, rules.by_priority, books[waiting.counts[ENTERED]].gone > 0)
        if requests.given_up_us[requests.giving_up[min(given_up, n - 1)]] <= now:
            given_up, left, tokens = _give_up(
                now, given_up, books, seats, waiting, cache, requests, limits, rules, steps - in_flight, last_step
            )
            ended += left
            queued_tokens -= tokens

        # Form a batch: first what runs, then, if nothing had to be preempted, what waits.
        budget = limits.budget
        longest = budget
        if rules.longest_chunk > 0:
            longest = _longest_chunk(rules, budget, counts[RUNNING] + waiting.counts[LENGTH])
        spaced = rules.prefill_interval > 1
        hold_prefill = (
            spaced
            and not prefill_waits
            and steps + 1 - last_prefill_step < rules.prefill_interval
            and _decodes(books, seats)
        )
        unsure_from = 2 * (steps - 1) if in_flight > 0 else 2 * steps + 2
        sums = EMPTY
        this = steps % 2
        finishing_count[this] = 0
        preempting, withdrawn, prefills = False, False, False
        index = 0
        while budget > 0:
            if index < counts[RUNNING]:
                r = running[index]
                booked = books[r]
                index += 1
                new = min(prompt[r] + booked.generated - booked.computed, budget, longest)
                if booked.generated == output[r]:
                    continue  # its last step is in flight
                if spaced and booked.sampled == NOTHING:
                    if hold_prefill:
                        continue
                    prefills = True
                need = (booked.computed + new + block_size - 1) // block_size - booked.held
                if need > free[0]:
                    preempting = True
                    while need > free[0] and booked.slot != NOTHING:
                        place = counts[RUNNING] - 1
                        if rules.by_priority:
                            place = victim_by_priority(seats, requests.priority, arrival)
                            v = running[place]
                            in_this_step = books[v].step == steps
                            if place < index and (rules.keeps_place or in_this_step):
                                index -= 1
                            if in_this_step:
                                withdrawn = True
                                budget += books[v].new
                                ending = finishing[this, : finishing_count[this]]
                                finishing_count[this] = withdraw(books[v], v, output[v], first_step, last_step, ending)
                        _preempt(place, books, seats, waiting, cache, requests, limits, rules, steps - in_flight)
                    if booked.slot == NOTHING:
                        if rules.goes_on:
                            continue
                        break
            else:
                if preempting or counts[RUNNING] >= rules.max_running:
                    break
                r = first_waiting(waiting, books, rules.by_priority)
                if r == NOTHING:
                    break
                booked = books[r]
                known = prompt[r] + booked.generated
                hits, idle_hits = 0, 0
                if limits.prefix_caching:
                    hits, idle_hits = cached_blocks(cache, keys, r, (known - 1) // block_size)
                left = known - hits * block_size
                if hold_prefill and left > 1:
                    break
                new = min(left, budget, longest)
                need = (hits * block_size + new + block_size - 1) // block_size - hits
                required = (known + block_size - 1) // block_size - hits if rules.reserve_prompt else need
                if counts[RUNNING] > 0:
                    required += rules.watermark_blocks
                if required + idle_hits > free[0]:
                    break
                leave_queue(waiting, rules.by_priority)
                admit(booked, seats, cache, keys, r, hits, block_size)
                index = counts[RUNNING]
                prefills = prefills or left > 1

            budget -= new
            context = booked.computed
            sums = with_request(sums, new, context, prompt[r])
            for _ in range(need):
                blocks[booked.slot, booked.held] = take_free(cache)
                booked.held += 1
            booked.computed = context + new
            if rules.by_priority:
                booked.new, booked.step = new, steps
            if context < prompt[r] and limits.prefix_caching:
                remember_blocks(booked, seats, cache, keys, r, booked.computed, block_size)
            if booked.computed == prompt[r] + booked.generated:
                booked.generated += 1
                booked.sampled = 2 * steps + (booked.sampled >= unsure_from)
                if booked.generated == 1:
                    first_step[r] = steps
                    queued_tokens -= prompt[r]
                if booked.generated == output[r]:
                    last_step[r] = steps
                    finishing[this, finishing_count[this]] = r
                    finishing_count[this] += 1
        if withdrawn:
            sums = summed(books, seats, prompt, steps)
        if spaced:
            if not preempting and not hold_prefill:
                prefill_waits = waiting.counts[LENGTH] > 0
            if prefills:
                last_prefill_step = steps + (sums[2] > 0)

        if sums[2] > 0:
            if steps == len(start):
                columns, start, duration, cold = _grown(columns), _grown(start), _grown(duration), _grown(cold)
            step: Any = ONE_STEP(*sums)
            for i in range(len(step)):
                columns[steps, i] = step[i]
            cold[steps, 0], cold[steps, 1] = first_time(
                met, int(sums[0]), int(sums[1]), limits.experts, limits.experts_per_token, limits.captured
            )
            duration[steps] = time_of_step(source, step)
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
            if sent < n and sent < ended + requests.clients:
                continue
            entered = waiting.counts[ENTERED]
            now = max(now, queued[entered]) if entered < arrived else arrival[arrived]
            continue

        # The oldest step in flight ends: its finished requests leave.
        oldest = steps - in_flight
        now = start[oldest] + duration[oldest]
        if requests.given_up_us[requests.giving_up[min(given_up, n - 1)]] <= now:  # seen before the step's result is
            given_up, left, tokens = _give_up(
                now, given_up, books, seats, waiting, cache, requests, limits, rules, steps - in_flight, last_step
            )
            ended += left
            queued_tokens -= tokens
        in_flight -= 1
        which = oldest % 2
        if finishing_count[which] > 0:
            for i in range(finishing_count[which]):
                r = finishing[which, i]
                if books[r].gone:
                    continue
                books[r].gone = 1
                ended += 1
                if books[r].slot != NOTHING:  # else it was preempted meanwhile
                    free_seat(books[r], seats, cache, keys, r, limits, rules.empty_first, oldest + 1)
            close_ranks(books, seats)
            finishing_count[which] = 0
            progress[0] = ended
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
