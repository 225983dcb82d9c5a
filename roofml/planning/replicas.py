"""Replicas: one load served by several servers alike behind a router.

`routing` says who gets which request, and when each was sent where that depends on answers. The servers do not know of
each other, so each is then replayed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.arguments import Waits
from roofml.engine.live import LiveServer
from roofml.engine.replay import Replay, replay
from roofml.latency.parameters import Parameters
from roofml.planning.joined import joined
from roofml.planning.routing import ROUTERS, Router, route
from roofml.planning.served_load import statistic_of, steady_window
from roofml.planning.trials import Trials
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.at_once import each
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.workloads.load import Load

MOST_REPLICAS = 1000
MOST_REQUESTS = 200_000
"""Of all replicas together, to find out how few are enough."""


@dataclass(frozen=True, eq=False)
class ServedByReplicas:
    """A load as several servers served it. Requests are in the order in which they were sent."""

    run: Run
    order: Ints
    """(requests,) which of the load each is."""
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


Live = Callable[[Run, float, bool], LiveServer]
"""A server with room for a share of a run's requests, and whether it stands still at each answer."""
Serve = Callable[[Run], Replay]


def live(calibration: Calibration) -> Live:
    """Servers of a calibration. What makes them raises as a replay does."""

    def of(run: Run, share: float, each_end: bool) -> LiveServer:
        calibration.check(run)
        tables = calibration.deployment.serving(run.server).tables
        return LiveServer.of(run, tables, calibration.parameters_for(run), share, each_end=each_end)

    return of


def serve_by_replicas(
    calibration: Calibration,
    load: Load,
    server: Server,
    replicas: int,
    router: Router = "least loaded",
    progress: Ints | None = None,
) -> ServedByReplicas:
    """Serve a load, whoever waits for whose answer, by so many servers.

    `progress`, an array of one, is kept at the number of requests that were sent. Raises InputError for a router that
    is none, and as a replay does.
    """
    check_replicas(replicas, router)
    return _serve_load(load, server, replicas, router, live(calibration), calibration.replay, progress)


def served_anew(
    served: ServedByReplicas, load: Load, server: Server, replicas: int, router: Router
) -> Callable[[Parameters, Any], Replay]:
    """How a load that was `served` so is served at other step times, as one replay of the same requests in their order.

    By the same servers, but where requests wait for answers: they are sent at other times, and routed anew.
    """
    if not load.waits_for_answers:
        return served.again

    def anew(parameters: Parameters, tables: Any) -> Replay:
        def other(run: Run, share: float, each_end: bool) -> LiveServer:
            return LiveServer.of(run, tables, parameters, share, each_end=each_end)

        again = _serve_load(load, server, replicas, router, other, lambda run: replay(run, tables, parameters))
        return again.joined.taken(np.argsort(again.order)[served.order])

    return anew


def _serve_load(
    load: Load,
    server: Server,
    replicas: int,
    router: Router,
    made: Live,
    serve: Serve,
    progress: Ints | None = None,
) -> ServedByReplicas:
    run = load.run(server)
    if not load.waits_for_answers:
        return serve_run(run, replicas, router, made, serve, progress)
    alone = replace(run, clients=0, pause_us=np.zeros(0))
    waits = Waits(load.after, load.pause_us) if len(load.after) else None
    routed = route(run, replicas, router, partial(made, alone), waits, progress)
    sent, order = load.sent(routed.sent_us)
    run = sent.run(server)
    served = served_as(replace(run, clients=0), routed.replica[order], serve)
    return replace(served, run=run, order=order)


def serve_run(
    run: Run, replicas: int, router: Router, made: Live, serve: Serve, progress: Ints | None = None
) -> ServedByReplicas:
    """Serve requests that come when they come by so many servers."""
    if router == "round robin" or replicas == 1:
        return served_as(run, np.arange(len(run)) % replicas, serve)
    return served_as(run, route(run, replicas, router, partial(made, run), progress=progress).replica, serve)


def served_as(run: Run, to: Ints, serve: Serve) -> ServedByReplicas:
    """Each server's requests by themselves, where `to` says who gets each."""
    places = [np.flatnonzero(to == each) for each in np.unique(to)]
    # Arrivals stay those of the whole load: `take` would begin each replica's time with its own first request.
    shares = [run.take(np.isin(np.arange(len(run)), place)) for place in places]
    runs = [
        share if share is run else replace(share, arrival_us=run.arrival_us[place], identity="")
        for share, place in zip(shares, places, strict=True)
    ]
    return ServedByReplicas(run, np.arange(len(run)), to, places, runs, each(serve, runs))


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
