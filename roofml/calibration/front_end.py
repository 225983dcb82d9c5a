"""Front end: the pauses of one server, from what its requests waited beyond what the fit explains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from roofml.latency.pauses import NO_PAUSES, Pauses
from roofml.util.arrays import Floats

LEAST_SHARE = 0.015
"""Of requests, held up by pauses beyond the scatter of the others: fewer cannot be told from it, nor move the 99th
percentile."""
FEWEST = 400
"""Requests from which on the tail of their waits says something."""
BEYOND = 0.99
"""Share of the waits shorter than the median that lie within the scatter. It is taken to be as wide on both sides."""
LONGEST_US = 250_000.0
"""A wait longer than that is no pause of the front end."""


def pauses_of(late_us: Floats) -> Pauses:
    """The pauses of a server whose requests had their first token so much later than the fit says, (requests,), µs.

    A request that comes at any moment of a pause of L waits for what is left of it, between 0 and L. So the waits
    beyond the scatter s are between 0 and L - s, half of it on average, and their share is (L - s)/L of those held up.
    """
    if len(late_us) < FEWEST:
        return NO_PAUSES
    late = late_us - np.median(late_us)
    scatter = float(np.quantile(-late[late < 0], BEYOND)) if (late < 0).any() else 0.0
    beyond = late[(late > scatter) & (late < LONGEST_US)] - scatter
    share = len(beyond) / len(late) - 0.5 * (1 - BEYOND)
    if share < LEAST_SHARE:
        return NO_PAUSES
    over = 2 * float(beyond.mean())
    length = scatter + over
    return Pauses(every_us=over / share, pause_us=length)


def pauses_said(found: Mapping[str, Pauses | None]) -> dict[str, dict[str, float]] | None:
    """The pauses by run as a coefficients file has them; None without any."""
    said = {
        name: {key: float(f"{us:.6g}") for key, us in pauses._asdict().items()}
        for name, pauses in found.items()
        if pauses
    }
    return said or None
