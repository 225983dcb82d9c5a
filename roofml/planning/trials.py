"""Trials: one deployment serving one load at a level (a rate, or a number of clients), by the same seeds at each.

Whatever is drawn of a load is the same at every level (common random numbers), so that a figure differs between two
levels by what the level does, and by little chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay
from roofml.planning.served_load import ServedLoad, served_load
from roofml.planning.sessions import as_drawn, serve
from roofml.planning.shares import share_of
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.workloads.arrivals import Closed
from roofml.workloads.load import Load
from roofml.workloads.slo import Slo
from roofml.workloads.workload import Workload

T = TypeVar("T")
SEEDS = (0, 1)
"""Of the loads whose figures are averaged at every level."""
FEWEST, MOST = 1200, 24_000
"""Requests of one load."""
IN_FLIGHT = 8
"""Requests of a load for each that is in flight at once where the server is full: it needs that long to be steady."""
FLOOD = 600
"""Requests that are sent at once, and more for each seat, to see how fast a full server is."""
MOST_FLOOD = 12_000
FLOODED, FULL = 1.5, 0.4
"""The rate that is too much, over a first guess, and the share of the time after which the server is full."""
THINNED = 0.8
"""Share of the time after which a load of sessions runs out, if answers took longer or shorter than in its drawing."""
KEPT = 0.85
"""Of sessions: share of a rate that is answered, below which it is too much. A load's own rate differs by less."""
FIRST_GUESS = 0.5
"""The first rate of sessions that is tried, of a guess: one too many takes the longest to serve."""
APART, NEAR_FULL, FARTHEST = 1.4, 1.05, 64.0
"""Rates of sessions that are tried are so far apart, then as near as that, and no farther than that from a guess."""
DEEP, TURNS_AFTER = 8, 8
"""Requests that are under way for each seat of a server that an overload has left, and how often as many come then: in
their first turns sessions find nothing in any cache."""
QUIET = 60
"""Requests of a load that is all but alone."""
ALONE = 0.02
"""Requests in flight of such a load."""


@dataclass(frozen=True)
class Target:
    """An SLO, and whom it is for."""

    slo: Slo
    of_class: int | None = None
    """Place of its class; None: everybody."""
    class_name: str = ""

    def __str__(self) -> str:
        """For people."""
        return f"{self.class_name}: {self.slo}" if self.class_name else str(self.slo)


def targets_of(workload: Workload, slos: Sequence[Slo]) -> tuple[Target, ...]:
    """All that is to be met: what is asked of everybody, and what each class expects. Raises InputError for nothing."""
    found = [Target(slo) for slo in slos]
    for place, each in enumerate(workload.classes):
        found += [Target(slo, place, each.name) for slo in each.slos]
    if not found:
        raise InputError("no SLO: give --slo, such as 'p95 ttft < 500ms', or one for each class of the load")
    return tuple(found)


@dataclass(frozen=True)
class Trial:
    """What a load was like at one level, in the mean over seeds."""

    level: float
    excess: tuple[float, ...]
    """Of each target: logarithm of its metric over its limit; negative where it is met."""
    output_tokens_per_s: float
    tpot_us: float
    """Mean; what a user waits for a token."""
    e2e_us: float
    """Mean."""
    running: float
    """Requests in a step, on average."""
    requests_per_s: float = math.nan
    """That are answered."""
    grows: bool = False
    """More and more requests wait, by most seeds."""

    @property
    def worst(self) -> float:
        """Of the target that is nearest to its limit, or farthest beyond."""
        return max(self.excess)

    @property
    def too_many(self) -> bool:
        """Of sessions: whether they come faster than they are answered, which slows them down as well."""
        return self.grows or self.requests_per_s < KEPT * self.level


