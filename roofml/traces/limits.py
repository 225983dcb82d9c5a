"""Limits: the most that a trace, a file beside it or a flag may say.

They lie far beyond every server there is. What lies beyond them is a slip of a digit or another unit, and would take
the machine's memory: a replay keeps an array as long as the KV pool, and one as long as the token budget.
"""

from __future__ import annotations

MOST_TOKENS = 100_000_000
"""Of one request."""

MOST_REQUESTS = 5_000_000
"""Of one trace, and most steps of one table."""

MOST_PROMPTS = 10_000_000
"""Different prompts of one trace."""

MOST_TIME_US = 2**53
"""Latest time, µs since 1970: every whole number up to it is a float too."""

MOST_RTT_MS = 60_000
"""Longest round trip of a network."""

MOST_OF_SERVER = {
    "tensor_parallel": 1024,
    "max_num_seqs": 100_000,
    "max_num_batched_tokens": 1_048_576,
    "block_size": 1_000_000,
    "num_gpu_blocks": 20_000_000,
    "max_model_len": MOST_TOKENS,
    "output_tokens": MOST_TOKENS,
}
"""Field of `Server` or `ServerOverrides` -> the largest value."""
