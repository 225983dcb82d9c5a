"""How measured mixtures were loaded: the experts that a distribution of NVIDIA's collector hits.

`balanced` deals tokens to experts in turn. `power_law_A` draws a weight for every expert from a power law of exponent A
between 1 and 0.8·M (between 0.01 and 2 where M·k tokens are no more than the experts), scales the weights to M·k tokens
and rounds; tokens lost in rounding go to experts that have none. Source: `collector/helper.py` of
ai-dynamo/aiconfigurator. Measured times agree: of 128 experts, 8 a token, M = 16 hits 65 by these draws, where
the time is that of 69 (H100, vLLM 0.25); of 256, M = 32 129, where it is that of 136.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from roofml.util.arrays import Floats

DRAWS = 200
"""For a mean within half a per cent; one measurement is one draw."""


@cache
def experts_hit(distribution: str, experts: int, top_k: int, tokens: int) -> float:
    """Experts that M tokens hit under a distribution, on average. Raises ValueError for an unknown one."""
    if distribution == "balanced":
        return float(min(experts, tokens * top_k))
    name, _, exponent = distribution.rpartition("_")
    if name != "power_law":
        raise ValueError(f"distribution {distribution!r}: expected balanced or power_law_<exponent>")
    return _power_law(experts, top_k, tokens, float(exponent))


def _power_law(experts: int, top_k: int, tokens: int, exponent: float) -> float:
    routed, slope = tokens * top_k, 1 - exponent
    low, high = (1.0, 0.8 * tokens) if routed > experts else (0.01, 2.0)
    share: Floats = np.random.default_rng(0).random((DRAWS, experts))
    weights: Floats = ((high**slope - low**slope) * share + low**slope) ** (1 / slope)
    loads: Floats = np.minimum(np.round(weights / (weights @ np.ones((experts, 1))) * routed), float(tokens))
    hit = (loads > 0) @ np.ones(experts)
    lost: Floats = np.maximum(routed - loads @ np.ones(experts), 0.0)
    both: Floats = np.minimum(hit + lost, float(experts))
    return float(both.mean())
