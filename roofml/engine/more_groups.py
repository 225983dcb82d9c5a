"""Blocks of further layer groups: what a request of a model with windows, chunks or states holds beside its first.

vLLM keeps a block table for each group of layers, all of one pool. The first group, of layers that keep every token, is
replayed block by block (`kv_cache`). Of the others only the number of blocks is: those that a window still reaches,
or one of a state. They hold nothing to be found. Functions that numba compiles into `scheduler`; for a model of one
group `shares` is None and they cost nothing. Source: vllm/v1/core/single_type_kv_cache_manager.py, v0.15.
"""

from __future__ import annotations

from typing import Any

from roofml.engine.kv_cache import release, take_free
from roofml.util.arrays import Ints
from roofml.util.jit_cache import called_by_compiled

GROUPS, REACH, RATIO = 0, 1, 2
"""Columns of `shares`, a row for each kind: blocks that a block's worth of it takes of the pool; tokens that its window
or chunk reaches, 0 for all and -1 for a state; tokens of its block over those of the first group's."""
STATE = -1


@called_by_compiled
def more_blocks(shares: Any, context: int, new: int, block_size: int) -> int:
    """Blocks of all further groups that a request holds while it computes `new` tokens after `context`."""
    if shares is None:  # decided when it is compiled, as in the functions below
        return 0
    total = 0
    for kind in range(len(shares)):
        reach = shares[kind, REACH]
        if reach == STATE:
            total += shares[kind, GROUPS]
            continue
        size = block_size * shares[kind, RATIO]
        held = (context + new + size - 1) // size
        if reach > 0:
            held -= max(0, context - reach + 1) // size
        total += shares[kind, GROUPS] * held
    return total


def most_more_blocks(shares: Ints | None, tokens: int, budget: int, block_size: int) -> int:
    """The most of them that a request of so many tokens ever holds."""
    most = 0
    for groups, reach, ratio in () if shares is None else shares.tolist():
        size = block_size * ratio
        held = 1
        if reach != STATE:
            held = (tokens + size - 1) // size
        if reach > 0:  # wherever in their blocks the window and a step's tokens begin and end
            held = min(held, (min(budget, tokens) + reach - 1 + size - 1) // size + 1)
        most += groups * held
    return most


@called_by_compiled
def more_needed(shares: Any, more: Any, slot: int, context: int, new: int, block_size: int) -> int:
    """How many blocks the request in a seat needs besides those it holds; fewer than none if it lets some go."""
    if shares is None:
        return 0
    held = more[slot, 0] if slot >= 0 else 0
    return more_blocks(shares, context, new, block_size) - held


@called_by_compiled
def take_more(more: Any, cache: Any, slot: int, change: int) -> None:
    """Take so many blocks, or let them go where there are fewer than none."""
    if more is None:
        return
    if change < 0:
        held = more[slot, 0] + change
        release(cache, more[slot, 1 + held :], -change, False)
        more[slot, 0] = held
    for _ in range(change):
        more[slot, 0] += 1
        more[slot, more[slot, 0]] = take_free(cache)


@called_by_compiled
def release_more(more: Any, cache: Any, slot: int) -> None:
    """Let all of them go."""
    if more is not None:
        take_more(more, cache, slot, -more[slot, 0])
