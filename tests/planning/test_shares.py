"""Shares of a load that several servers share out at random: of one law with the whole only where that is Poisson's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run

from roofml.planning.candidates import Candidate, Stand
from roofml.planning.plan import plan
from roofml.planning.shares import MOST_SHARES, alike_when_shared, share_of
from roofml.traces.server import ServerOverrides
from roofml.util.arrays import Floats
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

WHAT = "input=uniform(100,300),output=20"


def gaps_of(line: str, servers: int, requests: int = 4000) -> Floats:
    return np.diff(share_of(parse_spec(line), requests, servers, 1).arrival_us)


@pytest.mark.parametrize("line", ["poisson:rate=4", "constant:rate=4", "gamma:rate=4,burstiness=0.3"])
@pytest.mark.parametrize("servers", [2, 7, 10 * MOST_SHARES])
def test_a_share_has_the_rate_and_the_more_servers_the_more_it_comes_at_random(line: str, servers: int) -> None:
    """Thinned to 1/k, gaps are sums of a geometric number of gaps: variation² = 1 + (of the whole² - 1)/k."""
    whole = {"poisson": 1.0, "constant": 0.0, "gamma": 1 / 0.3}[line.split(":")[0]]
    gaps = gaps_of(f"{line},{WHAT}", servers)
    assert np.mean(gaps) == pytest.approx(250_000, rel=0.06)
    variation = np.var(gaps) / np.mean(gaps) ** 2
    assert variation == pytest.approx(1 + (whole - 1) / min(servers, MOST_SHARES), rel=0.15)


def test_only_what_comes_at_random_is_alike_when_shared() -> None:
    alike = [f"poisson:rate=4,{WHAT}", f"closed:concurrency=4,{WHAT}", f"poisson:rate=4,{WHAT},turns=3"]
    other = [f"constant:rate=4,{WHAT}", f"gamma:rate=4,burstiness=0.3,{WHAT}"]
    assert [alike_when_shared(parse_spec(line)) for line in (*alike, *other)] == [True] * 3 + [False] * 2


def test_a_session_stays_with_its_server() -> None:
    workload = parse_spec(f"constant:rate=4,{WHAT},turns=3,think=1")
    load, whole = share_of(workload, 300, 3, 0), workload.at(12).load(900)
    follows = load.after >= 0
    assert (load.after[follows] < np.flatnonzero(follows)).all()
    assert (load.prefix_group[follows] == load.prefix_group[load.after[follows]]).all()
    of_session, of_all = (np.bincount(each.prefix_group, minlength=2000) for each in (load, whole))
    assert set(np.unique(of_session)) > {0}
    assert (of_session[of_session > 0] == of_all[of_session > 0]).all()
    assert len(load) == pytest.approx(300, rel=0.3)


def test_replicas_are_counted_by_what_each_holds_of_its_share() -> None:
    server = replace(a_run().server, fresh=False)
    stand = Stand(ServerOverrides(num_gpu_blocks=server.num_gpu_blocks, max_num_seqs=64), a_calibration())
    candidate = Candidate(server.model, "H100", 1)
    for kind, more in (("constant", False), ("gamma", True), ("poisson", None)):
        burstiness = ",burstiness=0.2" if kind == "gamma" else ""
        workload = parse_spec(f"{kind}:rate=1{burstiness},input=300,output=30")
        slos = parse_slos(["p99 ttft < 150ms"])
        option = plan(workload, slos, stand, [candidate], rate=400.0).options[0]
        assert option.capacity is not None
        assert option.replicas is not None
        assert (option.share is None) == (more is None)
        if option.share is not None:
            assert (option.share.level.value > option.capacity.level.value) == more
            assert option.to_dict()["rate_of_each"] == option.share.level.value
        assert option.replicas == np.ceil(400.0 / (option.share or option.capacity).level.value)
        assert option.headroom_pct is not None
        assert option.headroom_pct >= 0
