"""Forwards of known parameters: derivatives, what is not in them, the fit, and the design that chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from roofml.calibration.calibrate import fit, load, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.forwards.cases import Case, Limits, candidates, limits_of
from roofml.calibration.forwards.command import bench_command
from roofml.calibration.forwards.design import Design, design, spread_of_steps
from roofml.calibration.forwards.fit import ForwardFit, fit_forwards
from roofml.calibration.forwards.offsets import OFFSET_NAMES, OFFSET_PRIOR, OFFSETS
from roofml.calibration.forwards.times import Timed
from roofml.calibration.information import Belief, after, chosen, nats, variances
from roofml.latency.bare_forward import bare_tables, sums_of
from roofml.latency.batch import Batch
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.formula import step_times
from roofml.latency.parameters import NAMES, Parameters, StepParameters, from_coordinates, to_coordinates
from roofml.traces.forwards import ForwardCase, Forwards, TimedRequest
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError, NotSupportedError
from roofml.validation.demo import GPU, MODEL, TP, known_parameters, synthetic_run
from roofml.validation.synthetic_forwards import timed

UNSEEN = ("per_step_us", "mixed_step_us", "per_request_us", "cpu_floor_us")


@pytest.fixture(scope="module")
def dense() -> Calibration:
    return uncalibrated(deploy("llama-3.1-8b-instruct", "H100", 1, engine_version="0.33.0"))


@pytest.fixture(scope="module")
def mixture() -> Calibration:
    return uncalibrated(deploy("mixtral-8x7b-v0.1", "H100", 2, engine_version="0.33.0"))


@pytest.fixture(scope="module")
def designed(dense: Calibration) -> Design:
    return design(dense, limits_of(dense.deployment), count=20)


@pytest.fixture(scope="module")
def truth(dense: Calibration) -> Floats:
    return dense.draws(2)[0]


def some(limits: Limits, every: int = 9) -> list[Case]:
    return candidates(limits)[::every]


def bare_of(deployment: Deployment, cases: Sequence[Case]) -> Timed:
    tables = bare_tables(deployment, max(case.new_tokens for case in cases))
    return Timed.of(sums_of([case.requests for case in cases], tables), tables, bare=True)


# What is in a forward


@pytest.mark.parametrize("which", ["dense", "mixture"])
def test_derivatives_are_those_of_finite_differences(which: str, request: pytest.FixtureRequest) -> None:
    calibration: Calibration = request.getfixturevalue(which)
    steps = bare_of(calibration.deployment, some(limits_of(calibration.deployment), 31))
    values = calibration.draws(1)[0]
    offsets = OFFSET_PRIOR + np.array([0.003, 2.0, 0.5, 0.004, 0.02, 0.05])
    times, slopes = steps.times_and_slopes(values, offsets)
    x = to_coordinates(values)
    for place, name in enumerate((*NAMES, *OFFSET_NAMES)):
        moved_x, moved_offsets = x.copy(), offsets.copy()
        if place < len(NAMES):
            moved_x[place] += 1e-6
        else:
            moved_offsets[place - len(NAMES)] += 1e-6
        moved, _ = steps.times_and_slopes(from_coordinates(moved_x), moved_offsets)
        assert slopes[:, place] == pytest.approx((np.log(moved) - np.log(times)) / 1e-6, abs=2e-4), name


def test_a_bare_forward_has_no_head_no_padding_and_no_launches(dense: Calibration) -> None:
    deployment = dense.deployment
    served = deployment.tables
    tables = bare_tables(deployment, deployment.budget)
    neutral = StepParameters()
    step = Batch(decode=[(1000, 17)]).sums()
    padded = Batch(decode=[(1000, 24)]).sums()
    assert tables.weights[17] < tables.weights[24]  # a served step of 17 runs the graph of 24
    assert served.weights[17] == served.weights[24]
    assert tables.weights[0] == 0
    head = served.weights[24] - tables.weights[24]
    assert head == pytest.approx(128_256 * 4096 * 2 / deployment.gpu.bandwidth_bytes_per_us, rel=0.2)
    assert np.ptp((served.weights - tables.weights)[list(deployment.graphs)]) == pytest.approx(0.0, abs=1e-6)
    for sums in (step, padded):
        assert step_times(tables, sums, neutral)[0] < step_times(served, sums, neutral)[0]
    assert step_times(tables._replace(launches_us=0.0), step, neutral) == step_times(tables, step, neutral)


@pytest.mark.parametrize("name", UNSEEN)
def test_what_is_not_in_a_forward_changes_nothing(dense: Calibration, name: str) -> None:
    steps = bare_of(dense.deployment, some(limits_of(dense.deployment), 50))
    values = dense.values.copy()
    values[NAMES.index(name)] *= 2
    assert np.array_equal(
        steps.times_and_slopes(values, OFFSET_PRIOR)[0], steps.times_and_slopes(dense.values, OFFSET_PRIOR)[0]
    )
    assert not steps.times_and_slopes(values, OFFSET_PRIOR)[1][:, NAMES.index(name)].any()


def test_routing_matters_neither_to_one_token_nor_where_all_experts_are_hit(mixture: Calibration) -> None:
    cases = [Case(f"d{n}", ((TimedRequest(1, 100), n),)) for n in (1, 4, 256)]
    _, slopes = bare_of(mixture.deployment, cases).times_and_slopes(mixture.values, OFFSET_PRIOR)
    by_routing = slopes[:, len(NAMES) + OFFSET_NAMES.index("even_routing")]
    assert by_routing[0] == 0
    assert by_routing[1] > 0.1
    assert by_routing[2] < 1e-6


def test_several_engines_or_stages_are_not_fitted(dense: Calibration) -> None:
    spread = replace(dense.deployment, parallel=replace(dense.deployment.parallel, pp=2))
    with pytest.raises(NotSupportedError, match="pipeline"):
        bare_tables(spread, 8)


# The fit


def off(calibration: Calibration, values: Floats, truth: Floats) -> Floats:
    """Relative errors of step times, what forwards do not tell of taken from the truth."""
    steps = spread_of_steps(calibration, limits_of(calibration.deployment))
    tables = calibration.deployment.reaching(int(steps.new_tokens.max())).tables
    known = values.copy()
    for name in UNSEEN:
        known[NAMES.index(name)] = truth[NAMES.index(name)]
    predicted, true = (step_times(tables, steps, Parameters.of(v).step) for v in (known, truth))
    return np.abs(np.log(predicted / true))


def test_designed_cases_find_the_step_times_of_a_known_gpu(dense: Calibration, designed: Design, truth: Floats) -> None:
    found = fit_forwards(dense.deployment, dense.posterior.prior, timed(dense.deployment, truth, designed.cases, 1))
    assert found.posterior.converged
    assert not found.misfit
    before, left = off(dense, dense.values, truth), off(dense, found.posterior.values, truth)
    assert np.median(left) < 0.015 < np.median(before)
    assert np.quantile(left, 0.9) < 0.03 < np.quantile(before, 0.9)


def test_what_no_forward_tells_of_stays_at_the_prior(dense: Calibration, designed: Design, truth: Floats) -> None:
    posterior = fit_forwards(
        dense.deployment, dense.posterior.prior, timed(dense.deployment, truth, designed.cases, 1)
    ).posterior
    for name in (*UNSEEN, "queueing_us", "pipeline_delay_us"):
        place = NAMES.index(name)
        assert posterior.sd[place] > 0.8 * dense.posterior.prior.sd[place], name  # correlations move it a little
        assert name in posterior.not_identified


def test_one_wild_case_and_one_unstable_case_change_little(dense: Calibration, designed: Design, truth: Floats) -> None:
    good = timed(dense.deployment, truth, designed.cases, 1)

    def fitted(change: dict[int, dict[str, float]]) -> ForwardFit:
        cases = [replace(each, **change.get(place, {})) for place, each in enumerate(good.cases)]
        return fit_forwards(dense.deployment, dense.posterior.prior, replace(good, cases=cases))

    left = off(dense, fitted({}).posterior.values, truth)
    for place in (3, 19):  # one of those that tell most, and the one that tells least
        wild = fitted({place: {"median_us": 1.6 * good.cases[place].median_us}})
        assert np.median(off(dense, wild.posterior.values, truth)) < np.median(left) + 0.006
    assert wild.error_pct[19] < -25
    unstable = fitted({3: {"median_us": 1.06 * good.cases[3].median_us, "spread_pct": 30.0}})
    assert unstable.sd_pct[3] > 10
    assert np.median(off(dense, unstable.posterior.values, truth)) < np.median(left) + 0.003


def test_another_gpu_is_a_misfit(dense: Calibration, designed: Design, truth: Floats) -> None:
    good = timed(dense.deployment, truth, designed.cases, 1)
    slow = replace(good, cases=[replace(each, median_us=2 * each.median_us) for each in good.cases])
    found = fit_forwards(dense.deployment, dense.posterior.prior, slow)
    assert "times as long as physics says" in found.misfit[0]
    assert not fit_forwards(dense.deployment, dense.posterior.prior, good).misfit


def test_experts_that_dummy_weights_chose_say_little(mixture: Calibration) -> None:
    cases = [Case(f"d{n}", ((TimedRequest(1, 100), n),)) for n in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96)]
    good = timed(mixture.deployment, mixture.values, cases, 1)
    few = [replace(each, routing="real", median_us=0.6 * each.median_us) for each in good.cases]
    prior = mixture.posterior.prior
    fooled = fit_forwards(mixture.deployment, prior, replace(good, cases=few)).posterior
    place = NAMES.index("expert_weights")
    assert fooled.sd[place] > 0.8 * prior.sd[place]
    assert fit_forwards(mixture.deployment, prior, good).posterior.sd[place] < 0.7 * prior.sd[place]


def test_traced_kernels_tell_components_apart(mixture: Calibration) -> None:
    """All-reduces against the layers' other kernels: no total tells them apart."""
    cases = [Case(f"d{n}", ((TimedRequest(1, 1000), n),)) for n in (1, 8, 32, 64)]
    plain = timed(mixture.deployment, mixture.values, cases, 1)
    traced = replace(plain, cases=[replace(each, kernels=kernels_of(each)) for each in plain.cases])
    prior, place = mixture.posterior.prior, NAMES.index("communication")
    alone = fit_forwards(mixture.deployment, prior, plain).posterior.sd[place]
    assert fit_forwards(mixture.deployment, prior, traced).posterior.sd[place] < 0.8 * alone


