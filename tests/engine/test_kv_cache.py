"""The KV cache: eviction order, reuse, and invariants that hold after any sequence of operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roofml.engine.kv_cache import NOTHING, KvCache, empty_cache, release, remember, take_cached, take_free


def free_list(cache: KvCache) -> list[int]:
    """Blocks in the order in which they would be handed out, read forwards; and the same ring read backwards."""
    sentinel, forwards, backwards = len(cache.users), [], []
    block = int(cache.after[sentinel])
    while block != sentinel:
        forwards.append(block)
        block = int(cache.after[block])
    block = int(cache.before[sentinel])
    while block != sentinel:
        backwards.append(block)
        block = int(cache.before[block])
    assert forwards == backwards[::-1]
    return forwards


def blocks_of(cache: KvCache, count: int) -> Any:
    return np.array([take_free(cache) for _ in range(count)], np.int64)


def test_one_block_is_the_engines_own() -> None:
    cache = empty_cache(5, 0)
    assert free_list(cache) == [0, 1, 2, 3]
    assert cache.free[0] == 4


def test_blocks_are_handed_out_in_the_order_they_were_freed_tail_first() -> None:
    """A request's last block is evicted before its first: others are likelier to share how it began."""
    cache = empty_cache(7, 0)
    first, second = blocks_of(cache, 3), blocks_of(cache, 2)
    release(cache, second, 2)
    release(cache, first, 3)
    assert free_list(cache) == [5, 4, 3, 2, 1, 0]
    assert [take_free(cache) for _ in range(3)] == [5, 4, 3]


def test_a_freed_block_is_found_until_it_is_handed_out() -> None:
    cache = empty_cache(3, 4)
    blocks = blocks_of(cache, 1)
    remember(cache, blocks[0], 2)
    release(cache, blocks, 1)
    assert cache.block_of_key[2] == 0
    assert [take_free(cache), take_free(cache)] == [1, 0]
    assert cache.block_of_key[2] == NOTHING
    assert cache.key[0] == NOTHING


def test_a_cached_block_leaves_the_free_list_once_and_returns_with_its_last_user() -> None:
    cache = empty_cache(4, 1)
    blocks = blocks_of(cache, 1)
    remember(cache, blocks[0], 0)
    release(cache, blocks, 1)
    take_cached(cache, 0)
    take_cached(cache, 0)
    assert free_list(cache) == [1, 2]
    release(cache, blocks, 1)
    assert free_list(cache) == [1, 2]
    release(cache, blocks, 1)
    assert free_list(cache) == [1, 2, 0]


def test_of_two_copies_the_first_is_found() -> None:
    cache = empty_cache(4, 1)
    first, second = blocks_of(cache, 2)
    remember(cache, first, 0)
    remember(cache, second, 0)
    assert cache.block_of_key[0] == first
    assert cache.key[second] == NOTHING


class Cache(RuleBasedStateMachine):
    """Any sequence of what the scheduler does, beside lists that say what should be."""

    @initialize(blocks=st.integers(1, 8))
    def start(self, blocks: int) -> None:
        self.cache = empty_cache(blocks + 1, 5)
        self.order = list(range(blocks))
        self.held: list[list[int]] = []
        self.keys: dict[int, int] = {}  # key -> block

    @precondition(lambda self: self.order)
    @rule(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        taken = [self.order.pop(0) for _ in range(min(count, len(self.order)))]
        self.keys = {key: block for key, block in self.keys.items() if block not in taken}
        assert blocks_of(self.cache, len(taken)).tolist() == taken
        self.held.append(taken)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9), key=st.integers(0, 4))
    def fill(self, which: int, key: int) -> None:
        block = self.held[which % len(self.held)][0]
        if block in self.keys.values():
            return  # a block is filled once
        remember(self.cache, block, key)
        self.keys.setdefault(key, block)

    @precondition(lambda self: self.keys)
    @rule(which=st.integers(0, 9))
    def share(self, which: int) -> None:
        block = sorted(self.keys.values())[which % len(self.keys)]
        take_cached(self.cache, block)
        if block in self.order:
            self.order.remove(block)
        self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def end(self, which: int) -> None:
        blocks = self.held.pop(which % len(self.held))
        release(self.cache, np.array(blocks, np.int64), len(blocks))
        self.order += [block for block in reversed(blocks) if not any(block in held for held in self.held)]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert free_list(self.cache) == self.order
        assert self.cache.free[0] == len(self.order)
        users = [sum(block in held for held in self.held) for block in range(len(self.cache.users))]
        assert self.cache.users.tolist() == users
        assert {key: block for key, block in enumerate(self.cache.block_of_key) if block != NOTHING} == self.keys
        assert {int(self.cache.key[block]): block for block in self.keys.values()} == self.keys


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
