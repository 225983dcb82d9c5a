"""Identifiability: shares by hand, profiles against the covariance, extra loads against a fit that has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from commandline import fails, ok
from fitted import measured_again
from runfolder import RunFolder, requests
from synthetic import PLENTY, run_of, tables

from roofml.calibration.experiment_design import Noise, gain, gains, noise_of, small_loads
from roofml.calibration.fit import fit_parameters
from roofml.calibration.identifiability import (
    directions,
    effective_parameters,
    parameters,
    problem_of,
    profiles,
    unsure,
)
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import PACKAGE
from roofml.calibration.solver import Problem
from roofml.engine.replay import replay
from roofml.latency.parameters import NAMES, PRIOR_SD, PRIOR_VALUES, Parameters, to_coordinates
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats

pytestmark = pytest.mark.slow

NOISE = Noise(decode=0.01, ttft=0.1)
TABLES = tables("llama-2-7b-hf", 1)
"""A dense model on one GPU: no step reads experts or reduces anything."""


def served(run: Run, seed: int) -> Run:
    """The run with latencies of the prior's own values, and noise."""
    random = np.random.default_rng(seed)
    result = replay(run, TABLES, Parameters.of(PRIOR_VALUES))
    ttft = result.ttft_us * np.exp(random.normal(0, NOISE.ttft, len(run)))
    decode = (result.e2e_us - result.ttft_us) * np.exp(random.normal(0, NOISE.decode, len(run)))
    return measured_again(run, ttft_us=ttft, e2e_us=ttft + decode)


@pytest.fixture(scope="module")
def run() -> Run:
    """Chat as the real traces have it: ten prompts in turn, so that nearly every prompt is in the cache."""
    random = np.random.default_rng(3)
    arrival = np.cumsum(random.exponential(1e6 / 12, 600))
    prompt = random.integers(200, 800, 10)
    rows = [(float(t), int(prompt[i % 10]), 120) for i, t in enumerate(arrival)]
    return served(run_of(rows, groups=[i % 10 for i in range(600)]), 4)


@pytest.fixture(scope="module")
def found(run: Run) -> Posterior:
    return fit_parameters([Selection.between(run)], TABLES)


@pytest.fixture(scope="module")
def problem(run: Run, found: Posterior) -> Problem:
    return problem_of(found, [Selection.between(run)], TABLES)


def by_hand(left: dict[str, float], correlated: tuple[str, str, float] | None = None) -> Posterior:
    """A fit of the package's prior of which the shares `left` of the parameters' variances remain."""
    share = np.array([left.get(name, 1.0) for name in NAMES])
    sd = PRIOR_SD * np.sqrt(share)
    correlation = np.eye(len(NAMES))
    if correlated is not None:
        i, j = NAMES.index(correlated[0]), NAMES.index(correlated[1])
        correlation[i, j] = correlation[j, i] = correlated[2]
    return Posterior(PRIOR_VALUES, correlation * np.outer(sd, sd), PACKAGE, 10, 1, True, 1.0, {}, {})


# What the data decide


def test_shares_by_hand() -> None:
    known = {one.name: one for one in parameters(by_hand({"weights": 0.01, "kv_cache": 0.64}))}
    assert known["weights"].variance_removed == pytest.approx(0.99)
    assert known["weights"].posterior_sd == pytest.approx(0.1 * known["weights"].prior_sd)
    assert known["kv_cache"].variance_removed == pytest.approx(0.36)
    assert known["decode_gemm"].variance_removed == 0
    assert known["weights"].partner is None
    assert known["growth_16"].bound == "lower"  # where the prior has its median
    assert known["weights"].bound is None
    names = unsure(tuple(known.values()))
    assert "kv_cache" in names
    assert "growth_16" in names
    assert "weights" not in names


def test_partners_by_hand() -> None:
    known = {one.name: one for one in parameters(by_hand({}, ("weights", "kv_cache", -0.6)))}
    assert (known["weights"].partner, known["kv_cache"].partner) == ("kv_cache", "weights")
    assert known["weights"].correlation == pytest.approx(-0.6)


def test_directions_by_hand() -> None:
    """Correlated by -0.6, the sum of two parameters keeps 0.4 of its variance; nothing else is decided but weights."""
    seen = directions(by_hand({"weights": 0.01}, ("kv_cache", "communication", -0.6)))
    assert seen[0].terms() == [("weights", pytest.approx(1.0))]
    assert seen[0].variance_removed == pytest.approx(0.99)
    assert dict(seen[1].terms()) == {
        "kv_cache": pytest.approx(np.sqrt(0.5)),
        "communication": pytest.approx(np.sqrt(0.5)),
    }
    assert seen[1].variance_removed == pytest.approx(0.6)
    assert effective_parameters(seen) == pytest.approx(0.99 + 0.6)