@dataclass
class Trials:
    """Trials of a deployment, each made once."""

    calibration: Calibration
    workload: Workload
    server: Server
    targets: tuple[Target, ...]
    requests: int = FEWEST
    seeds: Sequence[int] = SEEDS
    shared_by: int = 1
    """Servers that share the load out at random, of which this is one: levels are of each."""
    made: dict[float, Trial] = field(default_factory=dict[float, Trial])

    def __post_init__(self) -> None:
        """A load that is not random has one seed, and a recording is as long as it is.

        Nobody gives up: a request whose client did would not be among those that an SLO judges.
        """
        self.workload = replace(self.workload.within(self.server.max_model_len), deadline_us=math.inf)
        if self.workload.requests is not None:
            self.requests = self.workload.requests
        if not self.workload.random:
            self.seeds = self.seeds[:1]

    def serve(self, workload: Workload, requests: int, seed: int) -> ServedLoad:
        """One replay of so many requests, judged once it is steady."""
        served = as_drawn(
            workload,
            partial(self._draw, workload, requests, seed),
            lambda load: serve(self.calibration, load, self.server),
            lambda served: served.replay,
        )
        of_class = served.load.of_class
        return served_load(served.run, served.replay, all_count=False, of_class=of_class, between_s=workload.between_s)

    def _draw(self, workload: Workload, requests: int, seed: int, answer_s: float) -> Load:
        if self.shared_by > 1:
            return share_of(workload, requests, self.shared_by, seed, answer_s)
        return workload.load(requests, seed, answer_s)

    def at(self, level: float) -> Trial:
        """The trial at a level, made now or before."""
        if level not in self.made:
            workload = self.workload.at(level)
            self.made[level] = self.judge(level, self._by_seed(partial(self.serve, workload, self.requests)))
        return self.made[level]

    def _by_seed(self, of_seed: Callable[[int], T]) -> list[T]:
        """What each seed gives; compiled loops let the others run."""
        with ThreadPoolExecutor(len(self.seeds)) as threads:
            return list(threads.map(of_seed, self.seeds))

    @property
    def by_level(self) -> list[Trial]:
        """All that were made, those of the lowest level first."""
        return sorted(self.made.values(), key=lambda trial: trial.level)

    def judge(self, level: float, served: Sequence[ServedLoad]) -> Trial:
        """What these loads come to."""
        excess: list[float] = []
        for target in self.targets:
            values = [each.figure(target.slo.metric, self._whose(each, target)) for each in served]
            known = [value for value in values if value is not None and value > 0]
            excess.append(float(np.mean(np.log(known)) - np.log(target.slo.limit_us)) if known else -math.inf)
        tpot = [value for each in served if (value := each.figure("tpot_mean")) is not None]
        e2e = [value for each in served if (value := each.figure("e2e_mean")) is not None]
        rates = [each.rates() for each in served]
        return Trial(
            level,
            tuple(excess),
            float(np.mean([each["output_tokens_per_s"] for each in rates])),
            float(np.mean(tpot)) if tpot else float("nan"),
            float(np.mean(e2e)) if e2e else float("nan"),
            float(np.mean([each.replay.schedule.steps.requests.mean() for each in served])),
            float(np.mean([each["requests_per_s"] for each in rates])),
            2 * sum(each.grows for each in served) > len(served),
        )

    def _whose(self, served: ServedLoad, target: Target) -> Bools | None:
        if target.of_class is None:
            return None
        return served.of_class == target.of_class

    def alone(self) -> Trial:
        """What requests come to that have the server for themselves, all but."""
        if isinstance(self.workload.pattern, Closed):
            return self.at(1.0)
        first = self.serve(self.workload.at(1e-3), QUIET, self.seeds[0])
        e2e_s = (first.figure("e2e_mean") or 1e6) / 1e6
        rate = ALONE / e2e_s
        return self.judge(rate, [self.serve(self.workload.at(rate), QUIET, seed) for seed in self.seeds])

    def flood(self) -> float:
        """Requests a second of a server that always has some waiting: no higher rate is served for long.

        Sets the number of requests that loads then have, by how many are in flight. All at once they would stay in step
        with each other; so that only says at which rate they are to come to be too many.
        """
        count = FLOOD
        while True:
            run = replace(self.workload.load(count, self.seeds[0]).run(self.server), arrival_us=np.zeros(count))
            replayed = self.calibration.replay(run)
            most = int(replayed.schedule.steps.requests.max())
            if count >= min(MOST_FLOOD, 3 * most):
                break
            count = min(MOST_FLOOD, max(3 * most, 2 * count))
        crude = 1e6 * count / float(np.nanmax(replayed.e2e_us))
        if self.workload.requests is None:
            fewest = max(IN_FLIGHT * most, self.workload.at(crude).fewest)
            self.requests = int(np.clip(fewest, FEWEST, MOST))
        if self.workload.sessions:
            return self._most_sessions(crude)
        rates: list[float] = []
        for seed in self.seeds:
            run = self.workload.at(FLOODED * crude).load(self.requests, seed).run(self.server)
            rates.append(_answered_per_s(run, self.calibration.replay(run)))
        return float(np.mean(rates))

    def after_overload(self, level: float) -> float:
        """Requests a second that are answered of sessions at a level, if far too many are under way when it begins.

        The cache does not hold what all of them said before, so prompts are computed again, and they stay as many:
        less than the level is answered, and the server does not come out of it until fewer come.
        """
        seats = self.server.max_num_seqs
        requests = min(MOST, max(self.requests, TURNS_AFTER * DEEP * seats))

        def answered_per_s(seed: int) -> float:
            load = self._draw(self.workload.at(level), requests, seed, DEEP * seats / level)
            served = serve(self.calibration, load, self.server)
            return _answered_per_s(served.run, served.replay, THINNED)

        return float(np.mean(self._by_seed(answered_per_s)))

    def _most_sessions(self, guess: float) -> float:
        """Requests a second that are answered of sessions which come a little too fast.

        A server that is flooded has more of the first requests of sessions than it ever has in the long run: later ones
        wait for answers. So rates are tried. `guess` is of a cache in which nothing stays.
        """
        high = FIRST_GUESS * guess
        while self.at(high).too_many and high > guess / FARTHEST:
            high /= APART
        low = high
        while not self.at(high).too_many and high < guess * FARTHEST:
            low, high = high, high * APART
        if high == low:
            high = low * APART
        while high / low > NEAR_FULL:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if self.at(middle).too_many else (middle, high)
        answered = max(self.at(low).requests_per_s, self.at(high).requests_per_s)
        return min(float(np.sqrt(low * high)), answered)


def _answered_per_s(run: Run, replayed: Replay, until: float = 1.0) -> float:
    """Requests that a full server answers a second, while more of them come: until that share of the time."""
    done = np.sort((run.arrival_us + replayed.e2e_us)[replayed.completed])
    begin, end = FULL * float(run.arrival_us[-1]), until * float(run.arrival_us[-1])
    inside = np.searchsorted(done, [begin, end])
    return 1e6 * float(inside[1] - inside[0]) / (end - begin)
