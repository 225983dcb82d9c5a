"""Plans: the cheapest that holds the load first, with replicas, cost and the reason of what holds nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from roofml.planning.ask import ask, prices_of
from roofml.planning.plan import Plan
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.workloads.read import read_workload
from roofml.workloads.slo import parse_slos

LOAD = "poisson:rate=1,input=300,output=60"
SLOS = ("p95 ttft < 500ms", "mean tpot < 40ms")
MODEL = "llama-2-7b-hf"


def planned(load: str = LOAD, slos: tuple[str, ...] = SLOS, rate: float | None = None, **asked: Any) -> Plan:
    prices = asked.pop("prices", {})
    said: dict[str, Any] = {"model": MODEL, "overrides": ServerOverrides()} | asked
    return ask(read_workload(load), **said).plan(parse_slos(slos), rate, prices)


@pytest.fixture(scope="module")
def both() -> Plan:
    return planned(gpus="H100,L40S", tps="1", rate=60.0, prices={"H100": 2.5, "L40S": 0.9})


def test_the_cheapest_comes_first_and_replicas_hold_the_rate(both: Plan) -> None:
    costs = [option.cost_per_hour or math.inf for option in both.options]
    assert costs == sorted(costs)
    for option in both.options:
        assert option.capacity is not None
        assert option.replicas is not None
        assert option.headroom_pct is not None
        assert option.replicas * option.capacity.level.value >= 60
        assert (option.replicas - 1) * option.capacity.level.value < 60
        assert option.headroom_pct >= 0
        few_many = option.replicas_90
        assert few_many is not None
        assert few_many[0] <= option.replicas <= few_many[1]
    assert {option.candidate.gpu for option in both.options} == {"H100", "L40S"}


def test_the_document_is_that_of_the_contract(both: Plan) -> None:
    document = both.to_dict()
    for candidate in document["candidates"]:
        assert {"gpu", "tp", "precision", "max_rate", "binding_slo", "replicas", "cost_per_hour"} <= set(candidate)
        low, high = candidate["max_rate"]["interval_90"]
        assert low < candidate["max_rate"]["value"] < high
        assert candidate["binding_slo"] in SLOS
    assert "1 x H100" in repr(both)


def test_what_does_not_fit_is_listed_with_its_reason() -> None:
    found = planned(model="llama-2-70b-hf", gpus="H100", tps="1,4", slos=("mean tpot < 100ms",))
    assert [option.candidate.tp for option in found.options] == [4, 1]
    assert "does not fit on H100" in (found.options[1].refusal or "")
    assert [each["tp"] for each in found.to_dict()["refused"]] == [1]


def test_what_no_candidate_holds_is_refused_by_the_slo() -> None:
    with pytest.raises(InputError, match="mean tpot < 1ms: no load meets it"):
        planned(gpus="H100", slos=("mean tpot < 1ms",))


def test_limits_of_the_server_are_candidates() -> None:
    found = planned(gpus="H100", max_num_seqs="8,64", max_num_batched_tokens="2048")
    assert {(o.server.max_num_seqs, o.server.max_num_batched_tokens) for o in found.options if o.server} == {
        (8, 2048),
        (64, 2048),
    }
    by_seats = {o.server.max_num_seqs: o.capacity.level.value for o in found.options if o.server and o.capacity}
    assert by_seats[8] < by_seats[64]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "--gpu missing: give MODEL --gpu G --tp N"),
        ({"gpus": "H100,"}, "--gpu 'H100,': expected names with commas between them"),
        ({"gpus": "H1000"}, "gpu 'H1000': not in hardware/"),
        ({"gpus": "H100", "tps": "0"}, "--tp '0': expected whole numbers from 1"),
        ({"gpus": "H100", "tps": "1,x"}, "--tp 'x': expected whole numbers from 1"),
        ({"gpus": "H100", "max_num_seqs": "1e9"}, "--max-num-seqs '1e9'"),
        ({"gpus": "H100", "max_num_batched_tokens": "-1"}, "--max-num-batched-tokens '-1'"),
        ({"gpus": "H100", "precisions": "fp7"}, "fp7"),
        ({"gpus": "H100", "rate": 0.0}, "--rate 0: expected requests/s above 0"),
        ({"gpus": "H100", "slos": ()}, "no SLO: give --slo"),
        ({"gpus": "H100", "tps": ",".join(map(str, range(1, 1002)))}, "candidates: expected 1 to 1000"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        planned(**asked)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["H100", "H100=", "H100=free", "H100=0", "H100=-2", "H1000=2", "H100=1e9"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        prices_of([text])


def test_prices_are_of_gpus_however_they_are_called() -> None:
    assert prices_of(["h100-sxm-80gb=2.5", "L40S=1"]) == {"H100": 2.5, "L40S": 1.0}