def test_a_fit_never_knows_less_than_its_prior(found: Posterior) -> None:
    known = parameters(found)
    assert all(one.posterior_sd <= one.prior_sd * (1 + 1e-9) for one in known)
    assert max(one.variance_removed for one in known) > 0.5


@pytest.mark.parametrize("name", ["communication", "expert_weights"])
def test_what_no_step_uses_is_not_decided(found: Posterior, name: str) -> None:
    one = parameters(found)[NAMES.index(name)]
    assert one.variance_removed == pytest.approx(0, abs=1e-9)
    assert one.partner is None


def test_shares_of_directions_are_the_trace(found: Posterior) -> None:
    """The effective number of parameters, by another way: the trace of data information times posterior covariance."""
    data = np.linalg.inv(found.covariance) - np.linalg.inv(found.prior.covariance)
    seen = directions(found)
    assert effective_parameters(seen) == pytest.approx(np.trace(data @ found.covariance), rel=1e-6)
    assert [one.variance_removed for one in seen] == sorted((one.variance_removed for one in seen), reverse=True)
    np.testing.assert_allclose([np.linalg.norm(one.weights) for one in seen], 1)


# Profiles


def test_a_profile_of_what_is_known_is_the_covariance(found: Posterior, problem: Problem) -> None:
    known = [one for one in parameters(found) if one.bound is None]
    best = max(known, key=lambda one: one.variance_removed)
    assert best.variance_removed > 0.5
    (profile,) = profiles(problem, to_coordinates(found.values), [best.name])
    index = NAMES.index(best.name)
    low, high = (end[index] for end in found.interval())
    assert profile.low is not None
    assert profile.high is not None
    assert profile.high - profile.low == pytest.approx(high - low, rel=0.2)
    assert profile.low < best.value < profile.high


def test_a_profile_of_what_no_step_uses_is_the_prior(found: Posterior, problem: Problem) -> None:
    """And without the prior, anything will do."""
    (profile,) = profiles(problem, to_coordinates(found.values), ["communication"])
    index = NAMES.index("communication")
    reach = np.sqrt(3.84) * found.prior.sd[index]
    middle = found.prior.mean[index]
    assert profile.low == pytest.approx(np.exp(middle - reach), rel=1e-2)
    assert profile.high == pytest.approx(np.exp(middle + reach), rel=1e-2)
    assert (profile.data_low, profile.data_high) == (None, None)


def test_a_bound_is_an_open_end(found: Posterior, problem: Problem) -> None:
    """No step is of 256 tokens and more, so this growth stays at its lower bound of 0."""
    (profile,) = profiles(problem, to_coordinates(found.values), ["growth_256"])
    assert profile.low is None
    assert profile.high is not None
    assert profile.high > 0


def test_chi2_at_the_ends_of_a_profile(found: Posterior, problem: Problem) -> None:
    """The definition itself, by a search of its own: the least chi² with the parameter held there has risen by 3.84."""
    from scipy.optimize import least_squares

    from roofml.latency.parameters import LOWER, UPPER

    index = NAMES.index("queueing_us")
    x = to_coordinates(found.values)
    (profile,) = profiles(problem, x, ["queueing_us"])

    def least(held: float | None) -> float:
        free = np.arange(len(x)) != index if held is not None else np.ones(len(x), np.bool_)

        def point(y: Floats) -> Floats:
            full = x.copy() if held is None else np.where(free, x, held)
            full[free] = y * PRIOR_SD[free]
            return full

        def residuals(y: Floats) -> Floats:
            r = problem.qr_factor(point(y))
            return np.append(r[:, -1], 0.0)  # its norm is that of the residuals

        def jacobian(y: Floats) -> Floats:
            r = problem.qr_factor(point(y))
            # Rotated alike: R's columns are the derivatives of the rotated residuals.
            return np.vstack((r[:, :-1][:, free] * PRIOR_SD[free], np.zeros(free.sum())))

        low, high = LOWER[free] / PRIOR_SD[free], UPPER[free] / PRIOR_SD[free]
        start = np.clip(x[free] / PRIOR_SD[free], low + 1e-9, high - 1e-9)
        found: Any = least_squares(residuals, start, cast("Any", jacobian), bounds=(low, high))
        return 2 * float(found.cost)

    for end in (profile.low, profile.high):
        assert end is not None
        # Half the rise per 30 % of the distance; 3 % is what an end may be off.
        assert least(end) - least(None) == pytest.approx(3.84, rel=0.06)


# Extra loads


def test_unique_long_prompts_pin_the_prefill(found: Posterior) -> None:
    candidates = small_loads(PLENTY, TABLES, found.values)
    (unique,) = (load for load in candidates if load.what.startswith("unique prompts"))
    told = gain(found, unique, TABLES, NOISE)
    assert told.pins()[0] == "prefill_gemm"
    assert told.sd[NAMES.index("prefill_gemm")] < 0.5 * found.sd[NAMES.index("prefill_gemm")]


