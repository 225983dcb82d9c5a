"""Prediction: nothing is said without a variance, draws have their own shape around the value, and variances add."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofml.calibration.prediction import NORMAL_REACH, PARAMETERS, Prediction
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


@given(logarithms, st.floats(-0.5, 0.5))
def test_an_interval_lies_around_the_value_wherever_the_draws_do(logs: list[float], shift: float) -> None:
    """Bounds move all draws to one side; the width is theirs, the middle is not."""
    here, _ = drawn(logs)
    there, _ = drawn([log + shift for log in logs])
    assert here.interval_90 is not None
    assert here.interval_90[0] <= here.value <= here.interval_90[1]
    assert there.interval_90 == pytest.approx(here.interval_90, rel=1e-6)
    assert here.value == 250.0
    assert list(here.variances) == [PARAMETERS]


@given(logarithms)
def test_draws_mirrored_give_an_interval_that_is(logs: list[float]) -> None:
    low, high = drawn([*logs, *(-log for log in logs)])[0].interval_90 or (0.0, 0.0)
    assert np.log(high / 250) == pytest.approx(-np.log(low / 250), rel=1e-6, abs=1e-6)


def test_draws_of_a_normal_distribution_give_its_interval() -> None:
    prediction, _ = drawn(np.random.default_rng(1).normal(0.1, 0.3, 20_000).tolist())
    low, high = prediction.interval_90 or (0.0, 0.0)
    assert np.log(high / 250) == pytest.approx(NORMAL_REACH * 0.3, rel=0.02)
    assert np.log(low / 250) == pytest.approx(-NORMAL_REACH * 0.3, rel=0.02)
    assert prediction.sd == pytest.approx(0.3, rel=0.02)


def test_draws_that_are_far_to_one_side_reach_farther_there() -> None:
    low, high = drawn([-0.1, -0.05, 0.0, 0.3, 0.9])[0].interval_90 or (0.0, 0.0)
    assert np.log(high / 250) > 3 * np.log(250 / low)


def test_what_a_pace_explains_of_the_draws_goes_to_its_sources() -> None:
    """In proportion to their variances; what is left is of the parameters."""
    random = np.random.default_rng(2)
    paces, rest = random.normal(0, 0.01, 4000), random.normal(0, 0.02, 4000)
    sources = {"server": 0.75e-4, "formula": 0.25e-4}
    prediction = Prediction.of_draws(9.0, 9.0 * np.exp(2 * paces + rest), paces, sources)
    assert prediction.variances["server"] == pytest.approx(3 * prediction.variances["formula"])
    assert prediction.variances["server"] + prediction.variances["formula"] == pytest.approx(4e-4, rel=0.1)
    assert prediction.variances[PARAMETERS] == pytest.approx(4e-4, rel=0.1)
    assert prediction.interval_90 == prediction.drawn


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


def test_draws_that_have_no_logarithm_say_nothing() -> None:
    """A replay in which nothing completed has no latency."""
    prediction = Prediction.of_draws(1.0, [0.0, float("nan"), 0.5, 1.0, 2.0])
    assert prediction == Prediction.of_draws(1.0, [0.5, 1.0, 2.0])
    assert Prediction.of_draws(1.0, [0.0, float("nan")]).interval_90 is None


@given(logarithms, variances, st.floats(0.1, 4.0))
def test_an_interval_is_stretched_in_logarithms_and_scales_with_its_value(
    logs: list[float], variance: float, factor: float
) -> None:
    prediction = drawn([*logs, -0.01, 0.01])[0].wider("servers", variance)
    before = prediction.interval_90 or (0.0, 0.0)
    after = prediction.stretched(factor).interval_90 or (0.0, 0.0)
    assert np.log(np.array(after) / 250) == pytest.approx(factor * np.log(np.array(before) / 250), rel=1e-9)
    assert prediction.scaled(3.0).interval_90 == pytest.approx(tuple(3 * end for end in before))


def test_a_standardized_error_is_by_the_side_it_is_on() -> None:
    prediction = Prediction(100.0, {PARAMETERS: 0.01}, (90.0, 200.0))
    assert prediction.z(200.0) == pytest.approx(NORMAL_REACH)
    assert prediction.z(90.0) == pytest.approx(-NORMAL_REACH)
    assert prediction.z(100.0) == 0
    assert Prediction(100.0).z(90.0) == 0
