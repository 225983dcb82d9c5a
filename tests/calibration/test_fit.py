"""The fit: derivatives, recovery, what it refuses, and that it never looks past its training share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from roofml.calibration.fit import STEPS, fit
from roofml.calibration.objective import freeze, latencies_and_gradients
from roofml.engine.replay import replay
from roofml.latency.deployment import deploy
from roofml.latency.formula import step_times
from roofml.latency.parameters import (
    BY_NAME,
    LOWER,
    NAMES,
    PRIOR_VALUES,
    UPPER,
    Parameters,
    from_coordinates,
    to_coordinates,
)
from roofml.util.errors import InputError
from roofml.validation.demo import GPU, MODEL, TP, known_parameters, run_demo, synthetic_run


@pytest.fixture(scope="module")
def where():
    return deploy(MODEL, GPU, TP, budget=2048)


@pytest.fixture(scope="module")
def run(where):
    return synthetic_run(np.random.default_rng(7), where, PRIOR_VALUES)


def test_coordinates_go_there_and_back():
    values = known_parameters(np.random.default_rng(1))
    np.testing.assert_allclose(from_coordinates(to_coordinates(values)), values, rtol=1e-14)
    assert np.all(LOWER < UPPER)


def test_frozen_latencies_are_those_of_the_replay(where, run):
    """With the parameters of the replay itself, frozen decode times are the replay's, and TTFTs on average are.

    TTFT takes half of the step in flight where the replay knows the moment, hence the mean, and 1 %.
    """
    result = replay(run, where.tables, Parameters.of(PRIOR_VALUES))
    frozen = freeze(result.schedule, where.tables, run.ok)
    decode, ttft, _, _ = latencies_and_gradients(PRIOR_VALUES, frozen)
    np.testing.assert_allclose(decode, result.e2e_us - result.ttft_us, rtol=1e-9)
    assert ttft.mean() == pytest.approx(result.ttft_us.mean(), rel=0.01)


def test_gradients_agree_with_finite_differences(where, run):
    schedule = replay(run, where.tables, Parameters.of(PRIOR_VALUES)).schedule
    some = np.zeros(len(run), np.bool_)
    some[::97] = True
    frozen = freeze(schedule, where.tables, some)
    # Off the prior, so that nothing sits on a kink of the blend.
    values = PRIOR_VALUES * 1.01 + 1e-3
    _, _, decode_by, ttft_by = latencies_and_gradients(values, frozen)
    for i, name in enumerate(NAMES):
        step = 1e-4 * max(abs(values[i]), 1e-2)
        moved = [values.copy(), values.copy()]
        moved[0][i] -= step
        moved[1][i] += step
        (decode_low, ttft_low, *_), (decode_high, ttft_high, *_) = (latencies_and_gradients(v, frozen) for v in moved)
        # Central differences of a piecewise linear function are exact but for rounding and steps on a kink.
        scale = np.abs(decode_by[:, i]).max() + 1e-9
        np.testing.assert_allclose(
            (decode_high - decode_low) / (2 * step), decode_by[:, i], atol=2e-3 * scale + 1e-3, err_msg=name
        )
        scale = np.abs(ttft_by[:, i]).max() + 1e-9
        np.testing.assert_allclose(
            (ttft_high - ttft_low) / (2 * step), ttft_by[:, i], atol=2e-3 * scale + 1e-3, err_msg=name
        )


def test_scaled_parameters_scale_every_step(where, run):
    steps = replay(run, where.tables, Parameters.of(PRIOR_VALUES)).schedule.steps
    step, _ = Parameters.of(PRIOR_VALUES)
    np.testing.assert_allclose(
        step_times(where.tables, steps, step.scaled(1.7)), 1.7 * step_times(where.tables, steps, step), rtol=1e-12
    )


def test_demo_recovers_what_it_says_it_can():
    """Every identified parameter inside its 95 % interval for at least 18 of 20 seeds, as the issue asks.

    With about five identified parameters a seed and honest intervals, all inside happens in 77 % of seeds; the fit does
    better because it trusts no run's mean beyond 0.3 %, which the demo's noise does not need.
    """
    good = 0
    for seed in range(20):
        result = run_demo(seed)
        assert result.recovered, "the demo must identify something"
        good += all(result.recovered.values())
    assert good >= 18


def test_same_seed_same_bytes():
    from roofml.calibration.coefficients import coefficients_text

    first, second = run_demo(3), run_demo(3)
    assert coefficients_text(first.coefficients) == coefficients_text(second.coefficients)


def test_the_fit_does_not_see_past_its_share(where, run):
    """Other latencies after the first 60 % change nothing."""
    late = np.arange(len(run)) >= 0.6 * len(run)
    changed = replace(run, e2e_us=np.where(late, 3 * run.e2e_us, run.e2e_us), ttft_us=np.where(late, 9e9, run.ttft_us))
    np.testing.assert_array_equal(fit([run], where.tables, 0.6).values, fit([changed], where.tables, 0.6).values)


def test_a_cold_start_does_not_move_the_fit(where, run):
    """A dozen requests that waited for kernels to compile are outliers, not queueing."""
    cold = run.ttft_us.copy()
    cold[:12] += 1e6
    warm = fit([run], where.tables)
    moved = fit([replace(run, ttft_us=cold, e2e_us=run.e2e_us + cold - run.ttft_us)], where.tables)
    queueing = NAMES.index("queueing_us")
    # 12 of 4,000 requests, 100 times too slow, would move a mean by 12 ms; the fit stays within 0.1 ms.
    assert abs(moved.values[queueing] - warm.values[queueing]) < 100


def test_failed_requests_are_not_fitted(where, run):
    ok = np.arange(len(run)) % 2 == 0
    half = replace(run, ok=ok, ttft_us=np.where(ok, run.ttft_us, np.nan), e2e_us=np.where(ok, run.e2e_us, np.nan))
    found = fit([half], where.tables)
    assert found.requests == ok.sum()
    assert np.all(np.isfinite(found.values))
    assert np.all(np.isfinite(found.covariance))


def test_values_stay_within_bounds(where, run):
    absurd = replace(run, ttft_us=run.ttft_us * 50, e2e_us=run.e2e_us * 50)
    found = fit([absurd], where.tables, rounds=3)
    for name, value in zip(NAMES, found.values, strict=True):
        assert BY_NAME[name].lower * (1 - 1e-9) <= value <= BY_NAME[name].upper * (1 + 1e-9), name


def test_one_output_token_has_no_decode_time(where, run):
    """A run whose every request makes one token still fits what TTFT tells."""
    few = slice(0, 400)
    one = replace(
        run,
        **{
            name: getattr(run, name)[few]
            for name in (
                "request_id",
                "arrival_us",
                "prompt_tokens",
                "prefix_group",
                "prefix_tokens",
                "ttft_us",
                "ok",
            )
        },
        output_tokens=np.ones(400, np.int64),
        e2e_us=run.ttft_us[few],
    )
    assert np.all(np.isfinite(fit([one], where.tables).values))


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(where, run, fraction):
    with pytest.raises(InputError, match="train fraction"):
        fit([run], where.tables, fraction)


def test_nothing_to_fit_is_refused(where, run):
    none = replace(run, ok=np.zeros(len(run), np.bool_))
    with pytest.raises(InputError, match="no successful request"):
        fit([none], where.tables)


def test_servers_of_one_kind_may_differ_in_pace_and_a_fit_tells_them_apart(where):
    """Two servers with the same parameters, one 1 % slower: the paces differ by that, and their mean is near 1.

    A pace is drawn to 1 by its prior, and noise of 2 % on 1,000 correlated requests leaves a tenth of a percent.
    """
    values = PRIOR_VALUES
    runs = []
    for name, seed, pace in (("fast", 1, 0.995), ("slow", 2, 1.005)):
        slower = values.copy()
        slower[:STEPS] = scaled(Parameters.of(values)[0], pace)
        runs.append(replace(synthetic_run(np.random.default_rng(seed), where, slower), name=name))
    found = fit(runs, where.tables)
    assert found.paces["slow"] / found.paces["fast"] == pytest.approx(1.01, abs=0.003)
    assert np.mean(list(found.paces.values())) == pytest.approx(1, abs=0.003)


def test_one_set_of_parameters_may_serve_several_tables(where, run):
    """Tables once for all runs, or the same tables for each: the same fit."""
    some = np.arange(len(run)) < 400
    together = fit([run], where.tables, chosen=[some])
    each = fit([run], [where.tables], chosen=[some])
    assert together.values.tobytes() == each.values.tobytes()


def test_a_fit_finds_the_same_from_elsewhere(where, run):
    """Started half a prior's standard deviation off. The last round's schedule may differ by a batch here and there: a
    seventh of a prior's standard deviation, and 3 % of the misfit."""
    some = np.arange(len(run)) < 1000
    here = fit([run], where.tables, chosen=[some])
    start = from_coordinates(np.clip(here.prior.mean + 0.5 * here.prior.sd, LOWER, UPPER))
    there = fit([run], where.tables, chosen=[some], start=start)
    off = np.abs(to_coordinates(here.values) - to_coordinates(there.values)) / here.prior.sd
    assert np.max(off) < 0.15
    assert here.misfit == pytest.approx(there.misfit, rel=0.03)
