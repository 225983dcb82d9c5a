"""Knowledge: a stretch is learned from other models alone, and what a fit has not seen widens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.calibration import knowledge
from roofml.calibration.knowledge import JUDGED, MODELS, beside, family_of, pace_sources, stretch
from roofml.calibration.scatter import OWN_SD, scatter
from roofml.calibration.seen_range import excesses
from roofml.latency.batch import Batch

VALID = {"batch": (1, 32), "context": (1, 1000), "new_tokens": (1, 512)}
METRICS = ("e2e_mean", "tpot_mean", "ttft_mean", "e2e_p99", "tpot_p99", "ttft_p99")


def test_a_models_own_runs_do_not_say_how_wide_its_intervals_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {(name, metric): stretch("model", metric, name) for name in MODELS for metric in METRICS}
    for place, name in enumerate(MODELS):
        changed = {
            key: tuple(1000.0 if i == place else square for i, square in enumerate(squares))
            for key, squares in knowledge.SQUARES.items()
        }
        with monkeypatch.context() as patched:
            patched.setattr(knowledge, "SQUARES", changed)
            for metric in METRICS:
                assert stretch("model", metric, name) == before[name, metric]
                assert stretch("model", metric, name.upper()) == before[name, metric]
                assert stretch("model", metric, "another") > 3


def test_a_stretch_without_evidence_is_one_and_with_it_the_errors_root_mean_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = np.array(JUDGED["server"], np.float64)
    for square in (0.25, 1.0, 9.0):
        monkeypatch.setattr(knowledge, "SQUARES", dict.fromkeys(knowledge.SQUARES, tuple(square * runs)))
        found = stretch("server", "ttft_p99", "another")
        assert min(1.0, square**0.5) <= found <= max(1.0, square**0.5)
    monkeypatch.setattr(knowledge, "IMAGINED", 0.0)
    assert stretch("server", "ttft_p99", "another") == pytest.approx(3.0)


@given(st.integers(1, 200), st.integers(1, 4000))
def test_steps_leave_a_range_by_how_many_times_as_much_they_are(count: int, context: int) -> None:
    steps = Batch(decode=[(context, count)]).sums()
    expected = max(0.0, np.log(count / 32), np.log(context / 1000))
    assert excesses(steps, VALID) == pytest.approx([expected])
    sources = pace_sources("server", False, steps, VALID)
    assert ("range" in sources) == (expected > 0)
    assert (
        set(sources)
        <= set(pace_sources("model", False, steps, VALID))
        <= set(pace_sources("model", True, steps, VALID))
    )


def test_a_step_that_decodes_nothing_has_no_context_to_leave() -> None:
    assert excesses(Batch(prefill=[(100, 5000)]).sums(), VALID) == pytest.approx([0.0])


def test_tails_and_first_tokens_have_sources_of_their_own() -> None:
    assert [
        family_of(metric) for metric in ("e2e_mean", "tpot_p50", "ttft_mean", "itl_p99", "ttft_p95", "good_pct")
    ] == [
        "decode",
        "decode",
        "ttft",
        "decode tail",
        "ttft tail",
        "decode",
    ]
    assert beside("e2e_mean") == {}
    assert set(beside("ttft_p99")) == {"first token", "tail"}


@pytest.mark.parametrize("kind", OWN_SD)
def test_more_requests_scatter_less(kind: str) -> None:
    times = np.exp(np.random.default_rng(0).normal(0, 0.3, 4000))
    for statistic in ("mean", "p50", "p99"):
        few, many = scatter(f"{kind}_{statistic}", times[:100]), scatter(f"{kind}_{statistic}", times)
        assert 0 < many < few
    assert scatter(f"{kind}_mean", times[:100]) == pytest.approx(OWN_SD[kind] ** 2 / 100)
    assert scatter(f"{kind}_p99", times[:0]) == 0


def test_a_percentile_of_requests_that_are_alike_scatters_as_order_statistics_do() -> None:
    """The 99th percentile of 1,000 log-normal latencies, made again and again."""
    random = np.random.default_rng(3)
    quantiles = [np.quantile(np.exp(random.normal(0, 0.5, 1000)), 0.99) for _ in range(400)]
    expected = float(np.var(np.log(quantiles)))
    found = np.mean([scatter("ttft_p99", np.exp(random.normal(0, 0.5, 1000))) for _ in range(50)])
    assert found == pytest.approx(expected, rel=0.5)