def kernels_of(case: ForwardCase) -> dict[str, float]:
    """A made-up division of a forward's time."""
    shares = {"nvjet_tst_128x64": 0.2, "fused_moe_kernel": 0.6, "flash_fwd_splitkv": 0.1}
    shares |= {"vllm::cross_device_reduce_1stage": 0.05, "fused_add_rms_norm_kernel": 0.05}
    return {name: share * case.median_us for name, share in shares.items()}


def test_forwards_alone_are_a_fit_with_intervals(dense: Calibration, designed: Design, truth: Floats) -> None:
    made = timed(dense.deployment, truth, designed.cases, 1)
    calibration = fit([], forwards=[made])
    assert calibration.fitted
    assert not calibration.certain
    batch = Batch(decode=[(1000, 32)])
    interval, before = calibration.step_time(batch).interval_us, dense.step_time(batch).interval_us
    assert interval is not None
    assert before is not None
    assert interval[1] - interval[0] < 0.8 * (before[1] - before[0])
    assert calibration.posterior.valid["new_tokens"][1] >= 1000
    again = fit([], forwards=[made])
    assert again.to_yaml() == calibration.to_yaml()


@pytest.mark.slow
def test_forwards_beside_a_run_add_up(tmp_path: Path) -> None:
    """The batches tell of kernels, the run of the front end and of what steps take besides; the run is of an older
    server, whose kernels are its own."""
    random = np.random.default_rng(0)
    truth = known_parameters(random)
    run = synthetic_run(random, deploy(MODEL, GPU, TP), truth)
    alone = fit([run])
    cases = some(limits_of(alone.deployment, max_model_len=4096), 12)
    made = timed(alone.deployment.fitted_on("vllm", "0.33.0"), truth, cases, 3)
    both = fit([run], forwards=[made])
    assert both.certain
    assert [seen.name for seen in both.runs] == [run.name, "synthetic"]
    assert both.posterior.requests == alone.posterior.requests
    for name, least in (("prefill_gemm", 0.9), ("prefill_attention", 0.5), ("long_context", 0.5), ("queueing_us", 1.1)):
        place = NAMES.index(name)
        assert both.posterior.sd[place] < least * alone.posterior.sd[place], name
        away = np.abs(to_coordinates(both.values) - to_coordinates(truth))[place]
        assert away < 3.5 * both.posterior.sd[place], name
    both.save(tmp_path / "both.yaml")
    again = load(tmp_path / "both.yaml")
    assert again.certain
    assert [seen.forwards for seen in again.runs] == [False, True]


