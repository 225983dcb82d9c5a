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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay, replay
from roofml.latency.parameters import Parameters
from roofml.planning.joined import joined
from roofml.planning.served_load import statistic_of, steady_window
from roofml.planning.trials import Trials
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.at_once import each
from roofml.util.errors import InputError
from roofml.util.names import shown
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
    places: Sequence[Ints]
    """Of each replica that got any, which requests."""
    runs: Sequence[Run]
    """Of each, its own requests."""
    replays: Sequence[Replay]

    @cached_property
    def joined(self) -> Replay:
        """As one replay of the load."""
        return joined(self.places, self.replays, len(self.replica))

    def again(self, parameters: Parameters, tables: Any) -> Replay:
        """The same requests to the same servers, at other step times. As one replay."""
        return joined(self.places, [replay(run, tables, parameters) for run in self.runs], len(self.replica))

    @property
    def ttft_us(self) -> Floats:
        """(requests,)"""
        return self.joined.ttft_us

    @property
    def e2e_us(self) -> Floats:
        """(requests,)"""
        return self.joined.e2e_us

    @property
    def completed(self) -> Bools:
        """(requests,) those that got their answer."""
        return self.joined.completed


def check_replicas(replicas: int, router: str, what: str = "replicas") -> None:
    """Raise InputError for a number of servers, or a router, that is none."""
    if router not in ROUTERS:
        raise InputError(f"router {shown(router)}: expected one of {', '.join(ROUTERS)}")
    if not 1 <= replicas <= MOST_REPLICAS:
        raise InputError(f"{replicas} {what}: expected 1 to {MOST_REPLICAS}")


def check_shared_out(load: Load) -> None:
    """Raise InputError for a load that no router shares out here: clients, and sessions, wait for their answers."""
    if load.clients:
        raise InputError(f"{load.name}: a closed loop has a server of its own: expected requests that come at a rate")
    if len(load.after):
        raise InputError(
            f"{load.name}: sessions whose requests follow each other's answers: not routed here, expected one server, "
            "or requests that come at a rate"
        )


def serve_by_replicas(
    calibration: Calibration, load: Load, server: Server, replicas: int, router: Router = "least loaded"
) -> ServedByReplicas:
    """Serve an open load by so many servers. Raises InputError for a closed one, whose clients have a server each, for
    sessions, for a router that is none, and as a replay does."""
    check_replicas(replicas, router)
    check_shared_out(load)
    return serve_run(calibration, load.run(server), replicas, router)


def serve_run(calibration: Calibration, run: Run, replicas: int, router: Router) -> ServedByReplicas:
    """Serve requests that come when they come by so many servers."""
    if router == "round robin" or replicas == 1:
        return served_as(run, np.arange(len(run)) % replicas, calibration.replay)
    to = _deal(run, np.full(len(run), _usual_us(calibration, run)), replicas, router)
    served = served_as(run, to, calibration.replay)
    for _ in range(ROUNDS):
        lasts = np.where(served.completed, served.e2e_us, np.inf)
        again = _deal(run, lasts, replicas, router)
        moved: Bools = again != to
        to, served = again, served_as(run, again, calibration.replay)
        if moved.mean() <= SETTLED:
            break
    return served


def served_as(run: Run, to: Ints, serve: Callable[[Run], Replay]) -> ServedByReplicas:
    """Each server's requests by themselves, where `to` says who gets each."""
    places = [np.flatnonzero(to == each) for each in np.unique(to)]
    # Arrivals stay those of the whole load: `take` would begin each replica's time with its own first request.
    shares = [run.take(np.isin(np.arange(len(run)), place)) for place in places]
    runs = [
        share if share is run else replace(share, arrival_us=run.arrival_us[place], identity="")
        for share, place in zip(shares, places, strict=True)
    ]
    return ServedByReplicas(to, places, runs, each(serve, runs))


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
