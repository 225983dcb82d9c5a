"""Cold start: what a server that has just started pays once, in the first seconds of a run.

vLLM profiles memory and captures CUDA graphs before the first request, so most of its kernels are ready by then. Two
are not:

- the first step that mixes prefill with decode (`cold_step_us`), which no warm-up runs: the public runs show 0.1 to
  0.7 s, more with more GPUs;
- variants of the fused-MoE kernel (`cold_kernel_us`). It is written in Triton, which compiles a kernel when it is first
  called, and again for other tile sizes and for integer arguments that are multiples of 16. Tile sizes follow the
  number of tokens in a step. The two public runs of Mixtral stall six and seven times in their first ten seconds, for
  about a second each, when this rule says so, and never again.

Neither is part of a step's time: a server that has served before, `Server.fresh` false, pays nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from roofml.engine.rules import Limits
from roofml.util.arrays import Bools

TUNED_TOKENS = (256, 512, 1024, 1536, 2048, 3072, 4096)
"""Numbers of tokens for which vLLM's fused-MoE kernel has tuned tile sizes, from the largest captured CUDA graph on; a
step takes those of the nearest (vllm/model_executor/layers/fused_moe/fused_moe.py, v0.15)."""
ALIGNED = 16
"""Triton compiles a variant of a kernel for integer arguments that are multiples of this."""
EVENTS = 4 * len(TUNED_TOKENS) + 1
"""Things that happen once: a call of each variant of the kernel, and the first mixed step."""


@register_jitable
def kernel_variant(new_tokens: int, experts: int, experts_per_token: int) -> int:
    """Which variant of the fused-MoE kernel a step of M new tokens calls: a number below `EVENTS` - 1.

    Its integer arguments are rows, M·k, and padded rows, M·k + E·(tile - 1), with tiles of a multiple of 16.
    """
    tile = 0
    while tile + 1 < len(TUNED_TOKENS) and 2 * new_tokens > TUNED_TOKENS[tile] + TUNED_TOKENS[tile + 1]:
        tile += 1
    rows = new_tokens * experts_per_token
    return 4 * tile + 2 * int(rows % ALIGNED == 0) + int((rows - experts) % ALIGNED == 0)


def start_server(limits: Limits) -> Bools:
    """(EVENTS,) what has happened before the first request: graph capture, and one step of the whole budget."""
    met = np.full(EVENTS, not limits.fresh)
    for tokens in (limits.captured, limits.budget):
        met[kernel_variant(tokens, limits.experts, limits.experts_per_token)] = True
    return met


@register_jitable
def first_time(
    met: Any, prefill_tokens: int, decode_tokens: int, experts: int, experts_per_token: int, captured: int
) -> Any:
    """1 or 0 for each of: is this the first mixed step, does it call a kernel not compiled yet; both noted in `met`."""
    mixed, kernel = 0.0, 0.0
    if prefill_tokens > 0 and decode_tokens > 0 and not met[EVENTS - 1]:
        met[EVENTS - 1] = True
        mixed = 1.0
    if experts > 0 and prefill_tokens + decode_tokens > captured:
        variant = kernel_variant(prefill_tokens + decode_tokens, experts, experts_per_token)
        if not met[variant]:
            met[variant] = True
            kernel = 1.0
    return mixed, kernel
