"""Replicas: every request is served once, one replica is the server itself, and two hold at least what one holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run

from roofml.planning.capacity import capacity
from roofml.planning.replicas import ROUTERS, fewest_replicas, serve_by_replicas
from roofml.planning.trials import Trials, targets_of
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

SERVER = replace(a_run().server, fresh=False)
CALIBRATION = a_calibration()
CALIBRATION = replace(CALIBRATION, deployment=CALIBRATION.deployment.serving(SERVER))
LOAD = parse_spec("poisson:rate=20,input=uniform(100,700),output=60,shared_prefix=64,groups=6").load(600, 1)


@pytest.mark.parametrize("router", ROUTERS)
def test_one_replica_is_the_server_itself(router: str) -> None:
    served = serve_by_replicas(CALIBRATION, LOAD, SERVER, 1, router)  # pyright: ignore[reportArgumentType]
    alone = CALIBRATION.replay(LOAD.run(SERVER))
    assert np.array_equal(served.e2e_us, alone.e2e_us)
    assert np.array_equal(served.ttft_us, alone.ttft_us)


@pytest.mark.parametrize("router", ROUTERS)
def test_every_request_is_served_once_and_sooner_than_by_one(router: str) -> None:
    served = serve_by_replicas(CALIBRATION, LOAD, SERVER, 3, router)  # pyright: ignore[reportArgumentType]
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
    with pytest.raises(InputError, match="a closed loop has a server of its own"):
        serve_by_replicas(CALIBRATION, parse_spec("closed:concurrency=2,input=9,output=9").load(9), SERVER, 2)