def test_files_of_two_deployments_are_refused(dense: Calibration, designed: Design) -> None:
    made = timed(dense.deployment, dense.values, designed.cases, 1)
    other = replace(made, server=replace(made.server, model="mixtral-8x7b-v0.1"))
    with pytest.raises(InputError, match="another model"):
        fit([], forwards=[made, other])


# The design


def test_cases_keep_every_limit(dense: Calibration) -> None:
    limits = limits_of(dense.deployment, max_num_seqs=24, max_num_batched_tokens=512, max_model_len=3000)
    cases = candidates(limits)
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert case.new_tokens <= 512
        assert case.size <= 24
        assert all(request.context + request.new_tokens <= 3000 for request in case.requests)
        assert all(character.isalnum() or character == "_" for character in case.name)
    kinds = {case.name[0] for case in cases}
    assert kinds == set("dpchm")


def test_cases_fit_the_memory() -> None:
    small = deploy("llama-3.1-8b-instruct", "L4", 1, engine_version="0.33.0")
    limits = limits_of(small)
    assert limits.blocks is not None
    assert limits.shortened
    tokens = 16 * limits.blocks
    assert max(sum(r.context + r.new_tokens for r in case.requests) for case in candidates(limits)) <= tokens
    assert "--max-model-len" in bench_command(small, limits, "s.json", "o.json")


