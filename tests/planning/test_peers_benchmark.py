"""`benchmarks/peers_asked.py`: what other planners are asked, and what is made of their answers, without them."""

from __future__ import annotations

import sys

import pytest

from benchmarks import peers_asked
from benchmarks.peers_asked import AiConfigurator, asked


class Refuses:
    package = "numpy"

    def answer(self, question: dict[str, object]) -> dict[str, object]:
        if question["model"] == "unknown":
            raise KeyError("no such model\nand a page more")
        return {"tpot_mean": 1.0}


def test_a_peer_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "planner", None)
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    for name in peers_asked.PEERS:
        assert asked(name, [{}]).keys() == {"missing"}


def test_what_a_peer_refuses_costs_the_other_questions_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers_asked.PEERS, "one", Refuses)
    found = asked("one", [{"model": "unknown"}, {"model": "known"}])
    assert found["version"].startswith("numpy ")
    assert found["answers"] == [{"refusal": "KeyError: 'no such model\\nand a page more'"}, {"tpot_mean": 1.0}]


@pytest.mark.parametrize(
    ("limit", "rate"),
    [(9.0, None), (10.0, None), (14.0, 150.0), (15.0, 162.5), (19.9, 223.75), (99.0, 225.0)],
    ids=["none meets it", "one request reaches it", "a batch does", "between two", "near the last", "all do"],
)
def test_the_largest_rate_is_where_tpot_reaches_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit: float, rate: float | None
) -> None:
    def point(batch: int) -> dict[str, float]:  # TPOT 10, 12, .. 20 ms, rates 100, 125, .. 225
        return {"tpot_mean": 8.0 + 2.0 * batch, "rate": 75.0 + 25.0 * batch}

    peer = object.__new__(AiConfigurator)
    monkeypatch.setattr(peer, "_point", lambda question, batch: point(batch))
    found = peer._largest({"tpot_limit_ms": limit, "max_num_seqs": 6})
    assert found == (None if rate is None else pytest.approx(rate))


def test_the_nearest_of_the_loads_that_were_benchmarked_stands_for_a_load() -> None:
    assert peers_asked._profile({"input_tokens": 591.6, "output_tokens": 247.0}) == (512, 256)
    assert peers_asked._profile({"input_tokens": 3000, "output_tokens": 900}) == (4096, 512)
