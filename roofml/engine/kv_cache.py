"""The KV cache as vLLM V1 keeps it: blocks with reference counts, a free list in eviction order, full-block reuse.

Compiled functions on a few integer arrays. A block that holds a full block of some prompt has a *key* (its place in
the run's list of distinct full blocks); it keeps its key while it waits in the free list, so that a later request with
the same prompt can take it back, and loses it when it is handed out for something else. Several blocks may hold the
same: vLLM does not look for a copy when a block becomes full, and the one that was filled first is found.
Source: vllm/v1/core/block_pool.py and kv_cache_utils.py (FreeKVCacheBlockQueue), v0.15 to v0.33.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roofml.util.arrays import Ints
from roofml.util.jit_cache import compiled

NOTHING = -1


BLOCK = np.dtype([(name, np.int64) for name in ("after", "before", "users", "key", "next_copy", "previous_copy")])
"""What is kept of a block: the next one in the free list and the one before, NOTHING for a block in use; how many
running requests hold it; which full block of a prompt it holds, or NOTHING; the block that was filled with the same
after it, or NOTHING, and the one before it."""
KEY = np.dtype([(name, np.int64) for name in ("first", "last")])
"""What is kept of a full block of a prompt: the block that has held it longest, or NOTHING, and the one that was filled
with it last, of which nothing is said where no block holds it."""


class KvCache(NamedTuple):
    """State of the cache. The free list is a ring through the sentinel, which is the last block."""

    block: NDArray[Any]
    """(blocks + 1,) of BLOCK."""
    key: NDArray[Any]
    """(keys,) of KEY."""
    free: Ints
    """(1,) blocks in the free list."""


class BlockKeys(NamedTuple):
    """Numbers for the full blocks that could ever be found in the cache, so that equal tokens have equal keys."""

    shared_blocks: Ints
    """(requests,) full blocks at the start of a prompt that it shares with its prefix group."""
    shared_key: Ints
    """(requests,) key of the first of them."""
    own_key: Ints
    """(requests,) key of the first block after them, nobody else's."""
    total: int
    """How many keys there are."""

    @property
    def own_blocks(self) -> Ints:
        """(requests,) full blocks of each that are nobody else's, as `block_keys` numbers them."""
        return np.diff(self.own_key, append=self.total)


def block_keys(prefix_group: Ints, shared_blocks: Ints, full_blocks: Ints) -> BlockKeys:
    """Number the `full_blocks` of each request, the first `shared_blocks` of them as those of its group.

    Arrays of shape (requests,); requests of group -1 must have no shared blocks.
    """
    groups, group = np.unique(prefix_group, return_inverse=True)
    most = np.zeros(len(groups), np.int64)
    np.maximum.at(most, group, shared_blocks)
    group_key = np.concatenate(([0], np.cumsum(most)))
    own_key = group_key[-1] + np.concatenate(([0], np.cumsum(full_blocks - shared_blocks)))
    return BlockKeys(shared_blocks, group_key[:-1][group], own_key[:-1], int(own_key[-1]))


@compiled()
def key_of(keys: Any, r: int, index: int) -> int:
    """Key of the `index`-th full block of request r: shared within its prefix group, its own after the prefix."""
    if index < keys.shared_blocks[r]:
        return keys.shared_key[r] + index
    return keys.own_key[r] + index - keys.shared_blocks[r]


def empty_cache(num_gpu_blocks: int, keys: int) -> KvCache:
    """A cache of which nothing is used. vLLM keeps one block for itself (the null block): blocks - 1 are usable."""
    block, key = np.zeros(num_gpu_blocks, BLOCK), np.zeros(keys, KEY)
    block["after"] = np.arange(1, num_gpu_blocks + 1)
    block["before"] = np.arange(-1, num_gpu_blocks - 1)
    block["after"][-1], block["before"][0] = 0, num_gpu_blocks - 1
    for nothing in (block["key"], block["next_copy"], block["previous_copy"], key["first"]):
        nothing.fill(NOTHING)
    return KvCache(block, key, np.full(1, num_gpu_blocks - 1, np.int64))


@compiled()
def _unlink(cache: Any, block: int) -> None:
    one = cache.block[block]
    cache.block[one.before].after = one.after
    cache.block[one.after].before = one.before
    cache.free[0] -= 1


@compiled()
def take_cached(cache: Any, block: int) -> None:
    """One more request uses a block that is in the cache."""
    if cache.block[block].users == 0:
        _unlink(cache, block)
    cache.block[block].users += 1


@compiled()
def take_free(cache: Any) -> int:
    """Hand out the block at the head of the free list, forgetting what it held. The list must not be empty."""
    block = cache.block[len(cache.block) - 1].after
    _unlink(cache, block)
    if cache.block[block].key != NOTHING:
        _forget(cache, block)
    cache.block[block].users = 1
    return block


@compiled()
def _forget(cache: Any, block: int) -> None:
    """The block holds nothing any more; its next copy is found from now on, if there is one."""
    one = cache.block[block]
    key = cache.key[one.key]
    if one.previous_copy == NOTHING:
        key.first = one.next_copy
    else:
        cache.block[one.previous_copy].next_copy = one.next_copy
    if one.next_copy == NOTHING:
        key.last = one.previous_copy
    else:
        cache.block[one.next_copy].previous_copy = one.previous_copy
    one.key = NOTHING
    one.previous_copy = NOTHING
    one.next_copy = NOTHING


@compiled()
def remember(cache: Any, block: int, key: int) -> None:
    """The block is now full: the same tokens need not be computed again."""
    held = cache.key[key]
    if held.first == NOTHING:
        held.first = block
    else:
        cache.block[held.last].next_copy = block
        cache.block[block].previous_copy = held.last
    held.last = block
    cache.block[block].key = key


@compiled()
def release(cache: Any, blocks: Any, count: int, empty_first: bool) -> None:
    """A request lets go of its `count` blocks, tail first, so that its first blocks are evicted last.

    With `empty_first`, blocks that hold nothing to be found go to the head of the free list, in the same order.
    """
    sentinel = len(cache.block) - 1
    head = sentinel
    for i in range(count - 1, -1, -1):
        block = blocks[i]
        one = cache.block[block]
        one.users -= 1
        if one.users == 0:
            if empty_first and one.key == NOTHING:
                last, head = head, block
            else:
                last = cache.block[sentinel].before
            following = cache.block[last].after
            cache.block[last].after = block
            one.before = last
            one.after = following
            cache.block[following].before = block
            cache.free[0] += 1
