"""Lengths of requests, in tokens: as drawn by the benchmark clients people use."""

from __future__ import annotations

import numpy as np

from roofml.util.arrays import Floats, Ints


def constant(tokens: int, requests: int) -> Ints:
    """Every request the same; shape (requests,)."""
    return np.full(requests, tokens, np.int64)


def uniform(low: float, high: float, requests: int, seed: int) -> Ints:
    """Whole numbers between `low` and `high`, both included, each as likely; shape (requests,), at least 1.

    They are one draw from each of as many equal parts of the range, in random order: the mean of a load of few requests
    is then that of the range, as that of the load it stands for is on average.
    """
    random = np.random.default_rng(seed)
    places = (np.arange(requests) + random.random(requests)) / max(requests, 1)
    drawn: Floats = np.floor(low + places * (high - low + 1))
    return np.maximum(1, np.minimum(random.permutation(drawn), np.floor(high))).astype(np.int64)
