"""Statistics of errors: cases computed by hand, properties, and how often an interval covers what it should."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quickness import quickly
from scipy import stats

from roofml.validation.statistics import (
    Judged,
    block_sums,
    blocks,
    bootstrap_interval,
    figures,
    holm,
    interval_figures,
    inversions,
    step_figures,
    wilcoxon,
)

positive = st.floats(0.1, 1e6)
seeds = st.integers(0, 2**32 - 1)


def judged(**changes) -> Judged:
    """Four requests of 10 ms to the first token and 100 ms in all; e2e is predicted 10 % long, ttft as it is."""
    arrays = {
        "arrival_us": np.array([0.0, 1e5, 2e5, 3e5]),
        "output_tokens": np.array([10, 10, 10, 1]),
        "measured_ttft_us": np.array([1e4, 1e4, 1e4, 1e5]),
        "predicted_ttft_us": np.array([1e4, 1e4, 1e4, 1e5]),
        "measured_e2e_us": np.full(4, 1e5),
        "predicted_e2e_us": np.full(4, 1.1e5),
    }
    return Judged(**(arrays | changes))


def near(value: float):
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def test_figures_by_hand() -> None:
    found = figures(judged())
    assert found["e2e"]["mean"] == {"measured_us": near(1e5), "predicted_us": near(1.1e5), "error_pct": near(10)}
    assert found["e2e"]["mape_pct"] == found["e2e"]["bias_pct"] == near(10)
    assert found["ttft"]["p50"]["measured_us"] == near(1e4)
    assert found["ttft"]["p90"]["measured_us"] == near(1e4 + 0.7 * 9e4)  # 0.9 of the way through 4 order statistics
    assert found["ttft"]["p99"]["error_pct"] == near(0)
    # Nine gaps in 90 ms, predicted in 100 ms; the request of one token has none.
    assert found["tpot"]["mean"] == {
        "measured_us": near(1e4),
        "predicted_us": near(1e5 / 9),
        "error_pct": near(100 / 9),
    }
    # 31 tokens from 0 to 0.4 s, predicted to 0.41 s.
    assert found["throughput"]["measured_tokens_per_s"] == near(31 / 0.4)
    assert found["throughput"]["error_pct"] == near(100 * (0.4 / 0.41 - 1))


def test_bias_is_signed_and_mape_is_not() -> None:
    found = figures(judged(predicted_e2e_us=1e5 * np.array([1.1, 0.9, 1.1, 0.9])))["e2e"]
    assert found["bias_pct"] == near(0)
    assert found["mape_pct"] == near(10)


def test_a_latency_that_no_request_has_is_left_out() -> None:
    assert "tpot" not in figures(judged(output_tokens=np.ones(4, np.int64)))
    assert "tpot" not in figures(judged(measured_ttft_us=np.full(4, 1e5)))  # every answer in one chunk


def test_requests_of_several_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        judged(predicted_e2e_us=np.ones(3))
    with pytest.raises(ValueError, match="at least one request"):
        Judged(*(np.array([]) for _ in range(6)))
    with pytest.raises(ValueError, match="'itl'"):
        judged().pair("itl")


def test_blocks_by_hand() -> None:
    np.testing.assert_array_equal(blocks(10, 4), [0, 2, 5, 7, 10])
    np.testing.assert_array_equal(blocks(2, 4), [0, 1, 2])
    for wrong in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="at least one"):
            blocks(*wrong)


@given(n=st.integers(1, 500), count=st.integers(1, 60))
def test_blocks_share_out_every_request_evenly(n: int, count: int) -> None:
    sizes = np.diff(blocks(n, count))
    assert sizes.sum() == n
    assert len(sizes) == min(n, count)
    assert sizes.max() - sizes.min() <= 1


@given(values=st.lists(positive, min_size=1, max_size=200).map(np.array), count=st.integers(1, 40))
def test_block_sums_conserve_the_total(values: np.ndarray, count: int) -> None:
    assert block_sums(values, count).sum() == pytest.approx(values.sum(), rel=1e-12)


# Intervals


def pairs_of(random: np.random.Generator, runs: int, n: int, bias: float, correlation: float = 0.0, noise: float = 0.1):
    """Runs whose relative errors are AR(1) around `bias`; every latency measured is 1."""
    shocks = random.normal(0, noise * np.sqrt(1 - correlation**2), (n, runs))
    errors = np.empty((n, runs))
    errors[0] = random.normal(0, noise, runs)
    for i in range(1, n):
        errors[i] = correlation * errors[i - 1] + shocks[i]
    return [(np.ones(n), 1 + bias + errors[:, run]) for run in range(runs)]


@given(seed=seeds, runs=st.integers(1, 12), bias=st.floats(-0.3, 0.3), resample_runs=st.booleans())
def test_an_interval_contains_its_estimate(seed: int, runs: int, bias: float, resample_runs: bool) -> None:
    pairs = pairs_of(np.random.default_rng(seed), runs, 60, bias)
    found = bootstrap_interval(pairs, resample_runs=resample_runs, resamples=200, seed=seed)
    errors = [abs(float(predicted.mean() / measured.mean() - 1)) for measured, predicted in pairs]
    assert found.estimate == pytest.approx(100 * np.mean(errors), rel=1e-9)
    assert 0 <= found.low <= found.estimate <= found.high
    assert found == bootstrap_interval(pairs, resample_runs=resample_runs, resamples=200, seed=seed)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_an_interval_covers_the_true_error(correlation: float) -> None:
    """Nominal 95 %. Twenty blocks give a little less; 300 trials know a share of 0.95 to 0.025 (two sd)."""
    random = np.random.default_rng(5)
    trials = [
        bootstrap_interval(pairs_of(random, 3, 1000, 0.05, correlation), resamples=400, seed=i) for i in range(300)
    ]
    covered = np.mean([found.low <= 5.0 <= found.high for found in trials])
    assert 0.9 <= covered <= 0.99


@pytest.mark.slow
def test_single_requests_for_blocks_would_not_cover() -> None:
    """What blocks are for: neighbours taken for independent make the interval far too short."""
    random = np.random.default_rng(6)
    trials = [pairs_of(random, 3, 1000, 0.05, 0.8) for _ in range(100)]
    single = [bootstrap_interval(pairs, count=1000, resamples=200) for pairs in trials]
    assert np.mean([found.low <= 5.0 <= found.high for found in single]) < 0.8


def test_runs_that_differ_widen_the_interval_of_resampled_runs() -> None:
    random = np.random.default_rng(7)
    pairs = [pairs_of(random, 1, 500, bias)[0] for bias in (0.01, 0.02, 0.2)]
    narrow, wide = bootstrap_interval(pairs), bootstrap_interval(pairs, resample_runs=True)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_runs_of_different_lengths_are_resampled_each_by_its_own() -> None:
    """Constant errors stay what they are, whatever is drawn: padding never enters."""
    pairs = [(np.full(n, 7.0), np.full(n, 7.0 * 1.1)) for n in (3, 50, 1000)]
    found = bootstrap_interval(pairs, resample_runs=True)
    assert (found.low, found.estimate, found.high) == (near(10), near(10), near(10))


def test_eleven_runs_are_resampled_in_well_under_a_second() -> None:
    pairs = pairs_of(np.random.default_rng(8), 11, 5000, 0.01)
    with quickly(1):  # 0.05 s on a free core
        bootstrap_interval(pairs, resample_runs=True)


def test_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no run"):
        bootstrap_interval([])


# Tests


def test_wilcoxon_by_hand() -> None:
    """Differences -1, -2, -3, +4 (ranks 1 to 4): 7 of the 16 sign patterns have a sum of plus ranks of 4 or less."""
    found = wilcoxon(np.array([1.0, 1.0, 1.0, 5.0]), np.array([2.0, 3.0, 4.0, 1.0]))
    assert found.statistic == 4
    assert found.p == near(7 / 16)
    assert found.median_difference == -1.5
    assert found.n == 4


def test_equal_pairs_say_nothing() -> None:
    same = wilcoxon(np.ones(5), np.ones(5))
    assert (same.p, same.n, same.median_difference) == (1.0, 0, 0.0)
    some = wilcoxon(np.array([1.0, 1.0, 1.0, 5.0, 9.0]), np.array([2.0, 3.0, 4.0, 1.0, 9.0]))
    assert (some.n, some.p) == (4, near(7 / 16))


whole = st.lists(st.integers(-6, 6), min_size=1, max_size=10).map(lambda drawn: np.array(drawn, dtype=np.float64))


@pytest.mark.slow
@settings(max_examples=40)
@given(difference=whole)
def test_wilcoxon_is_exact_and_symmetric(difference: np.ndarray) -> None:
    """Against every pattern of signs, with ties; and ours against theirs mirrors theirs against ours."""
    nothing = np.zeros_like(difference)
    ours, theirs = wilcoxon(difference, nothing), wilcoxon(nothing, difference)
    assert ours.median_difference == -theirs.median_difference
    different = difference[difference != 0]
    assert ours.n == theirs.n == len(different)
    if len(different):
        ranks = stats.rankdata(np.abs(different))
        sums = np.array(list(product([0, 1], repeat=len(ranks)))) @ ranks
        assert ours.statistic + theirs.statistic == ranks.sum()
        assert ours.p == pytest.approx(np.mean(sums <= ours.statistic), abs=1e-9)
        assert theirs.p == pytest.approx(np.mean(sums >= ours.statistic), abs=1e-9)


def test_wilcoxon_refuses_what_is_no_pair() -> None:
    with pytest.raises(ValueError, match="shapes"):
        wilcoxon(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="without a number"):
        wilcoxon(np.array([np.nan]), np.ones(1))


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1, 1])


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12).map(np.array))
def test_holm_never_lowers_and_keeps_the_order(p: np.ndarray) -> None:
    corrected = holm(p)
    assert np.all(corrected >= p)
    assert np.all(corrected <= np.minimum(1, p * len(p)) + 1e-12)
    assert np.all(np.diff(corrected[np.argsort(p, kind="stable")]) >= 0)


# Order of runs, and steps


def test_inversions_by_hand() -> None:
    found = inversions(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    assert (found.inverted, found.pairs, found.tau) == (1, 3, near(1 / 3))
    assert inversions(np.array([1.0, 1.0]), np.array([1.0, 2.0])).pairs == 0
    assert inversions(np.array([1.0, 1.04, 2.0]), np.array([2.0, 1.0, 3.0]), 0.05).inverted == 0
    tied = inversions(np.array([1.0, 2.0]), np.array([5.0, 5.0]))
    assert (tied.inverted, tied.pairs, tied.tau) == (0, 1, 0.0)


distinct = st.lists(st.integers(1, 10**6), min_size=2, max_size=15, unique=True).map(
    lambda drawn: np.array(drawn, dtype=np.float64)
)


@given(measured=distinct)
def test_a_monotone_transformation_inverts_nothing(measured: np.ndarray) -> None:
    for predicted in (np.log(measured), 3 * measured + 7, measured**3):
        assert inversions(measured, predicted).inverted == 0
        assert inversions(measured, predicted).tau == near(1)
    assert inversions(measured, -measured).inverted == inversions(measured, measured).pairs


@given(measured=distinct, seed=seeds)
def test_tau_is_that_of_scipy_without_ties(measured: np.ndarray, seed: int) -> None:
    predicted = np.random.default_rng(seed).permutation(len(measured)).astype(np.float64)
    theirs: Any = stats.kendalltau(measured, predicted)
    assert inversions(measured, predicted).tau == near(theirs.statistic)


def test_step_figures_by_hand() -> None:
    found = step_figures(np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.0, 3.0]))
    assert found["mape_pct"] == near(35 / 3)
    assert found["median_abs_error_pct"] == near(10)
    assert found["bias_pct"] == near(-5)
    assert found["pearson_r"] == near(np.corrcoef([1, 2, 4], [1.1, 2, 3])[0, 1])


def test_steps_that_do_not_vary_have_no_correlation() -> None:
    assert step_figures(np.full(7, 0.1), np.arange(1.0, 8.0))["pearson_r"] == 0
    assert step_figures(np.arange(1.0, 8.0), np.full(7, 0.1))["pearson_r"] == 0
    with pytest.raises(ValueError, match="shapes"):
        step_figures(np.ones(0), np.ones(0))


def test_interval_figures_by_hand() -> None:
    """Three of four intervals hold; widths by their median."""
    found = interval_figures(np.array([0.0, 1.0, -1.0, 3.0]), np.array([1.0, 2.0, 4.0, 50.0]), np.array([1.0, 1, 1, 0]))
    assert found == {
        "inside_interval_90_pct": 75.0,
        "half_width_90_pct": 3.0,
        "rms_z": pytest.approx(np.sqrt(11 / 4)),
    }
    for z, width in ((np.zeros(0), np.zeros(0)), (np.zeros(2), np.zeros(3))):
        with pytest.raises(ValueError, match="widths"):
            interval_figures(z, width, z)