def test_gains_are_ranked_and_never_negative(found: Posterior, problem: Problem) -> None:
    noise = noise_of(problem, to_coordinates(found.values))
    # 600 requests know a scatter to some 5 %; when in a step a request came no fit knows, and adds to that of TTFT.
    assert noise.decode == pytest.approx(NOISE.decode, rel=0.25)
    assert 0.9 * NOISE.ttft < noise.ttft < 1.6 * NOISE.ttft
    told = gains(found, small_loads(PLENTY, TABLES, found.values), TABLES, noise)
    assert [one.nats for one in told] == sorted((one.nats for one in told), reverse=True)
    for one in told:
        assert one.nats > 0
        assert 0 < one.seconds < 600
        assert np.all(one.sd <= found.sd * (1 + 1e-9))
        assert one.removed[NAMES.index("communication")] == pytest.approx(0, abs=1e-6)
    again = gains(found, small_loads(PLENTY, TABLES, found.values), TABLES, noise)
    assert [(one.what, one.nats) for one in told] == [(one.what, one.nats) for one in again]


def test_a_gain_is_what_a_fit_with_the_load_finds(run: Run, found: Posterior) -> None:
    (unique,) = (load for load in small_loads(PLENTY, TABLES, found.values) if load.what.startswith("unique prompts"))
    told = gain(found, unique, TABLES, NOISE)
    both = fit_parameters([Selection.between(one) for one in (run, served(unique.run, 9))], TABLES)
    # The values differ by what the load taught, and the scatter of 60 requests by a tenth.
    np.testing.assert_allclose(told.sd, both.sd, rtol=0.25)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_num_seqs": 1},
        {"max_num_seqs": 1024},
        {"max_model_len": 64},
        {"num_gpu_blocks": 20},
        {"prefix_caching": False, "async_scheduling": False},
    ],
    ids=str,
)
def test_loads_are_small_unique_and_fit_their_server(changes: dict[str, int]) -> None:
    server = replace(PLENTY, **changes)
    for load in small_loads(server, TABLES, PRIOR_VALUES):
        result = replay(load.run, TABLES, Parameters.of(PRIOR_VALUES))  # raises for a request that can never run
        assert len(load.run) <= 300
        assert np.all(load.run.prefix_group == -1)
        assert np.all(np.diff(load.run.arrival_us) >= 0)
        assert np.max(load.run.arrival_us + result.e2e_us) < 600e6
        assert result.schedule.steps.requests.max() <= server.max_num_seqs


def test_groups_do_not_meet(found: Posterior) -> None:
    """One request at a time is one request a step."""
    for load in small_loads(PLENTY, TABLES, found.values):
        if "one at a time" in load.what or load.what.startswith("one request"):
            assert replay(load.run, TABLES, Parameters.of(found.values)).schedule.steps.requests.max() == 1


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RunFolder(rows=requests(60)).write(tmp_path_factory.mktemp("run") / "toy")


@pytest.fixture
def two_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the twenty that such a run needs, for a second each."""
    monkeypatch.setattr("roofml.calibration.identification.unsure", lambda known: ("communication", "growth_256"))


@pytest.mark.usefixtures("two_profiles")
def test_identify_says_what_is_known(folder: Path) -> None:
    document = ok("identify", folder, "--gpu", "H100", "--prior", "package", "--json").document
    assert [one["name"] for one in document["parameters"]] == list(NAMES)
    shares = {one["name"]: one["decided_pct"] for one in document["parameters"]}
    assert shares["communication"] == pytest.approx(0, abs=1e-6)
    decided = [one["decided_pct"] for one in document["directions"]]
    assert document["effective_parameters"] == pytest.approx(sum(decided) / 100)
    unknown = next(one for one in document["parameters"] if one["name"] == "communication")
    assert unknown["profile_of_data"] == {"low": None, "high": None}
    narrows = [load["narrows_pct"] for load in document["loads"]]
    assert narrows == sorted(narrows, reverse=True)
    assert 0 < narrows[0] < 100
    assert all(load["nats"] > 0 for load in document["loads"])
    assert set(document["loads"][0]["posterior_sd"]) == set(NAMES)


@pytest.mark.usefixtures("two_profiles")
def test_identify_prints_tables(folder: Path) -> None:
    said = ok("identify", folder, "--gpu", "H100", "--train-fraction", 0.6).out
    for word in ("communication", "combinations that the data decide", "nats/min", "unique prompts"):
        assert word in said


def test_identify_refuses_bad_input(folder: Path, tmp_path: Path) -> None:
    assert "--train-fraction" in fails("identify", folder, "--gpu", "H100", "--train-fraction", 0).err
    assert "--gpu" in fails("identify", folder).err
    assert "no such file" in fails("identify", tmp_path / "none").err
