"""Seats: the running requests, their books and blocks, and how one is admitted, preempted, or leaves.

Functions on the arrays of the compiled loop in `scheduler`, which numba compiles into it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roofml.engine.kv_cache import NOTHING, key_of, release, remember, take_cached
from roofml.engine.more_groups import release_more
from roofml.util.arrays import Ints
from roofml.util.jit_cache import called_by_compiled

BOOKED = np.dtype(
    [
        (name, np.int64)
        for name in ("prompt", "output", "computed", "generated", "held", "remembered", "slot", "sampled")
    ]
)
"""What every step reads of a request, in one line of a CPU's cache: the tokens it is to have; tokens in the KV cache;
output tokens, those of steps in flight included; blocks; of them full and known by key; its row in `Seats.blocks`; and
twice the last step that made one of its tokens, and 1 if that computed one before it was known, as the step that made
it was in flight."""
NOTED = np.dtype([(name, np.int64) for name in ("cached_tokens", "preemptions", "step", "new", "gone")])
"""What few steps touch: what `Schedule` says of it; its last step and the tokens it computed there, where priorities
rule; and 1 once it has ended or was given up."""


class Books(NamedTuple):
    """What the loop keeps of the requests."""

    booked: NDArray[Any]
    """(requests,) of BOOKED."""
    noted: NDArray[Any]
    """(requests,) of NOTED."""


class Seats(NamedTuple):
    """The running requests and their blocks."""

    blocks: Ints
    """(seats, blocks)"""
    free: Ints
    """(seats,) rows of `blocks` that nobody has: the first `counts[FREE]`."""
    running: Ints
    """(seats,) the running requests in order of admission: the first `counts[RUNNING]`."""
    counts: Ints
    more: Ints | None
    """(seats, 1 + blocks) how many blocks of further layer groups each has, and which (`more_groups`)."""
    shares: Ints | None
    """How those go."""


RUNNING, FREE = 0, 1
"""Places in `Seats.counts`."""


def no_seats(seats: int, blocks: int, shares: Ints | None, more: int) -> Seats:
    """Seats that nobody has, of so many blocks each, and `more` of further layer groups."""
    return Seats(
        np.empty((seats, blocks), np.int64),
        np.arange(seats)[::-1].copy(),
        np.empty(seats, np.int64),
        np.array([0, seats]),
        None if shares is None else np.zeros((seats, more + 1), np.int64),
        shares,
    )


def no_books(prompt: Ints, output: Ints) -> Books:
    """Books of requests that were never scheduled."""
    booked, noted = np.zeros(len(prompt), BOOKED), np.zeros(len(prompt), NOTED)
    booked["prompt"], booked["output"] = prompt, output
    for nothing in (booked["slot"], booked["sampled"], noted["cached_tokens"], noted["step"]):
        nothing.fill(NOTHING)
    return Books(booked, noted)


@called_by_compiled
def cached_blocks(cache: Any, keys: Any, r: int, most: int) -> Any:
    """Leading blocks of request r that are in the cache, `most` at most, and how many of them nobody uses."""
    hits, idle = 0, 0
    while hits < most:
        block = cache.key[key_of(keys, r, hits)].first
        if block == NOTHING:
            break
        if cache.block[block].users == 0:
            idle += 1
        hits += 1
    return hits, idle


@called_by_compiled
def take_seat(booked: Any, noted: Any, seats: Any, cache: Any, keys: Any, r: int, hits: int, block_size: int) -> None:
    """A row of `Seats.blocks` for request r, with the `hits` blocks that it found in the cache."""
    seats.counts[FREE] -= 1
    booked.slot = seats.free[seats.counts[FREE]]
    for j in range(hits):
        block = cache.key[key_of(keys, r, j)].first
        take_cached(cache, block)
        seats.blocks[booked.slot, j] = block
    booked.held, booked.remembered, booked.computed = hits, hits, hits * block_size
    if noted.cached_tokens == NOTHING:
        noted.cached_tokens = booked.computed


@called_by_compiled
def admit(booked: Any, noted: Any, seats: Any, cache: Any, keys: Any, r: int, hits: int, block_size: int) -> None:
    """Seat request r with the `hits` blocks that it found in the cache: it runs."""
    take_seat(booked, noted, seats, cache, keys, r, hits, block_size)
    seats.running[seats.counts[RUNNING]] = r
    seats.counts[RUNNING] += 1


@called_by_compiled
def remember_blocks(booked: Any, seats: Any, cache: Any, keys: Any, r: int, tokens: int, block_size: int) -> None:
    """The first `tokens` tokens of request r are computed and known: their full blocks can be found."""
    while (booked.remembered + 1) * block_size <= tokens:
        remember(cache, seats.blocks[booked.slot, booked.remembered], key_of(keys, r, booked.remembered))
        booked.remembered += 1


@called_by_compiled
def free_seat(
    booked: Any, seats: Any, cache: Any, keys: Any, r: int, limits: Any, empty_first: bool, oldest: int
) -> None:
    """Request r lets go of its seat and blocks. Steps from `oldest` on are in flight.

    Only now are the blocks of its answer remembered: nobody but itself, computed again, could have found them. A token
    that is computed while the step that made it is in flight is not known yet, and its block not full.
    """
    if limits.prefix_caching:
        known = booked.computed
        if booked.sampled >= 2 * oldest:
            known -= booked.sampled % 2
        remember_blocks(booked, seats, cache, keys, r, known, limits.block_size)
    release_more(seats.more, cache, booked.slot)
    release(cache, seats.blocks[booked.slot], booked.held, empty_first)
    seats.free[seats.counts[FREE]] = booked.slot
    seats.counts[FREE] += 1
    booked.slot, booked.held, booked.remembered, booked.computed = NOTHING, 0, 0, 0
    booked.sampled = NOTHING


@called_by_compiled
def close_ranks(books: Any, seats: Any) -> None:
    """Drop those that have no seat any more from the list of the running."""
    kept = 0
    for i in range(seats.counts[RUNNING]):
        r = seats.running[i]
        if books.booked[r].slot != NOTHING:
            seats.running[kept] = r
            kept += 1
    seats.counts[RUNNING] = kept


@called_by_compiled
def victim_by_priority(seats: Any, priority: Any, arrival: Any) -> int:
    """Place among the running of the one to preempt: the highest number, and of these the last to arrive.

    Of several that arrived at once, the one that was admitted first.
    """
    worst = 0
    for i in range(1, seats.counts[RUNNING]):
        r, w = seats.running[i], seats.running[worst]
        if priority[r] > priority[w] or (priority[r] == priority[w] and arrival[r] > arrival[w]):
            worst = i
    return worst