def test_lengths_beyond_the_model_are_refused(dense: Calibration) -> None:
    with pytest.raises(InputError, match="positions"):
        limits_of(dense.deployment, max_model_len=10**7)


def test_a_design_is_worth_more_than_what_comes_first(dense: Calibration, designed: Design) -> None:
    assert designed.after_pct < 0.6 * designed.before_pct
    assert designed.floor_pct <= designed.after_pct
    assert 1 < designed.enough <= 20
    assert not designed.stop
    again = design(dense, limits_of(dense.deployment), count=20)
    assert again.cases == designed.cases


def test_a_design_after_a_fit_says_when_to_stop(dense: Calibration, designed: Design, truth: Floats) -> None:
    calibration = fit([], forwards=[timed(dense.deployment, truth, designed.cases, 1)])
    following = design(calibration, limits_of(dense.deployment), count=20)
    assert following.before_pct < 0.6 * designed.before_pct
    assert following.stop
    assert "Stop here" in following.verdict


def test_a_design_for_a_load_of_prompts_times_prompts(dense: Calibration) -> None:
    limits = limits_of(dense.deployment)
    long = Batch(prefill=[(2048, 0)]).sums()
    short = Batch(decode=[(100, 1)]).sums()
    prompts, decodes = (design(dense, limits, steps, count=3) for steps in (long, short))
    assert np.mean([case.new_tokens for case in prompts.cases]) > 5 * np.mean([c.new_tokens for c in decodes.cases])


