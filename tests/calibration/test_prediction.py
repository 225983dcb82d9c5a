"""Prediction: nothing is said without a variance, draws have their own shape, and variances add."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.calibration.prediction import HIGH, LOW, NORMAL_REACH, PARAMETERS, Prediction
from roofml.util.arrays import Floats

variances = st.floats(1e-6, 1.0)
logarithms = st.lists(st.floats(-1, 1), min_size=2, max_size=60)


def drawn(logs: list[float], value: float = 250.0) -> tuple[Prediction, Floats]:
    draws = value * np.exp(np.array(logs))
    return Prediction.of_draws(value, draws), draws


def test_without_a_variance_there_is_no_interval() -> None:
    assert Prediction(250.0).interval_90 is None
    assert Prediction(250.0).sd == 0
    assert Prediction.of_draws(250.0, []).interval_90 is None
    assert Prediction.of_draws(250.0, np.zeros(0)) == Prediction(250.0)


@given(logarithms)
def test_draws_give_their_quantiles_exactly_and_the_variance_of_their_logarithms(logs: list[float]) -> None:
    prediction, draws = drawn(logs)
    assert prediction.interval_90 == (np.quantile(draws, LOW), np.quantile(draws, HIGH))
    assert prediction.value == 250.0
    assert list(prediction.variances) == [PARAMETERS]
    assert prediction.variances[PARAMETERS] == pytest.approx(np.var(np.log(draws)))


def test_ninety_of_a_hundred_draws_lie_inside() -> None:
    prediction, draws = drawn(np.random.default_rng(1).normal(0.1, 0.3, 100).tolist())
    assert prediction.interval_90 is not None
    low, high = prediction.interval_90
    assert np.sum((draws >= low) & (draws <= high)) == 90


@given(logarithms, variances)
def test_another_variance_widens_both_sides(logs: list[float], variance: float) -> None:
    """Also where every draw lies on one side of the value: there is no side on which nothing can go wrong."""
    prediction, _ = drawn([*logs, -0.01, 0.01])
    wider = prediction.wider("servers", variance)
    assert prediction.interval_90 is not None
    assert wider.interval_90 is not None
    assert wider.interval_90[0] < min(prediction.interval_90[0], 250.0)
    assert wider.interval_90[1] > max(prediction.interval_90[1], 250.0)
    assert wider.value == prediction.value


@given(logarithms, variances)
def test_draws_keep_their_shape_under_a_variance_and_what_is_added_is_alike(logs: list[float], variance: float) -> None:
    """In squares of logarithmic distances, as independent variances add."""
    prediction, _ = drawn([*logs, -0.01, 0.01])
    added = (NORMAL_REACH**2) * variance
    before, after = prediction.interval_90, prediction.wider("servers", variance).interval_90
    assert before is not None
    assert after is not None
    for narrow, wide in zip(before, after, strict=True):
        assert np.log(wide / 250) ** 2 == pytest.approx(np.log(narrow / 250) ** 2 + added, rel=1e-9)


@given(variances, variances)
def test_variances_add(one: float, other: float) -> None:
    prediction = Prediction(250.0).wider("servers", one).wider("workloads", other)
    assert prediction.variances == {"servers": one, "workloads": other}
    assert prediction.sd == pytest.approx(np.sqrt(one + other))
    assert prediction.interval_90 == pytest.approx(Prediction(250.0).wider("all", one + other).interval_90)


def test_an_interval_of_a_normal_distribution_by_hand() -> None:
    """A relative standard deviation of a tenth: 1.645 of them to each side."""
    assert Prediction(100.0, {"servers": 0.01}).interval_90 == pytest.approx((84.833, 117.879), abs=1e-3)


def test_a_variance_of_nothing_changes_nothing() -> None:
    prediction, _ = drawn([-0.2, 0.0, 0.3])
    assert prediction.wider("servers", 0.0).interval_90 == prediction.interval_90


def test_draws_that_have_no_logarithm_are_as_uncertain_as_can_be() -> None:
    """A latency of 0 among them: their quantiles still stand."""
    prediction = Prediction.of_draws(1.0, [0.0, 1.0, 2.0])
    assert prediction.sd == float("inf")
    assert prediction.interval_90 == pytest.approx((0.1, 1.9))
