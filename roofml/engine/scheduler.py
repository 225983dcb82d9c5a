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

Nothing is made per step: the compiled loop fills a `workspace`, whose rows grow by doubling. What it does to one
request stands in functions of their own (`seats`, `waiting`), which numba compiles into it. `benchmarks/conformance.py`
holds it against the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roofml.engine.clients import send
from roofml.engine.cold_start import compiling, earlier, first_mixed
from roofml.engine.deadlines import give_up, next_deadline_us
from roofml.engine.followers import arrive, expect, follow, no_later, resume, stand_still, stands_still
from roofml.engine.forming import (
    NO_PROMPTS,
    any_decodes,
    clear_near,
    grown,
    longest_chunk,
    summed,
    tokens_made,
    with_prompt,
    withdraw,
    write_sums,
)
from roofml.engine.incoming import (
    begin_transfer,
    comes_from_elsewhere,
    idle_us,
    in_flight_still,
    is_prompt,
    loaded,
    loading,
    next_loaded,
    next_poll_us,
    note_step,
    poll,
    seat_loaded,
)
from roofml.engine.kv_cache import NOTHING, take_free
from roofml.engine.more_groups import more_needed, take_more
from roofml.engine.seats import (
    RUNNING,
    admit,
    cached_blocks,
    close_ranks,
    free_seat,
    remember_blocks,
    victim_by_priority,
)
from roofml.engine.step_time import time_of_step
from roofml.engine.waiting import (
    ENTERED,
    LENGTH,
    enter,
    first_waiting,
    leave_queue,
    next_in_queue_us,
    preempt,
)
from roofml.latency.batch import StepSums, add_near
from roofml.latency.launches import no_shorter_than_launches
from roofml.latency.pauses import held_us
from roofml.traces.steps.table import LONG_CONTEXT
from roofml.util.jit_cache import compiled, digest_argument

ONE_STEP: Any = StepSums
"""The sums of one step, as plain numbers."""


def compiled_in() -> NDArray[Any]:
    """The files that `serve` compiles in, for the compiler's cache."""
    return digest_argument(
        *(
            Path(__file__).parents[1] / f"{name}.py"
            for name in (
                *("models/reach", "latency/batch", "latency/components", "latency/formula", "latency/launches"),
                *("latency/pauses", "engine/clients", "engine/cold_start", "engine/deadlines", "engine/followers"),
                *("engine/forming", "engine/incoming", "engine/kv_cache", "engine/more_groups", "engine/seats"),
                *("engine/step_time", "engine/waiting"),
            )
        )
    )


