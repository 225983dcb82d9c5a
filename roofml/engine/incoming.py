"""Incoming: requests whose prompt another server computed, and whose KV is on its way over a link.

What is imitated is vLLM's KV connector with asynchronous loads, as NixlConnector has it (v1/core/sched/scheduler.py,
distributed/kv_transfer/kv_connector/v1/nixl/pull_scheduler.py, v0.33):

- a waiting request takes blocks for all of its prompt at once, those of its prefix in the cache apart, and no seat and
  no tokens of the budget; blocks that prompts in the making still need stay free for them;
- the step that is formed then starts the transfer when it is launched, and each step, as it is launched, looks which
  transfers have ended; the scheduler hears of it with that step's result. Where nothing runs, it looks every POLL_US;
- then its full blocks can be found by others, and it may be seated before anybody who still waits for blocks. The last
  token of the prompt is computed again, which makes the first token of the answer;
- it is loaded once: preempted later, it is computed here;
- with a batch formed ahead nobody is preempted whose step is in flight: his blocks could not be taken yet.

So of 0.17 on; before, a preempted request without blocks could keep those that have theirs from a seat, for ever.
`benchmarks/conformance_kv.py` holds it against the real schedulers of 0.22 and 0.33.

A link serves one transfer after the other, in the order in which they began. Functions that numba compiles into
`scheduler`; for a run without any of this `incoming` is None and they cost nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from roofml.engine.kv_cache import NOTHING, take_free
from roofml.engine.more_groups import more_needed, take_more
from roofml.engine.seats import RUNNING, remember_blocks, take_seat
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints
from roofml.util.jit_cache import called_by_compiled

POLL_US = 1000.0
"""How long an engine that has nothing to compute waits before it looks again (v1/engine/core.py)."""
LOADING, LOOKED, FORMED = 0, 1, 2
"""Places in `Incoming.counts`: requests that have blocks and no seat, those of them that this step has looked at, and
batches formed, empty ones too."""


class Incoming(NamedTuple):
    """KV that comes from elsewhere. Arrays have shape (requests,) unless they say otherwise."""

    tokens: Ints
    """Of the start of each prompt; 0: it is computed here."""
    block_us: Floats
    """How long the link takes for a block."""
    latency_us: Floats
    """How long a transfer takes beside that; the link serves others meanwhile."""
    begin_us: Floats
    """When the blocks were taken, and the transfer could begin; NaN before. Filled in."""
    end_us: Floats
    """When it ended. Filled in."""
    seen: Ints
    """The batch whose launch saw that; NOTHING before."""
    last_batch: Ints
    """The last step in which each computed."""
    loading: Ints
    """Those with blocks and no seat, in the order in which they have them: the first `counts[LOADING]`."""
    counts: Ints
    free_us: Floats
    """(1,) when the link is free again."""


def incoming_of(run: Run) -> Incoming | None:
    """What arrives with its KV computed of a run; None where nothing does."""
    if not len(run.kv_tokens):
        return None
    block_us, latency_us = (np.ascontiguousarray(each, np.float64) for each in (run.kv_block_us, run.kv_latency_us))
    return no_incoming(len(run))._replace(tokens=run.kv_tokens, block_us=block_us, latency_us=latency_us)


def no_incoming(size: int) -> Incoming:
    """Of requests that have not arrived."""
    nothing = np.full(size, NOTHING)
    return Incoming(
        np.zeros(size, np.int64),
        np.zeros(size),
        np.zeros(size),
        np.full(size, np.nan),
        np.full(size, np.nan),
        nothing,
        nothing.copy(),
        nothing.copy(),
        np.zeros(3, np.int64),
        np.zeros(1),
    )


@called_by_compiled
def take_place(incoming: Any, place: int, theirs: Any, r: int) -> None:
    """What is said of request r, among others that have not arrived, is of the one at this place."""
    if incoming is not None:
        incoming.tokens[place] = theirs.tokens[r]
        incoming.block_us[place] = theirs.block_us[r]
        incoming.latency_us[place] = theirs.latency_us[r]


def most_loading(incoming: Incoming | None, blocks: int) -> int:
    """The most requests that have blocks and no seat."""
    return 0 if incoming is None else min(len(incoming.tokens), blocks)


@called_by_compiled
def loading(incoming: Any) -> int:
    """How many requests have blocks and no seat."""
    if incoming is None:  # decided when it is compiled, as in the functions below
        return 0
    return incoming.counts[LOADING]


@called_by_compiled
def poll(incoming: Any, now: float) -> None:
    """A batch is formed, and with its launch the workers look which transfers have ended."""
    if incoming is not None:
        counts = incoming.counts
        counts[FORMED] += 1
        counts[LOOKED] = 0
        for i in range(counts[LOADING]):
            r = incoming.loading[i]
            if incoming.seen[r] == NOTHING and incoming.end_us[r] <= now:
                incoming.seen[r] = counts[FORMED]


@called_by_compiled
def next_loaded(incoming: Any, ahead: int) -> int:
    """The next request whose KV is known to be here, NOTHING if no other is; with batches formed `ahead`.

    What one batch saw is known when its result is applied, before the next is formed, or the next but one.
    """
    if incoming is None:
        return NOTHING
    counts = incoming.counts
    while counts[LOOKED] < counts[LOADING]:
        r = incoming.loading[counts[LOOKED]]
        if incoming.seen[r] != NOTHING and counts[FORMED] > incoming.seen[r] + ahead:
            return r
        counts[LOOKED] += 1
    return NOTHING


@called_by_compiled
def loaded(incoming: Any, booked: Any, seats: Any, cache: Any, keys: Any, r: int, limits: Any) -> None:
    """The KV of request r is here: others may find it, and all but the last token of the prompt need no computing."""
    if incoming is not None:
        if limits.prefix_caching:
            remember_blocks(booked, seats, cache, keys, r, incoming.tokens[r], limits.block_size)
        booked.computed = min(incoming.tokens[r], booked.prompt - 1)


@called_by_compiled
def seat_loaded(incoming: Any, seats: Any) -> None:
    """The one that `next_loaded` gave is running."""
    if incoming is not None:
        counts, place = incoming.counts, incoming.counts[LOOKED]
        seats.running[seats.counts[RUNNING]] = incoming.loading[place]
        seats.counts[RUNNING] += 1
        counts[LOADING] -= 1
        for i in range(place, counts[LOADING]):
            incoming.loading[i] = incoming.loading[i + 1]


@called_by_compiled
def comes_from_elsewhere(incoming: Any, r: int, computed: int) -> bool:
    """Whether the KV of request r, of which `computed` tokens are in the cache, is still to be asked for."""
    if incoming is None:
        return False
    return np.isnan(incoming.begin_us[r]) and incoming.tokens[r] > computed


@called_by_compiled
def _reserved_blocks(incoming: Any, books: Any, seats: Any, block_size: int) -> int:
    """Blocks that prompts in the making still need."""
    total = 0
    for i in range(seats.counts[RUNNING]):
        booked = books.booked[seats.running[i]]
        if booked.sampled == NOTHING:
            total += (booked.prompt + booked.generated + block_size - 1) // block_size - booked.held
    for i in range(incoming.counts[LOADING]):
        booked = books.booked[incoming.loading[i]]
        total += (booked.prompt + block_size - 1) // block_size - booked.held
    return total


@called_by_compiled
def begin_transfer(
    incoming: Any, books: Any, seats: Any, cache: Any, keys: Any, r: int, hits: int, idle: int, limits: Any, rules: Any,
    now: float,
) -> bool:  # fmt: skip
    """Take blocks for what comes of request r beside the `hits` in the cache, `idle` of which nobody uses, and begin.

    False where there are not enough.
    """
    if incoming is None:
        return False
    booked, noted, size = books.booked[r], books.noted[r], limits.block_size
    tokens = incoming.tokens[r]
    need = (tokens + size - 1) // size - hits
    more = more_needed(seats.shares, seats.more, NOTHING, tokens, 0, size)
    required = (booked.prompt + size - 1) // size - hits if rules.reserve_prompt else need
    beside = rules.watermark_blocks if seats.counts[RUNNING] > 0 else 0
    reserved = _reserved_blocks(incoming, books, seats, size) if rules.reserves_for_prompts else 0
    if max(required, need + reserved) + more + idle + beside > cache.free[0]:
        return False
    take_seat(booked, noted, seats, cache, keys, r, hits, size)
    take_more(seats.more, cache, booked.slot, more)
    for _ in range(need):
        seats.blocks[booked.slot, booked.held] = take_free(cache)
        booked.held += 1
    incoming.begin_us[r] = now
    incoming.free_us[0] = max(now, incoming.free_us[0]) + need * incoming.block_us[r]
    incoming.end_us[r] = incoming.free_us[0] + incoming.latency_us[r]
    incoming.loading[incoming.counts[LOADING]] = r
    incoming.counts[LOADING] += 1
    return True


@called_by_compiled
def next_poll_us(incoming: Any, now: float, next_request: float) -> float:
    """When the engine looks again that has nothing to compute while KV is on its way; `poll` is to follow.

    It looks every POLL_US; what it would see nothing of is passed over.
    """
    if incoming is None:
        return now
    counts = incoming.counts
    soonest = next_request
    for i in range(counts[LOADING]):
        r = incoming.loading[i]
        soonest = min(soonest, now if incoming.seen[r] != NOTHING else incoming.end_us[r])
    times = max(1.0, np.ceil((soonest - now) / POLL_US))
    counts[FORMED] += int(times) - 1
    return now + times * POLL_US


@called_by_compiled
def idle_us(incoming: Any, present: int) -> float:
    """How long an engine with so many requests, those that just ended among them, waits that formed an empty batch
    beside the step that ended."""
    if incoming is None or present == 0:
        return 0.0
    return POLL_US


@called_by_compiled
def note_step(incoming: Any, r: int, step: int) -> None:
    """Request r computes in this step."""
    if incoming is not None:
        incoming.last_batch[r] = step


@called_by_compiled
def in_flight_still(incoming: Any, rules: Any, r: int, oldest: int) -> bool:
    """Whether the blocks of request r could not be taken now, as a step from `oldest` on may still write them."""
    if incoming is None:
        return False
    return rules.waits_for_steps and incoming.last_batch[r] >= oldest


@called_by_compiled
def is_prompt(incoming: Any, new: int, context: int, prompt: int) -> bool:
    """Whether `new` tokens after `context` are of a prompt; one token alone is to the kernels what a decode's is, but
    is counted with the prompts where those are computed here."""
    if incoming is None:
        return new > 1 or context < prompt
    return new > 1
