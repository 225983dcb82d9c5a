"""Replicas: every request is served once, one replica is the server itself, and two hold at least what one holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run

from roofml.planning.capacity import capacity
from roofml.planning.replicas import fewest_replicas, serve_by_replicas
from roofml.planning.routing import ROUTERS, Router
from roofml.planning.sessions import serve
from roofml.planning.trials import Trials, targets_of
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

SERVER = replace(a_run().server, fresh=False)
CALIBRATION = a_calibration()
CALIBRATION = replace(CALIBRATION, deployment=CALIBRATION.deployment.serving(SERVER))
LOAD = parse_spec("poisson:rate=20,input=uniform(100,700),output=60,shared_prefix=64,groups=6").load(600, 1)


LINES = {
    "at a rate": "poisson:rate=20,input=uniform(100,700),output=60,shared_prefix=64,groups=6",
    "clients": "closed:concurrency=9,input=uniform(100,700),output=uniform(5,90)",
    "sessions": "poisson:rate=15,input=uniform(50,200),output=uniform(5,90),turns=4,think=exponential(1)",
}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_one_replica_is_the_server_itself(line: str, router: Router) -> None:
    """To the digit, whoever waits for whose answer: the compiled loop alone, and told of its requests one by one."""
    load = parse_spec(line).load(600, 1)
    served, alone = serve_by_replicas(CALIBRATION, load, SERVER, 1, router), serve(CALIBRATION, load, SERVER)
    sent = alone.replay.schedule.arrival_us
    assert np.array_equal(served.run.arrival_us, sent)
    assert np.array_equal(served.order, alone.order)
    assert np.array_equal(served.e2e_us, alone.replay.e2e_us)
    assert np.array_equal(served.ttft_us, alone.replay.ttft_us)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("line", [LINES["clients"], LINES["sessions"]], ids=["clients", "sessions"])
def test_who_waits_sends_when_the_answer_is_there_whoever_gives_it(line: str, router: Router) -> None:
    load = parse_spec(line).load(600, 1)
    served = serve_by_replicas(CALIBRATION, load, SERVER, 3, router)
    sent, answered = served.run.arrival_us, served.run.arrival_us + served.e2e_us
    assert set(np.unique(served.replica)) == {0, 1, 2}
    if load.clients:
        under_way = np.arange(1, 601) - np.searchsorted(np.sort(answered), sent, side="right")
        assert under_way.max() == load.clients
        # Each but the first of every client comes with an answer: there are as many times to send as were used.
        assert sent[load.clients :] == pytest.approx(np.sort(answered)[: 600 - load.clients], abs=1e-5)
        return
    place = np.argsort(served.order)
    for request in np.flatnonzero(load.after >= 0):
        before = place[load.after[request]]
        assert sent[place[request]] == pytest.approx(answered[before] + load.pause_us[request], abs=1e-5)


def test_the_router_counts_what_is_under_way_when_a_request_is_sent() -> None:
    """Least loaded, asked again of what was then served: nobody had fewer under way than the server that was chosen."""
    for line in LINES.values():
        load = parse_spec(line).load(400, 2)
        served = serve_by_replicas(CALIBRATION, load, SERVER, 4, "least loaded")
        sent, answered = served.run.arrival_us, served.run.arrival_us + served.e2e_us
        for request in range(400):
            earlier = np.arange(400) < request
            under_way = [
                int((earlier & (served.replica == each) & (answered > sent[request] + 1e-5)).sum()) for each in range(4)
            ]
            assert under_way[served.replica[request]] == min(under_way)


def test_a_server_has_room_for_all_if_the_router_sends_it_all() -> None:
    """Eight servers and one prefix: a prefix aware router sends a quiet load to one."""
    load = parse_spec("poisson:rate=1,input=uniform(100,300),output=20,shared_prefix=64,groups=1").load(400, 1)
    served = serve_by_replicas(CALIBRATION, load, SERVER, 8, "prefix aware")
    assert np.bincount(served.replica).max() == 400


def test_a_session_finds_its_past_where_it_was() -> None:
    load = parse_spec(LINES["sessions"]).load(600, 1)
    found = {
        router: serve_by_replicas(CALIBRATION, load, SERVER, 3, router).joined.schedule.cached_tokens.sum()
        for router in ROUTERS
    }
    assert found["prefix aware"] > 1.3 * found["round robin"]


@pytest.mark.parametrize("router", ROUTERS)
def test_every_request_is_served_once_and_sooner_than_by_one(router: Router) -> None:
    served = serve_by_replicas(CALIBRATION, LOAD, SERVER, 3, router)
    assert served.completed.all()
    assert sum(len(run) for run in served.runs) == len(LOAD)
    assert set(np.unique(served.replica)) == {0, 1, 2}
    alone = CALIBRATION.replay(LOAD.run(SERVER))
    assert served.e2e_us.mean() < alone.e2e_us.mean()


def test_round_robin_takes_turns_and_least_loaded_waits_less_than_it() -> None:
    uneven = parse_spec("poisson:rate=40,input=300,output=lognormal(60,1.2)").load(1200, 2)
    turns, least = (serve_by_replicas(CALIBRATION, uneven, SERVER, 4, router) for router in ROUTERS[:2])
    assert np.array_equal(turns.replica, np.arange(1200) % 4)
    assert np.percentile(least.e2e_us, 99) <= 1.05 * np.percentile(turns.e2e_us, 99)


def test_prefix_aware_keeps_groups_together() -> None:
    aware, least = (
        serve_by_replicas(CALIBRATION, LOAD, SERVER, 3, router) for router in ("prefix aware", "least loaded")
    )

    def homes(replica: Ints) -> float:  # replicas that a group was on, in the mean
        return float(np.mean([len(np.unique(replica[LOAD.prefix_group == group])) for group in range(6)]))

    assert homes(aware.replica) < homes(least.replica)


def test_behind_one_queue_no_more_replicas_are_needed_than_apart() -> None:
    workload = parse_spec("poisson:rate=1,input=uniform(100,700),output=60")
    trials = Trials(CALIBRATION, workload, SERVER, targets_of(workload, parse_slos(["p95 ttft < 200ms"])))
    held = capacity(trials)
    rate = 2.5 * held.level.value
    fewest = fewest_replicas(trials, rate, 3)
    assert fewest in (2, 3)
    assert fewest_replicas(trials, 1.9 * held.level.value, 2) in (1, 2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of round robin"):
        serve_by_replicas(CALIBRATION, LOAD, SERVER, 2, "random")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="0 replicas"):
        serve_by_replicas(CALIBRATION, LOAD, SERVER, 0)