@compiled(nogil=True)
def serve(
    requests: Any, limits: Any, rules: Any, source: Any, q: Any, pauses: Any, work: Any, progress: Any, sources: Any
) -> Any:
    """The loop, which fills its workspace. `progress[0]` counts the requests that ended.

    Returns how many steps there were, and the workspace's sums, times and cold, which may have had to grow.
    """
    n = len(requests.prompt)
    block_size, drafts, acceptance = limits.block_size, limits.drafts, limits.acceptance
    keys, arrival, incoming, followers = requests.keys, requests.arrival_us, requests.incoming, requests.followers
    seen_ttft = requests.seen_ttft_us
    cache, books, seats, waiting = work.cache, work.books, work.seats, work.waiting
    # Arrays that every decode touches have names of their own: taking them out of a tuple would cost as much as it.
    running, blocks, counts, shares, free = seats.running, seats.blocks, seats.counts, seats.shares, cache.free
    all_booked, all_noted = books.booked, books.noted
    reaches, near = work.reaches, work.near
    first_step, last_step, queued, running_at_arrival = work.filled
    finishing, finishing_count, met = work.finishing, work.finishing_count, work.met
    sums, times, cold = work.sums, work.times, work.cold
    start, duration = times[0], times[1]
    expect(followers, requests)
    arrived, given_up, ended, in_flight, steps, queued_tokens, last_prefill_step, prefill_waits, now = resume(
        followers, rules.prefill_interval, arrival[0]
    )
    sent, next_deadline = requests.clients if requests.clients > 0 else n, next_deadline_us(requests, given_up)

    while ended < n and not stands_still(followers, now, ended):
        while sent < n and sent < ended + requests.clients:
            send(requests, arrived, sent, now + q.pipeline_delay_us + requests.pause_us[sent])
            next_deadline = next_deadline_us(requests, given_up)
            sent += 1
        while arrived < n and arrival[arrived] <= now:
            r: Any = arrived
            arrive(followers, requests, all_booked, r)
            running_at_arrival[r] = counts[RUNNING]
            queueing = arrival[r] + q.queueing_us + q.queueing_per_running_us * counts[RUNNING]
            queued[r] = queueing + held_us(arrival[r], pauses)
            arrived += 1
            if followers is not None:
                next_deadline = next_deadline_us(requests, given_up)
            if arrived - ended > rules.most_requests or queued_tokens >= rules.most_queued_tokens:
                all_noted[r].gone = 1
                ended += 1
                follow(followers, requests, r, arrival[r])
            else:
                queued_tokens += all_booked[r].prompt
        while waiting.counts[ENTERED] < arrived and queued[waiting.counts[ENTERED]] <= now:
            enter(waiting, rules.by_priority, all_noted[waiting.counts[ENTERED]].gone > 0)
        if next_deadline <= now:
            given_up, next_deadline, left, tokens = give_up(
                now, given_up, books, seats, waiting, cache, requests, limits, rules, steps - in_flight, last_step
            )
            ended += left
            queued_tokens -= tokens

        # Form a batch: first what runs, then, if nothing had to be preempted, what waits.
        poll(incoming, now)
        budget = limits.budget
        longest = budget
        if rules.longest_chunk > 0:
            longest = longest_chunk(rules, budget, counts[RUNNING] + waiting.counts[LENGTH] + loading(incoming))
        spaced = rules.prefill_interval > 1
        hold_prefill = (
            spaced
            and not prefill_waits
            and steps + 1 - last_prefill_step < rules.prefill_interval
            and any_decodes(books, seats)
        )
        unsure_from = 2 * (steps - 1) if in_flight > 0 else 2 * steps + 2
        prompts, decodes, decode_context, decode_beyond = NO_PROMPTS, 0, 0, 0
        clear_near(near)
        this = steps % 2
        finishing_count[this] = 0
        preempting, withdrawn, prefills = False, False, False
        first_token_us = np.inf  # the earliest measured one among those that this step makes
        index = 0
        while budget > 0:
            if index < counts[RUNNING]:
                r = running[index]
                booked = all_booked[r]
                index += 1
                new = min(booked.prompt + booked.generated - booked.computed, budget, longest)
                if booked.generated == booked.output:
                    continue  # its last step is in flight
                if spaced and booked.sampled == NOTHING:
                    if hold_prefill:
                        continue
                    prefills = True
                ahead = min(drafts, budget - new) if booked.sampled != NOTHING else 0
                beyond = booked.computed + new + ahead - booked.held * block_size
                need = (beyond + block_size - 1) // block_size if beyond > 0 else 0  # mostly spares a division
                more = more_needed(shares, seats.more, booked.slot, booked.computed, new + ahead, block_size)
                if need + more > free[0]:
                    while need + more > free[0] and booked.slot != NOTHING:
                        place = counts[RUNNING] - 1
                        if in_flight_still(incoming, rules, running[place], steps - in_flight):
                            break
                        preempting = True
                        if rules.by_priority:
                            place = victim_by_priority(seats, requests.priority, arrival)
                            v = running[place]
                            in_this_step = all_noted[v].step == steps
                            if place < index and (rules.keeps_place or in_this_step):
                                index -= 1
                            if in_this_step:
                                withdrawn = True
                                budget += all_noted[v].new
                                ending = finishing[this, : finishing_count[this]]
                                finishing_count[this] = withdraw(all_booked[v], steps, v, first_step, last_step, ending)
                        preempt(place, books, seats, waiting, cache, requests, limits, rules, steps - in_flight)
                    if booked.slot == NOTHING:
                        if rules.goes_on:
                            continue
                        break
                    if need + more > free[0]:
                        index = counts[RUNNING]  # nobody after it either
                        continue
            else:
                if preempting or counts[RUNNING] >= rules.max_running:
                    break
                r = next_loaded(incoming, limits.steps_ahead)
                has_blocks = r != NOTHING
                hits, idle_hits, held = 0, 0, 0
                if has_blocks:
                    booked = all_booked[r]
                    loaded(incoming, booked, seats, cache, keys, r, limits)
                    computed, held = booked.computed, booked.held
                else:
                    if waiting.counts[LENGTH] == 0:
                        break
                    r = first_waiting(waiting, all_noted, rules.by_priority)
                    booked = all_booked[r]
                    if limits.prefix_caching:
                        most_hits = (booked.prompt + booked.generated - 1) // block_size
                        hits, idle_hits = cached_blocks(cache, keys, r, most_hits)
                    computed, held = hits * block_size, hits
                    if comes_from_elsewhere(incoming, r, computed):
                        if not begin_transfer(
                            incoming, books, seats, cache, keys, r, hits, idle_hits, limits, rules, now
                        ):
                            break
                        leave_queue(waiting, rules.by_priority)
                        continue
                known = booked.prompt + booked.generated
                left, ahead = known - computed, 0
                if hold_prefill and left > 1:
                    break
                new = min(left, budget, longest)
                need = max(0, (computed + new + block_size - 1) // block_size - held)
                required = max(0, (known + block_size - 1) // block_size - held) if rules.reserve_prompt else need
                if counts[RUNNING] > 0:
                    required += rules.watermark_blocks
                more = more_needed(shares, seats.more, booked.slot, computed, new, block_size)
                if required + more + idle_hits > free[0]:
                    break
                if has_blocks:
                    seat_loaded(incoming, seats)
                else:
                    leave_queue(waiting, rules.by_priority)
                    admit(booked, all_noted[r], seats, cache, keys, r, hits, block_size)
                index = counts[RUNNING]
                prefills = prefills or left > 1

            budget -= new + ahead
            context = booked.computed
            add_near(near, reaches, new + ahead, context, max(booked.prompt, context + (new > 1)))
            take_more(seats.more, cache, booked.slot, more)
            for _ in range(need):
                blocks[booked.slot, booked.held] = take_free(cache)
                booked.held += 1
            booked.computed = context + new
            note_step(incoming, r, steps)
            if rules.by_priority:
                all_noted[r].new, all_noted[r].step = new, steps
            if is_prompt(incoming, new, context, booked.prompt):
                prompts = with_prompt(prompts, new, context)
                if limits.prefix_caching and context < booked.prompt:
                    remember_blocks(booked, seats, cache, keys, r, booked.computed, block_size)
            else:
                decodes += 1
                decode_context += context
                decode_beyond += max(0, context - LONG_CONTEXT)
            if booked.computed == booked.prompt + booked.generated:
                made = tokens_made(acceptance, booked.generated, booked.output)
                booked.generated += made
                booked.computed += made - 1
                booked.sampled = 2 * steps + (booked.sampled >= unsure_from)
                if booked.generated == 1:
                    first_step[r] = steps
                    first_token_us = earlier(seen_ttft, r, arrival[r], first_token_us)
                    queued_tokens -= booked.prompt
                if booked.generated == booked.output:
                    last_step[r] = steps
                    finishing[this, finishing_count[this]] = r
                    finishing_count[this] += 1
        if withdrawn:
            prompts, decodes, decode_context, decode_beyond = summed(books, seats, steps, near, reaches)
        prefills_in_step, prefill_tokens, pairs, prefill_context = prompts
        in_step = decodes + prefills_in_step
        if spaced:
            if not preempting and not hold_prefill:
                prefill_waits = waiting.counts[LENGTH] > 0
            if prefills:
                last_prefill_step = steps + (in_step > 0)

        if in_step > 0:
            if steps == len(start):
                sums, cold, times = grown(sums), grown(cold), grown(times)
                start, duration = times[0], times[1]
            decode_tokens = min(decodes * (1 + drafts), limits.budget - prefill_tokens)
            step: Any = ONE_STEP(
                float(prefill_tokens), float(decode_tokens), float(in_step),
                pairs, float(prefill_context), float(decode_context), float(decode_beyond), near,
            )  # fmt: skip
            write_sums(sums, steps, step)
            start[steps] = max(now, start[steps - 1] + duration[steps - 1]) if steps > 0 else now
            duration[steps] = time_of_step(source, step)
            if prefill_tokens + decodes > limits.captured:
                duration[steps] = no_shorter_than_launches(duration[steps], prefill_tokens + decodes, limits)
            mixed = first_mixed(met, prefill_tokens, decodes)
            late_us = first_token_us - q.pipeline_delay_us - start[steps] - duration[steps] - q.cold_step_us * mixed
            compiles, stall_us = compiling(
                seen_ttft, met, late_us, q.cold_kernel_us, duration[steps], prefill_tokens + decodes, limits
            )
            cold[0, steps], cold[1, steps] = mixed, compiles
            duration[steps] += q.cold_step_us * mixed + stall_us
            steps += 1
            in_flight += 1
            if in_flight <= limits.steps_ahead:
                continue
        elif in_flight == 0:
            waits_for_client = sent < n and sent < ended + requests.clients
            if loading(incoming) > 0:
                now = next_poll_us(incoming, now, next_in_queue_us(waiting, queued, arrival, arrived))
            elif not (preempting or waits_for_client):  # else the blocks that are free now serve somebody at once
                now = max(now, no_later(followers, next_in_queue_us(waiting, queued, arrival, arrived)))
            continue

        # The oldest step in flight ends: its finished requests leave.
        oldest = steps - in_flight
        now = start[oldest] + duration[oldest]
        if next_deadline <= now:  # seen before the step's result is
            given_up, next_deadline, left, tokens = give_up(
                now, given_up, books, seats, waiting, cache, requests, limits, rules, steps - in_flight, last_step
            )
            ended += left
            queued_tokens -= tokens
        in_flight -= 1
        which = oldest % 2
        finished = finishing_count[which]
        if finished > 0:
            for i in range(finished):
                r = finishing[which, i]
                if all_noted[r].gone:
                    continue
                all_noted[r].gone = 1
                ended += 1
                follow(followers, requests, r, now + q.pipeline_delay_us)
                if all_booked[r].slot != NOTHING:  # else it was preempted meanwhile
                    free_seat(all_booked[r], seats, cache, keys, r, limits, rules.empty_first, oldest + 1)
            close_ranks(books, seats)
            finishing_count[which] = 0
            progress[0] = ended
        if in_step == 0:
            now += idle_us(incoming, counts[RUNNING] + waiting.counts[LENGTH] + loading(incoming) + finished)
    stand_still(
        followers, arrived, given_up, ended, in_flight, steps, queued_tokens, last_prefill_step, rules.prefill_interval,
        prefill_waits, now,
    )  # fmt: skip
    return steps, sums, times, cold
