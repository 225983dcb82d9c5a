"""Reach: how many cache entries a query reads in a layer that does not read its whole context.

Closed forms on plain integers: numba compiles the same functions into the replay that models are inspected with. A
position is the number of tokens before the query.
"""

from __future__ import annotations

from typing import NamedTuple


class Reach(NamedTuple):
    """What limits the entries that a query reads. All zeros with a compression of 1: nothing does."""

    window: int = 0
    """A query sees itself and the window - 1 tokens before it; 0 = all."""
    chunk: int = 0
    """A query sees the positions since the last multiple of `chunk`; 0 = all."""
    compression: int = 1
    """Tokens merged into one entry; if more than 1, the cache also keeps the last `window` tokens unmerged."""
    top_k: int = 0
    """Most entries that a query reads, chosen by an indexer (among merged entries if there are any); 0 = all."""


WHOLE = Reach()
"""The whole context."""


def keys(position: int, window: int, chunk: int, compression: int, top_k: int) -> int:
    """Cache entries that a query with `position` tokens before it reads, itself included."""
    visible = position + 1
    if chunk > 0:
        return position % chunk + 1
    if compression > 1:
        merged = visible // compression
        if top_k > 0:
            merged = min(merged, top_k)
        return min(visible, window) + merged
    if window > 0:
        visible = min(visible, window)
    if top_k > 0:
        visible = min(visible, top_k)
    return visible


def capped_sum(n: int, cap: int) -> int:
    """Σ min(s, cap) for s = 1 .. n."""
    low = min(n, cap)
    return low * (low + 1) // 2 + (n - low) * cap


def pairs_up_to(n: int, window: int, chunk: int, compression: int, top_k: int) -> int:
    """Σ keys(p) for p < n: what a prompt of n tokens reads."""
    if chunk > 0:
        chunks, remainder = n // chunk, n % chunk
        return chunks * (chunk * (chunk + 1) // 2) + remainder * (remainder + 1) // 2
    if compression > 1:
        cap = top_k if top_k > 0 else n
        uncapped = min(n, cap * compression)  # queries up to here read every merged entry
        groups, remainder = uncapped // compression, uncapped % compression
        merged = compression * (groups * (groups - 1) // 2) + groups * (remainder + 1)
        return capped_sum(n, window) + merged + (n - uncapped) * cap
    cap = n
    if window > 0:
        cap = min(cap, window)
    if top_k > 0:
        cap = min(cap, top_k)
    return capped_sum(n, cap)


def entries(context: int, new: int, window: int, chunk: int, compression: int, top_k: int) -> int:
    """Cache entries that `new` tokens after a context of `context` read at least once, their own included."""
    if chunk > 0:
        return context % chunk + new
    near = min(context, window - 1) if window > 0 else context
    if compression > 1:
        merged = (context + new) // compression
        return near + new + (min(merged, new * top_k) if top_k > 0 else merged)
    return min(near + new, new * top_k) if top_k > 0 else near + new
