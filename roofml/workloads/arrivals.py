"""Arrivals: when requests come, as a pattern that is drawn for as many of them as are wanted, at any rate.

What is drawn does not depend on the rate, which only stretches it: two loads of one seed differ by their rate alone
(common random numbers), and a longer one begins as the shorter one does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.workloads.distribution import Distribution

NO_PAUSE = Distribution("constant", 0.0)


@dataclass(frozen=True)
class Stage:
    """A rate that holds for a while."""

    rate: float
    """Requests a second."""
    seconds: float


@dataclass(frozen=True)
class Open:
    """Requests that come when they come, however the server does."""

    rate: float
    """Requests a second; with stages their mean."""
    burstiness: float = 1.0
    """Shape of the gaps' gamma distribution, as in `vllm bench serve --burstiness`: 1 at random (Poisson), below it in
    bursts, above it the more even the larger; infinite: at equal times."""
    stages: tuple[Stage, ...] = ()
    """Rates one after another; none: one for ever."""

    @property
    def level(self) -> float:
        """How much load it is."""
        return self.rate

    @property
    def requests(self) -> int | None:
        """How many come in all, on average; None where there is no end."""
        return round(sum(stage.rate * stage.seconds for stage in self.stages)) if self.stages else None

    def at(self, level: float) -> Open:
        """The same pattern at another mean rate."""
        factor = level / self.rate
        stages = tuple(Stage(stage.rate * factor, stage.seconds) for stage in self.stages)
        return replace(self, rate=level, stages=stages)

    def times_us(self, random: np.random.Generator, count: int) -> Floats:
        """When the first `count` requests come, µs from the first. Shape (count,)."""
        if math.isinf(self.burstiness):
            gaps = np.ones(count)
        elif self.burstiness == 1.0:
            gaps = random.standard_exponential(count)
        else:
            gaps = random.standard_gamma(self.burstiness, count) / self.burstiness
        units = np.cumsum(gaps) - gaps[:1]  # mean gap 1
        if not self.stages:
            return units * (1e6 / self.rate)
        due = np.concatenate(([0.0], np.cumsum([stage.rate * stage.seconds for stage in self.stages])))
        begins = np.concatenate(([0.0], np.cumsum([stage.seconds for stage in self.stages])))
        within = np.interp(units, due, begins)
        late = np.maximum(units - due[-1], 0.0) / self.stages[-1].rate  # the last stage goes on until all have come
        return 1e6 * (within + late)


@dataclass(frozen=True)
class Closed:
    """Clients each of which sends its next request when its last one is answered, and a pause is over."""

    clients: int
    pause_s: Distribution = NO_PAUSE

    @property
    def level(self) -> float:
        """How much load it is."""
        return float(self.clients)

    def at(self, level: float) -> Closed:
        """As many other clients. Raises InputError for a number that is none of clients."""
        if level < 1 or level != round(level):
            raise InputError(f"concurrency {level:g}: expected a whole number of clients, at least 1")
        return replace(self, clients=round(level))

    def pauses_us(self, random: np.random.Generator, count: int) -> Floats:
        """How long each request's client waited before it, µs; the first of each client wait for nothing."""
        pauses = 1e6 * self.pause_s.draw(random, count)
        pauses[: self.clients] = 0.0
        return pauses


@dataclass(frozen=True, eq=False)
class Recorded:
    """Requests that come when they did, at another rate if that is wanted; again from the start when all have come."""

    arrival_us: Floats
    """(requests,) ascending."""
    rate: float
    """Requests a second that they are to have on average."""

    @property
    def level(self) -> float:
        """How much load it is."""
        return self.rate

    def at(self, level: float) -> Recorded:
        """The same times, stretched. Raises InputError where all come at one moment, which has no rate."""
        if not math.isfinite(own_rate(self.arrival_us)):
            raise InputError("arrivals at one moment: they cannot be stretched, expected requests at different times")
        return replace(self, rate=level)

    def times_us(self, random: np.random.Generator, count: int) -> Floats:
        """When the first `count` requests come, µs; nothing is random in it."""
        del random
        size, own = len(self.arrival_us), own_rate(self.arrival_us)
        times = self.arrival_us[:count]
        if math.isfinite(own) and self.rate != own:
            times = (times - self.arrival_us[:1]) * (own / self.rate)
        if count <= size:
            return times
        rounds, rest = divmod(np.arange(count), size)
        once = self.arrival_us - self.arrival_us[0]
        again = (once[-1] + 1e6 / own) if math.isfinite(own) else 0.0  # a mean gap between two rounds
        stretch = own / self.rate if math.isfinite(own) else 1.0
        return (rounds * again + once[rest]) * stretch


Pattern = Open | Closed | Recorded


def own_rate(arrival_us: Floats) -> float:
    """Requests a second of recorded arrivals; infinite where all come at one moment."""
    span = float(arrival_us[-1] - arrival_us[0]) if len(arrival_us) else 0.0
    return 1e6 * (len(arrival_us) - 1) / span if span > 0 else math.inf
