"""How many experts a step's tokens reach."""

from __future__ import annotations

import numpy as np

from roofml.util.arrays import Floats


def experts_hit(experts: int | Floats, top_k: int | Floats, tokens: Floats) -> Floats:
    """Of E experts, k at random each, M tokens hit E·(1 - (1 - k/E)^M) on average. Shape (M,) -> (M,); several mixtures
    broadcast.

    Real routers prefer some experts, but not for every batch the same: loads of a power law of exponent 1.01, as
    NVIDIA's collector draws them, hit 0.8 (M·k = E) to 1 of it, round robin up to 1.56. What is left is the prior of
    the correction `expert_weights`.
    """
    return experts * (1 - (1 - top_k / experts) ** np.asarray(tokens, np.float64))
