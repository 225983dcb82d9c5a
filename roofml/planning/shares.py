"""Shares: what one of several servers gets of a load that is shared out at random.

Of requests that come at random (Poisson) each gets such requests again, at its part of the rate. Not so of others: what
comes in bursts comes more evenly to each of many, and what comes evenly, or as it was recorded, less. So a share is
taken of a load that is as many times as large.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roofml.util.arrays import Bools
from roofml.workloads.arrivals import Open
from roofml.workloads.load import Load
from roofml.workloads.workload import Workload

MOST_SHARES = 64
"""A share of more is taken as one of so many: it comes at random, whatever the whole does."""


def alike_when_shared(workload: Workload) -> bool:
    """Whether a server's share of the load is the same load at a lower rate: of a Poisson process, or of clients."""
    return workload.closed or (isinstance(workload.pattern, Open) and workload.pattern.burstiness == 1.0)


def share_of(workload: Workload, requests: int, servers: int, seed: int, answer_s: float = 0.0) -> Load:
    """About so many requests of one of `servers` that share out a load at random, at the workload's rate for each.

    A session stays with its server. `answer_s`: as of `Workload.load`.
    """
    servers = min(servers, MOST_SHARES)
    whole = workload.at(workload.level * servers).load(requests * servers, seed, answer_s)
    drawn = np.random.default_rng([seed, servers]).integers(servers, size=len(whole)) == 0
    if len(whole.after):
        for request, before in enumerate(whole.after.tolist()):  # which stands before it
            if before >= 0:
                drawn[request] = drawn[before]
    if not drawn.any():
        drawn[0] = True
    return _taken(whole, drawn)


def _taken(load: Load, chosen: Bools) -> Load:
    columns = ("arrival_us", "prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens", "pause_us", "of_class")
    columns += ("priority",)
    taken = {name: getattr(load, name)[chosen] for name in columns if len(getattr(load, name))}
    after = load.after
    if len(after):
        place = np.cumsum(chosen) - 1
        after = np.where(after >= 0, place[after], -1)[chosen]
    return replace(load, after=after, **taken)