# The criterion


def linear(seed: int, candidates: int = 30, size: int = 6) -> tuple[Floats, Belief]:
    random = np.random.default_rng(seed)
    root = random.standard_normal((size, size))
    rows, wanted = random.standard_normal((candidates, size)), random.standard_normal((12, size))
    return root @ root.T, Belief(rows, wanted)


@pytest.mark.parametrize("seed", range(5))
def test_chosen_candidates_beat_nearly_all_random_ones(seed: int) -> None:
    covariance, belief = linear(seed)
    left = partial(_left, covariance, belief)
    best = left(chosen(covariance, [belief], 5))
    random = np.random.default_rng(seed)
    assert best < np.quantile([left(random.permutation(30)[:5]) for _ in range(300)], 0.01)


def _left(covariance: Floats, belief: Belief, picked: Sequence[int] | Ints) -> float:
    rows = belief.rows[np.asarray(picked, np.int64)]
    return float(variances(after(covariance, rows), belief.wanted).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_first_of_those_chosen_are_the_best_of_them(seed: int) -> None:
    covariance, belief = linear(seed)
    picked = chosen(covariance, [belief], 6)
    alone = [_left(covariance, belief, [one]) for one in picked]
    assert alone[0] == min(alone)


def test_measurements_one_by_one_are_those_together() -> None:
    covariance, belief = linear(1)
    one_by_one = covariance
    for row in belief.rows[:7]:
        one_by_one = after(one_by_one, row[None])
    together = after(covariance, belief.rows[:7])
    assert one_by_one == pytest.approx(together, rel=1e-6, abs=1e-9)
    assert together == pytest.approx(np.linalg.inv(np.linalg.inv(covariance) + belief.rows[:7].T @ belief.rows[:7]))
    assert nats(covariance, together) == pytest.approx(
        0.5 * np.log(np.linalg.det(covariance) / np.linalg.det(together))
    )


def test_no_candidate_is_taken_twice_and_no_more_than_there_are() -> None:
    covariance, belief = linear(2)
    assert sorted(chosen(covariance, [belief], 100)) == list(range(30))


def test_every_offset_is_one_that_a_forward_shows(mixture: Calibration) -> None:
    steps = bare_of(mixture.deployment, some(limits_of(mixture.deployment), 20))
    _, slopes = steps.times_and_slopes(mixture.values, OFFSET_PRIOR)
    for number, offset in enumerate(OFFSETS):
        assert np.abs(slopes[:, len(NAMES) + number]).max() * offset.sd > 1e-4, offset.name


def test_the_plain_file_holds_what_was_designed(designed: Design) -> None:
    shapes = designed.shapes()["cases"]
    assert [each["name"] for each in shapes] == [case.name for case in designed.cases]
    for each, case in zip(shapes, designed.cases, strict=True):
        assert sum(request["query_len"] * request["count"] for request in each["requests"]) == case.new_tokens
        assert all(request["kv_len"] >= request["query_len"] for request in each["requests"])
        assert {"query_len", "kv_len", "num_draft_tokens", "chunked", "count"} == set(each["requests"][0])


def test_forwards_have_an_identity(dense: Calibration, designed: Design) -> None:
    made: list[Forwards] = [timed(dense.deployment, dense.values, designed.cases, seed) for seed in (1, 1, 2)]
    assert made[0].identity == made[1].identity != made[2].identity
