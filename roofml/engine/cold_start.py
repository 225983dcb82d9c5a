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

Which variant a step needs depends on its tokens to the last one, and a replay whose steps are a little longer or
shorter than the server's forms other batches: it knows about how many stalls there are, and not at which steps. Where
a run was measured, its first tokens say when they were (`Requests.seen_ttft_us`): then a step stalls for as long as
these came late, while a variant is left to compile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.engine.rules import Limits
from roofml.util.arrays import Bools, Floats
from roofml.util.jit_cache import called_by_compiled

TUNED_TOKENS = (256, 512, 1024, 1536, 2048, 3072, 4096)
"""Numbers of tokens for which vLLM's fused-MoE kernel has tuned tile sizes, from the largest captured CUDA graph on; a
step takes those of the nearest (vllm/model_executor/layers/fused_moe/fused_moe.py, v0.15)."""
ALIGNED = 16
"""Triton compiles a variant of a kernel for integer arguments that are multiples of this."""
ALIGNMENTS = 4
"""Variants of the kernel for one tile size, by what of its two arguments is such a multiple."""
EVENTS = ALIGNMENTS * len(TUNED_TOKENS) + 1
"""Things that happen once: a call of each variant of the kernel, and the first mixed step."""
SHORTEST_US, LONGEST_US = 200_000.0, 10_000_000.0
"""A first token that came later than its step explains by less than the first waited for its turn, whatever a kernel
takes; by more than the second, for no kernel."""


@called_by_compiled
def kernel_variant(new_tokens: int, experts: int, experts_per_token: int) -> int:
    """Which variant of the fused-MoE kernel a step of M new tokens calls: a number below `EVENTS` - 1.

    Its integer arguments are rows, M·k, and padded rows, M·k + E·(tile - 1), with tiles of a multiple of 16.
    """
    tile = 0
    while tile + 1 < len(TUNED_TOKENS) and 2 * new_tokens > TUNED_TOKENS[tile] + TUNED_TOKENS[tile + 1]:
        tile += 1
    rows = new_tokens * experts_per_token
    return ALIGNMENTS * tile + 2 * int(rows % ALIGNED == 0) + int((rows - experts) % ALIGNED == 0)


def _ready(experts: int, experts_per_token: int, captured: int, budget: int) -> set[int]:
    """Variants that are called before the first request: by graph capture, and by one step of the whole budget."""
    return {kernel_variant(tokens, experts, experts_per_token) for tokens in (captured, budget)}


def start_server(limits: Limits) -> Bools:
    """(EVENTS,) what has happened before the first request.

    Variants that no step can call count as such: nothing is left to compile of them.
    """
    met = np.full(EVENTS, not limits.fresh)
    largest = kernel_variant(limits.budget, limits.experts, limits.experts_per_token)
    called = {kernel_variant(tokens, limits.experts, limits.experts_per_token) for tokens in range(ALIGNED)}
    variants = np.arange(EVENTS - 1)
    met[:-1] |= ~np.isin(variants % ALIGNMENTS, list(called)) | (variants // ALIGNMENTS > largest // ALIGNMENTS)
    met[list(_ready(limits.experts, limits.experts_per_token, limits.captured, limits.budget))] = True
    return met


def kernels_compiled(new_tokens: Floats, experts: int, experts_per_token: int, captured: int, budget: int) -> int:
    """How many kernels a server that has just started compiles for steps of so many tokens, (steps,)."""
    sizes: list[int] = np.unique(new_tokens[new_tokens > captured]).astype(np.int64).tolist()
    called = {kernel_variant(tokens, experts, experts_per_token) for tokens in sizes}
    return len(called - _ready(experts, experts_per_token, captured, budget))


@called_by_compiled
def first_mixed(met: Any, prefill_tokens: int, decode_tokens: int) -> int:
    """1 or 0: is this the first mixed step; noted in `met`."""
    if prefill_tokens > 0 and decode_tokens > 0 and not met[EVENTS - 1]:
        met[EVENTS - 1] = True
        return 1
    return 0


@called_by_compiled
def first_call(met: Any, new_tokens: int, experts: int, experts_per_token: int, captured: int) -> int:
    """1 or 0: does a step of so many tokens call a kernel that is not compiled yet; noted in `met`."""
    if experts > 0 and new_tokens > captured:
        variant = kernel_variant(new_tokens, experts, experts_per_token)
        if not met[variant]:
            met[variant] = True
            return 1
    return 0


@called_by_compiled
def earlier(seen_ttft_us: Any, r: int, sent_us: float, first_token_us: float) -> float:
    """The earlier of a measured first token and that of request r; as it was where none was measured."""
    if seen_ttft_us is None:  # decided when it is compiled, as below
        return first_token_us
    return min(first_token_us, sent_us + seen_ttft_us[r])


@called_by_compiled
def compiling(
    seen_ttft_us: Any, met: Any, late_us: float, kernel_us: float, step_us: float, new_tokens: int, limits: Any
) -> Any:
    """1 or 0: does a step of so many tokens compile a kernel, and for how long; noted in `met`.

    Where first tokens were measured, if the step's first ones came `late_us` after its end: by more than half of what a
    kernel takes, `kernel_us`, and another step of `step_us` beside it, for which requests wait that just missed this
    one; while a variant is left. It is the step's own, or any, for the server's step was of some tokens more or less.
    """
    experts, a_token = limits.experts, limits.experts_per_token
    if seen_ttft_us is None:
        compiles = first_call(met, new_tokens, experts, a_token, limits.captured)
        return compiles, kernel_us * compiles
    if experts == 0 or not max(SHORTEST_US, 0.5 * kernel_us) + step_us < late_us < LONGEST_US:
        return 0, 0.0
    variant = kernel_variant(new_tokens, experts, a_token)
    if met[variant]:
        for other in range(EVENTS - 1):
            if not met[other]:
                variant = other
    if met[variant]:
        return 0, 0.0
    met[variant] = True
    return 1, late_us
