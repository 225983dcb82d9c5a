"""Pauses: the front end of a server stops for some tens of milliseconds now and then, and who comes then waits.

In public runs 1 to 6 % of requests of some servers waited 10 to 60 ms longer than queue and steps explain, those that
came together equally long, while requests that were being answered went on: the engine did not stop. Other servers of
the same model show none. Two of Python's own habits do so, its garbage collector and long calls in the event loop.

When a pause begins nobody can know. A replay has one every so often, which holds up as many requests, as long.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from roofml.util.jit_cache import called_by_compiled


class Pauses(NamedTuple):
    """The pauses of one server."""

    every_us: float
    """From the beginning of one to that of the next; 0: there are none."""
    pause_us: float
    """How long each is."""

    @property
    def mean_us(self) -> float:
        """How much later a request enters the queue, on average."""
        return 0.5 * self.pause_us**2 / self.every_us if self.every_us > 0 else 0.0


NO_PAUSES = Pauses(0.0, 0.0)


@called_by_compiled
def held_us(arrival_us: float, pauses: Any) -> float:
    """How much of a pause is left when a request arrives, µs."""
    if pauses.every_us <= 0.0:
        return 0.0
    return max(0.0, pauses.pause_us - arrival_us % pauses.every_us)
