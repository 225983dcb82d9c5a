"""Replicas: one load served by several servers alike, and who gets which request.

- `round robin`: each in its turn;
- `least loaded`: the one with the fewest requests under way, as far as the router knows: it sees what it sent, and what
  was answered. When that is depends on who got what, so requests are dealt out by an estimate of how long each takes,
  served, and dealt out again by how long they took, until no more than a few go elsewhere;
- `prefix aware`: where requests of its prefix group went before, unless that server has so many more under way than the
  least loaded that it is not worth it.

The servers do not know of each other, so each is replayed by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay
from roofml.planning.served_load import statistic_of, steady_window
from roofml.planning.trials import Trials
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.workloads.load import Load

Router = Literal["round robin", "least loaded", "prefix aware"]
ROUTERS: tuple[Router, ...] = get_args(Router)
MOST_REPLICAS = 1000
MOST_REQUESTS = 200_000
"""Of all replicas together, to find out how few are enough."""
ROUNDS = 4
"""Times that requests are dealt out by how long they take."""
SETTLED = 0.01
"""Share of the requests that may still go elsewhere."""
WORTH = 8
"""Requests that a server may have more under way than the least loaded, and still get those of its prefixes."""


@dataclass(frozen=True, eq=False)
class ServedByReplicas:
    """A load as several servers served it."""

    replica: Ints
    """(requests,) who got each."""
    ttft_us: Floats
    """(requests,)"""
    e2e_us: Floats
    """(requests,)"""
    replays: Sequence[Replay]
    """Of each replica, its own requests."""
    runs: Sequence[Run]

    @property
    def completed(self) -> Bools:
        """(requests,) those that got their answer."""
        return np.isfinite(self.e2e_us)


def serve_by_replicas(
    calibration: Calibration, load: Load, server: Server, replicas: int, router: Router = "least loaded"
) -> ServedByReplicas:
    """Serve an open load by so many servers. Raises InputError for a closed one, whose clients have a server each, for
    a router that is none, and as a replay does."""
    if router not in ROUTERS:
        raise InputError(f"router {router!r}: expected one of {', '.join(ROUTERS)}")
    if not 1 <= replicas <= MOST_REPLICAS:
        raise InputError(f"{replicas} replicas: expected 1 to {MOST_REPLICAS}")
    if load.clients:
        raise InputError(f"{load.name}: a closed loop has a server of its own: expected requests that come at a rate")
    run = load.run(server)
    if router == "round robin" or replicas == 1:
        turns: Ints = np.tile(np.arange(replicas), len(run) // replicas + 1)[: len(run)]
        return _serve(calibration, run, turns, replicas)
    lasts = np.full(len(run), _usual_us(calibration, run))
    to = _deal(run, lasts, replicas, router)
    served = _serve(calibration, run, to, replicas)
    for _ in range(ROUNDS):
        lasts = np.where(served.completed, served.e2e_us, np.inf)
        again = _deal(run, lasts, replicas, router)
        moved: Bools = again != to
        to, served = again, _serve(calibration, run, again, replicas)
        if moved.mean() <= SETTLED:
            break
    return served


def _usual_us(calibration: Calibration, run: Run) -> float:
    """How long a request takes that is all but alone: a first guess."""
    some = np.arange(len(run)) < 8
    alone = replace(run.take(some), arrival_us=1e9 * np.arange(int(some.sum()), dtype=np.float64), identity="")
    return float(np.nanmean(calibration.replay(alone).e2e_us))


def _deal(run: Run, lasts_us: Floats, replicas: int, router: Router) -> Ints:
    """(requests,) who gets each, if each lasts so long."""
    under_way = [0] * replicas
    ends: list[tuple[float, int]] = []
    at: dict[int, int] = {}
    to = np.zeros(len(run), np.int64)
    for request, (sent, lasts, group) in enumerate(
        zip(run.arrival_us.tolist(), lasts_us.tolist(), run.prefix_group.tolist(), strict=True)
    ):
        while ends and ends[0][0] <= sent:
            under_way[heapq.heappop(ends)[1]] -= 1
        # Of equally loaded ones the next in turn, so that a quiet load is not all the first one's.
        chosen = min(range(replicas), key=lambda each, turn=request: (under_way[each], (each - turn) % replicas))
        if router == "prefix aware" and group >= 0:
            before = at.get(group)
            if before is not None and under_way[before] <= under_way[chosen] + WORTH:
                chosen = before
            at[group] = chosen
        to[request] = chosen
        under_way[chosen] += 1
        heapq.heappush(ends, (sent + lasts, chosen))
    return to


def _serve(calibration: Calibration, run: Run, to: Ints, replicas: int) -> ServedByReplicas:
    """Each replica's requests by themselves."""
    ttft, e2e = np.full(len(run), np.nan), np.full(len(run), np.nan)
    shares = [to == each for each in range(replicas)]
    busy = [share for share in shares if share.any()]
    # Arrivals stay those of the whole load: `take` would begin each replica's time with its own first request.
    runs = [replace(run.take(share), arrival_us=run.arrival_us[share], identity="") for share in busy]
    with ThreadPoolExecutor() as threads:
        replays = list(threads.map(calibration.replay, runs))
    for share, replayed in zip(busy, replays, strict=True):
        ttft[share], e2e[share] = replayed.ttft_us, replayed.e2e_us
    return ServedByReplicas(to, ttft, e2e, replays, runs)


def fewest_replicas(trials: Trials, rate: float, most: int) -> int | None:
    """The fewest servers behind one queue (least loaded) that meet every target at a rate, if not more than `most` do.

    None where that is not known: of clients, of gaps between tokens, and of more than a replay takes.
    """
    if trials.workload.closed or any(target.slo.latency == "itl" for target in trials.targets):
        return None
    if most * trials.requests > MOST_REQUESTS:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _meets(trials, rate, middle) else (middle, high)
    return high


def _meets(trials: Trials, rate: float, replicas: int) -> bool:
    excess = np.zeros(len(trials.targets))
    for seed in trials.seeds:
        load = trials.workload.at(rate).load(trials.requests * replicas, seed)
        served = serve_by_replicas(trials.calibration, load, trials.server, replicas)
        begin, end = steady_window(load.arrival_us, served.e2e_us)
        judged = served.completed & (load.arrival_us >= begin) & (load.arrival_us <= end)
        for place, target in enumerate(trials.targets):
            whose = judged if target.of_class is None else judged & (load.of_class == target.of_class)
            value = statistic_of(_latency_us(served, load, target.slo.latency, whose), target.slo.statistic)
            excess[place] += -np.inf if value is None else np.log(value / target.slo.limit_us)
    return bool((excess < 0).all())


def _latency_us(served: ServedByReplicas, load: Load, latency: str, chosen: Bools) -> Floats:
    """TTFT, TPOT or E2E of the chosen requests."""
    if latency == "ttft":
        return served.ttft_us[chosen]
    if latency == "e2e":
        return served.e2e_us[chosen]
    several = chosen & (load.output_tokens > 1)
    return (served.e2e_us - served.ttft_us)[several] / (load.output_tokens[several] - 1)
