"""The KV cache as vLLM V1 keeps it: blocks with reference counts, a free list in eviction order, full-block reuse.

Compiled functions on a few integer arrays. A block that holds a full block of some prompt has a *key* (its place in
the run's list of distinct full blocks); it keeps its key while it waits in the free list, so that a later request with
the same prompt can take it back, and loses it when it is handed out for something else.
Source: vllm/v1/core/block_pool.py and kv_cache_utils.py (FreeKVCacheBlockQueue), v0.15.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from roofml.util.arrays import Ints
from roofml.util.jit_cache import compiled

NOTHING = -1


class KvCache(NamedTuple):
    """State of the cache. The free list is a ring through the sentinel, which is the last index."""

    after: Ints
    """(blocks + 1,) next block in the free list, NOTHING for a block in use."""
    before: Ints
    """(blocks + 1,) previous block in the free list."""
    users: Ints
    """(blocks,) how many running requests hold the block."""
    key: Ints
    """(blocks,) which full block of a prompt it holds, or NOTHING."""
    block_of_key: Ints
    """(keys,) where that full block is, or NOTHING."""
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


@compiled()
def empty_cache(num_gpu_blocks: int, keys: int) -> Any:
    """A cache of which nothing is used. vLLM keeps one block for itself (the null block): blocks - 1 are usable."""
    blocks = num_gpu_blocks - 1
    ring = np.arange(blocks + 1)
    return KvCache(
        (ring + 1) % (blocks + 1),
        (ring + blocks) % (blocks + 1),
        np.zeros(blocks, np.int64),
        np.full(blocks, NOTHING, np.int64),
        np.full(keys, NOTHING, np.int64),
        np.full(1, blocks, np.int64),
    )


@compiled()
def _unlink(cache: Any, block: int) -> None:
    cache.after[cache.before[block]] = cache.after[block]
    cache.before[cache.after[block]] = cache.before[block]
    cache.free[0] -= 1


@compiled()
def take_cached(cache: Any, block: int) -> None:
    """One more request uses a block that is in the cache."""
    if cache.users[block] == 0:
        _unlink(cache, block)
    cache.users[block] += 1


@compiled()
def take_free(cache: Any) -> int:
    """Hand out the block that was freed longest ago, forgetting what it held. The list must not be empty."""
    block = cache.after[len(cache.after) - 1]
    _unlink(cache, block)
    if cache.key[block] != NOTHING:
        cache.block_of_key[cache.key[block]] = NOTHING
        cache.key[block] = NOTHING
    cache.users[block] = 1
    return block


@compiled()
def remember(cache: Any, block: int, key: int) -> None:
    """The block is now full: the same tokens need not be computed again. A copy elsewhere stays the one found."""
    if cache.block_of_key[key] == NOTHING:
        cache.block_of_key[key] = block
        cache.key[block] = key


@compiled()
def release(cache: Any, blocks: Any, count: int) -> None:
    """A request lets go of its `count` blocks, tail first, so that its first blocks are evicted last."""
    sentinel = len(cache.after) - 1
    for i in range(count - 1, -1, -1):
        block = blocks[i]
        cache.users[block] -= 1
        if cache.users[block] == 0:
            last = cache.before[sentinel]
            cache.after[last] = block
            cache.before[block] = last
            cache.after[block] = sentinel
            cache.before[sentinel] = block
            cache.free[0] += 1
