"""Both kinds: how few prefill and decode servers hold a rate under all SLOs, where a plan is asked for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from roofml.planning.disaggregated import Disaggregated, Side
from roofml.planning.replicas import MOST_REQUESTS
from roofml.planning.served_load import served_load
from roofml.planning.transfer import Link
from roofml.planning.trials import Trials

MOST_OF_EACH = 32
"""Servers of one kind beyond which it is not looked further."""


@dataclass(frozen=True)
class BothKinds:
    """The fewest prefill servers, and with these the fewest decode servers."""

    prefill: int
    decode: int
    link: Link

    @property
    def servers(self) -> int:
        """Of both kinds."""
        return self.prefill + self.decode


def fewest_of_both(trials: Trials, rate: float, replicas: int, link: Link) -> BothKinds | None:
    """How few meet every target at a rate that `replicas` servers hold which do both.

    None where not so many of either kind as of those, and a few more, are enough, and where it would take more requests
    to find out than are served. Raises InputError as `Disaggregated.serve` does.
    """
    most = min(2 * replicas + 2, MOST_OF_EACH)
    if most * trials.requests > MOST_REQUESTS:
        return None
    prefill = _fewest(most, lambda servers: _meets(trials, rate, servers, most, link))
    if prefill is None:
        return None
    decode = _fewest(most, lambda servers: _meets(trials, rate, prefill, servers, link))
    return None if decode is None else BothKinds(prefill, decode, link)


def _fewest(most: int, enough: Callable[[int], bool]) -> int | None:
    """By bisection: more servers are never too few."""
    if not enough(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _meets(trials: Trials, rate: float, prefill: int, decode: int, link: Link) -> bool:
    first, then = (Side(trials.calibration, trials.server, servers) for servers in (prefill, decode))
    system = Disaggregated(first, then, link)
    excess = np.zeros(len(trials.targets))
    for seed in trials.seeds:
        load = trials.workload.at(rate).load(trials.requests * max(prefill, decode), seed)
        answer = system.serve(load)
        served = served_load(answer.run, answer.replay, all_count=False, of_class=answer.of_class)
        if served.grows:
            return False
        judged = replace(trials, made={}).judge(rate, [served])
        excess += np.array(judged.excess)
    return bool((excess < 0).all())
