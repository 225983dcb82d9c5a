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
    sentinel, forwards, backwards = len(cache.block) - 1, [], []
    block = int(cache.block["after"][sentinel])
    while block != sentinel:
        forwards.append(block)
        block = int(cache.block["after"][block])
    block = int(cache.block["before"][sentinel])
    while block != sentinel:
        backwards.append(block)
        block = int(cache.block["before"][block])
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
    release(cache, second, 2, False)
    release(cache, first, 3, False)
    assert free_list(cache) == [5, 4, 3, 2, 1, 0]
    assert [take_free(cache) for _ in range(3)] == [5, 4, 3]


def test_a_freed_block_is_found_until_it_is_handed_out() -> None:
    cache = empty_cache(3, 4)
    blocks = blocks_of(cache, 1)
    remember(cache, blocks[0], 2)
    release(cache, blocks, 1, False)
    assert cache.key[2]["first"] == 0
    assert [take_free(cache), take_free(cache)] == [1, 0]
    assert cache.key[2]["first"] == NOTHING
    assert cache.block[0]["key"] == NOTHING


def test_a_cached_block_leaves_the_free_list_once_and_returns_with_its_last_user() -> None:
    cache = empty_cache(4, 1)
    blocks = blocks_of(cache, 1)
    remember(cache, blocks[0], 0)
    release(cache, blocks, 1, False)
    take_cached(cache, 0)
    take_cached(cache, 0)
    assert free_list(cache) == [1, 2]
    release(cache, blocks, 1, False)
    assert free_list(cache) == [1, 2]
    release(cache, blocks, 1, False)
    assert free_list(cache) == [1, 2, 0]


def test_of_two_copies_the_first_is_found_and_the_second_when_that_is_gone() -> None:
    cache = empty_cache(4, 1)
    blocks = blocks_of(cache, 2)
    remember(cache, blocks[0], 0)
    remember(cache, blocks[1], 0)
    assert cache.key[0]["first"] == blocks[0]
    release(cache, blocks[:1], 1, False)
    assert [take_free(cache), take_free(cache)] == [2, blocks[0]]
    assert cache.key[0]["first"] == blocks[1]


def test_newer_versions_hand_out_first_what_holds_nothing() -> None:
    cache = empty_cache(6, 2)
    blocks = blocks_of(cache, 4)
    remember(cache, blocks[0], 0)
    remember(cache, blocks[1], 1)
    release(cache, blocks, 4, True)
    assert free_list(cache) == [3, 2, 4, 1, 0]


class Cache(RuleBasedStateMachine):
    """Any sequence of what the scheduler does, beside lists that say what should be."""

    @initialize(blocks=st.integers(1, 8))
    def start(self, blocks: int) -> None:
        self.cache = empty_cache(blocks + 1, 5)
        self.order = list(range(blocks))
        self.held: list[list[int]] = []
        self.keys: dict[int, list[int]] = {}  # key -> blocks, in the order in which they were filled

    @precondition(lambda self: self.order)
    @rule(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        taken = [self.order.pop(0) for _ in range(min(count, len(self.order)))]
        left = {key: [block for block in copies if block not in taken] for key, copies in self.keys.items()}
        self.keys = {key: copies for key, copies in left.items() if copies}
        assert blocks_of(self.cache, len(taken)).tolist() == taken
        self.held.append(taken)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9), key=st.integers(0, 4))
    def fill(self, which: int, key: int) -> None:
        block = self.held[which % len(self.held)][0]
        if any(block in copies for copies in self.keys.values()):
            return  # a block is filled once
        remember(self.cache, block, key)
        self.keys.setdefault(key, []).append(block)

    @precondition(lambda self: self.keys)
    @rule(which=st.integers(0, 9))
    def share(self, which: int) -> None:
        block = sorted(copies[0] for copies in self.keys.values())[which % len(self.keys)]
        take_cached(self.cache, block)
        if block in self.order:
            self.order.remove(block)
        self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9), empty_first=st.booleans())
    def end(self, which: int, empty_first: bool) -> None:
        blocks = self.held.pop(which % len(self.held))
        release(self.cache, np.array(blocks, np.int64), len(blocks), empty_first)
        freed = [block for block in reversed(blocks) if not any(block in held for held in self.held)]
        full = {block for copies in self.keys.values() for block in copies}
        first = [block for block in freed if empty_first and block not in full]
        self.order = first + self.order + [block for block in freed if block not in first]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert free_list(self.cache) == self.order
        assert self.cache.free[0] == len(self.order)
        users = [sum(block in held for held in self.held) for block in range(len(self.cache.block) - 1)]
        assert self.cache.block["users"][:-1].tolist() == users
        found = {key: block for key, block in enumerate(self.cache.key["first"]) if block != NOTHING}
        assert found == {key: copies[0] for key, copies in self.keys.items()}
        for key, copies in self.keys.items():
            block, chain = found[key], list[int]()
            while block != NOTHING:
                chain.append(int(block))
                block = self.cache.block[block]["next_copy"]
            assert chain == copies
            assert [int(self.cache.block[block]["key"]) for block in copies] == [key] * len(copies)


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
