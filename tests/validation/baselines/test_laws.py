"""Every baseline on made-up runs: it learns what is there to learn, and its step times are such as a replay can use."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
from fitted import measured_again
from quickness import assert_within
from synthetic import BUDGET, PLENTY, run_of

from roofml.blis.deployment import blis_deployment_of
from roofml.blis.latency import BlisSteps, roofline_times_us, step_times_us
from roofml.engine.replay import replay_with
from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.components import COMPONENTS
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.parameters import RequestParameters
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.validation.baselines import BASELINES, BaselineModel, Samples, Trained
from roofml.validation.baselines.baseline import Served
from roofml.validation.baselines.blackbox import betas
from roofml.validation.baselines.blis_laws import BETAS, blis_steps, roofline, trained_physics
from roofml.validation.baselines.boosted_trees import FEATURES, GROWING, features_of, forest_of, grow, predict
from roofml.validation.baselines.expressions import Join, Leaf, Node, evaluate
from roofml.validation.baselines.physics import columns_of, parts_of
from roofml.validation.baselines.samples import sampled
from roofml.validation.baselines.symbolic import knee, refitted, search

pytestmark = pytest.mark.slow

MODEL = "llama-2-7b-hf"
NEEDS = {
    "two-regime-ridge": "sklearn",
    "three-regime-ridge": "sklearn",
    "bayesian-ridge": "sklearn",
    "boosted-trees": "xgboost",
}
QUEUEING = 6000.0


def named(name: str) -> str:
    """The name; skips where the baseline's library is missing."""
    library = NEEDS.get(name)
    if library and find_spec(library) is None:
        pytest.skip(f"{name} needs {library}, which is not installed")
    return name


@cache
def deployment() -> Deployment:
    return deploy(MODEL, "H100", 1, BUDGET)


@cache
def requests() -> Run:
    """400 requests of unlike sizes, the rate rising and falling so that batches differ."""
    random = np.random.default_rng(7)
    gaps = random.exponential(60_000, 400) * (1.2 + np.sin(np.arange(400) / 40))
    rows = [(float(at), int(random.integers(20, 700)), int(random.integers(20, 150))) for at in np.cumsum(gaps)]
    return run_of(rows, replace(PLENTY, model=MODEL, gpu="H100", fresh=False))


def measured(times: StepTimes) -> Run:
    """The requests with the latencies that a server whose steps take so long would have shown."""
    run = requests()
    served = replay_with(run, times, RequestParameters(QUEUEING, 0.0, 0.0))
    return measured_again(run, ttft_us=served.ttft_us, e2e_us=served.e2e_us)


def learned_from(times: StepTimes) -> list[Samples]:
    return [sampled(Selection.between(measured(times)), deployment())]


def physics(steps: StepSums) -> Floats:
    """About what a server takes."""
    return columns_of(deployment().tables, steps).sum(axis=1) + 2000.0 + 10.0 * steps.requests


@cache
def samples() -> list[Samples]:
    return learned_from(physics)


@cache
def trained(name: str) -> Trained:
    return BASELINES[name].train(samples(), 0)


def served(name: str) -> Served:
    return BaselineModel(trained(name), deployment()).replay(samples()[0].run)


def times_of(name: str) -> StepTimes:
    return BaselineModel(trained(name), deployment()).step_times(requests())


def any_steps() -> StepSums:
    """Decodes alone, prompts alone and both, small and as large as the server allows."""
    decodes = [(1, 900, 300)]
    chunk = [(200, 0, 200)]
    return StepSums.from_requests(
        [decodes, chunk, decodes + chunk, decodes * 128, decodes * 127 + chunk, [(BUDGET, 2000, 9000)], [(1, 0, 5)]]
        + [[(1, 4000, 20)] * n for n in (8, 64, 128)]
    )


def blackbox_times(steps: StepSums) -> Floats:
    return 8000.0 + 12.0 * steps.prefill_tokens + 90.0 * steps.decode_tokens


def test_a_request_waits_for_the_mean_of_its_steps() -> None:
    (s,) = learned_from(blackbox_times)
    constant = s.request_means(np.ones((s.schedule.steps.length, 1)))
    assert np.allclose(constant, 1.0)
    assert len(s.pace_us) == len(requests())
    shown = s.step_us[np.isfinite(s.step_us)]
    assert s.pace_us.min() * (1 - 1e-9) <= shown.min() <= shown.max() <= s.pace_us.max() * (1 + 1e-9)


def test_a_request_that_failed_or_came_in_one_piece_teaches_no_pace() -> None:
    run = measured(blackbox_times)
    ttft, e2e, ok = run.ttft_us.copy(), run.e2e_us.copy(), run.ok.copy()
    ok[3], ttft[3], e2e[3] = False, np.nan, np.nan
    e2e[5] = ttft[5]
    s = sampled(Selection.between(measured_again(run, ttft_us=ttft, e2e_us=e2e, ok=ok)), deployment())
    assert set(np.flatnonzero(~s.paced)) == {3, 5}
    assert np.isfinite(s.pace_us).all()


def test_the_naive_mean_is_the_mean_and_finds_the_queueing() -> None:
    found = BASELINES["naive-mean"].train(learned_from(lambda steps: np.full(steps.length, 9000.0)), 0)
    times = found.step_times(requests(), deployment())(any_steps())
    assert times == pytest.approx(9000.0, rel=2e-3)  # the schedule is our physics' own, not the run's
    assert found.request.queueing_us == pytest.approx(QUEUEING, rel=0.05)


def test_blackbox_recovers_its_betas() -> None:
    constant, prefill, decode = betas(learned_from(blackbox_times))
    assert constant == pytest.approx(8000.0, rel=0.05)
    assert prefill == pytest.approx(12.0, rel=0.15)
    assert decode == pytest.approx(90.0, rel=0.15)


def test_direct_calibration_has_the_measured_mean_e2e() -> None:
    (s,) = samples()
    assert served("direct-calibration").e2e_us.mean() == pytest.approx(s.run.e2e_us.mean(), rel=2e-4)
    assert trained("direct-calibration").request == RequestParameters(0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", [n for n in BASELINES if n in NEEDS or n in {"blackbox", "symbolic"}])
def test_what_regresses_is_right_on_what_it_learned_from(name: str) -> None:
    (s,) = samples()
    predicted = served(named(name))
    # About what the form allows; trees and batches that are few make the difference.
    assert predicted.e2e_us.mean() == pytest.approx(s.run.e2e_us.mean(), rel=0.05)
    assert predicted.ttft_us.mean() == pytest.approx(s.run.ttft_us.mean(), rel=0.25)


@pytest.mark.parametrize("name", BASELINES)
def test_step_times_are_finite_positive_and_pure(name: str) -> None:
    times_in = times_of(named(name))
    steps = any_steps()
    before = [np.array(column) for column in steps]
    times = times_in(steps)
    assert times.shape == (steps.length,)
    assert np.isfinite(times).all()
    assert (times > 0).all()
    assert all(map(np.array_equal, before, steps))
    one_by_one = [times_in(steps.step(i))[0] for i in range(steps.length)]
    assert one_by_one == pytest.approx(times, rel=1e-6, abs=1.0)


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_samples_and_seed_teach_the_same(name: str) -> None:
    first, second = trained(named(name)), BASELINES[name].train(samples(), 0)
    assert replace(first, step_times=second.step_times) == second
    times: list[Floats] = [each.step_times(requests(), deployment())(any_steps()) for each in (first, second)]
    assert np.array_equal(times[0], times[1])


@pytest.mark.parametrize("name", BASELINES)
def test_a_step_of_128_requests_takes_less_than_a_millisecond(name: str) -> None:
    times = times_of(named(name))
    step = StepSums.from_requests([[(1, 900, 300)] * 128])
    times(step)  # compiles

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(20):
            times(step)
        return (time.perf_counter() - start) / 20

    assert_within(min(timed() for _ in range(5)), 1e-3)


def test_blis_laws_are_those_of_blis() -> None:
    blis = blis_deployment_of(requests())
    # Requests of one step alike, and prompts in their last chunk: then nothing in BlisSteps is an approximation.
    batches = [
        [(1, 900, 300)],
        [(200, 0, 200)] * 3,
        [(64, 500, 564)] * 2 + [(1, 900, 300)] * 20,
        [(1, 4000, 20)] * 128,
    ]
    steps = StepSums.from_requests(batches)
    theirs = BlisSteps.from_batches([[(prompt, 10, context, new) for new, context, prompt in b] for b in batches])
    ours = blis_steps(steps)
    for field in fields(ours):
        assert getattr(ours, field.name) == pytest.approx(getattr(theirs, field.name)), field.name
    # Whole µs: constants multiplied out may round the other way.
    assert roofline(blis)(steps) == pytest.approx(roofline_times_us(blis, theirs), abs=1)
    expected = step_times_us(blis, theirs, (*BETAS, BETAS[3]))
    assert trained_physics(blis)(steps) == pytest.approx(expected, abs=1)


def test_blis_adds_its_alphas_to_latencies_alone() -> None:
    found = trained("blis-trained-physics")
    model = BaselineModel(found, deployment())
    predicted = model.replay(requests())
    bare = replay_with(requests(), model.step_times(requests()), found.request)
    assert predicted.ttft_us - bare.ttft_us == pytest.approx(45.0)
    assert predicted.e2e_us - bare.e2e_us == pytest.approx(45.0 * requests().output_tokens + 777.0)


def index(name: str) -> int:
    return COMPONENTS.index(name)


PLANTED: dict[str, Node] = {
    "max": Join("max", Leaf(index("weights")), Leaf(index("kv_cache")), 8.0),
    "sum": Join("sum", Leaf(index("weights")), Leaf(index("kv_cache")), 2.0),
}
"""Reading keys and values passes the weights at about ten requests: in the middle of the batches there are."""


@pytest.mark.parametrize("planted", PLANTED)
def test_the_search_finds_a_planted_expression(planted: str) -> None:
    def times(steps: StepSums) -> Floats:
        return 1.3 * evaluate(PLANTED[planted], columns_of(deployment().tables, steps))

    # Their own schedule, so that nothing but the search can be wrong.
    run = measured(times)
    schedule = replay_with(run, times, RequestParameters(QUEUEING, 0.0, 0.0)).schedule
    teaches = [Samples(deployment(), run, run.ok, schedule, schedule.step_time_us)]
    front = search(teaches, 0)
    for smaller, larger in pairwise(front):
        assert smaller.size < larger.size
        assert smaller.validation_error_pct > larger.validation_error_pct
    found = refitted(knee(front), teaches)
    assert found.error_pct < 2.0, str(found)
    assert planted != "max" or any(way in str(found) for way in ("max", "norm")), str(found)
    steps = StepSums.from_requests([[(1, 400, 300)] * n for n in (4, 8, 12, 20)])
    assert found.times_us(columns_of(deployment().tables, steps)) == pytest.approx(times(steps), rel=0.05)


def test_expressions_join_as_they_say() -> None:
    parts = np.zeros((1, len(COMPONENTS)))
    parts[0, :2] = 3.0, 2.0
    values = {how: evaluate(Join(how, Leaf(0), Leaf(1), 2.0), parts)[0] for how in ("sum", "norm2", "norm4", "max")}
    assert values == pytest.approx({"sum": 7.0, "norm2": 5.0, "norm4": 337**0.25, "max": 4.0})


def test_one_step_has_the_components_of_many() -> None:
    steps, parts = any_steps(), parts_of(deployment().tables)
    for i in range(steps.length):
        assert parts(steps.step(i)) == pytest.approx(parts(steps)[i : i + 1], rel=1e-12)


def test_trees_are_thirty_features_and_rise_with_those_that_cannot_shorten_a_step() -> None:
    named("boosted-trees")
    assert len(FEATURES) == 30
    forest, start = grow(samples(), 0)
    rows = features_of(deployment())(any_steps())
    for column in range(len(GROWING)):
        more = rows.copy()
        more[:, column] *= 1.5
        assert (predict(forest, more, start) >= predict(forest, rows, start)).all(), FEATURES[column]


def test_our_trees_are_those_of_xgboost() -> None:
    named("boosted-trees")
    import xgboost

    random = np.random.default_rng(0)
    x = random.random((500, 3)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + random.normal(0, 0.1, 500)
    booster = xgboost.train({"base_score": 0.0, "nthread": 1}, xgboost.DMatrix(x, y, nthread=1), 20)
    ours = predict(forest_of(booster.get_dump(dump_format="json")), x, 0.0)
    assert np.log(ours) == pytest.approx(booster.predict(xgboost.DMatrix(x, nthread=1)), abs=1e-5)


def test_trees_learn_from_the_steps_that_requests_show() -> None:
    named("boosted-trees")
    forest, start = grow(samples(), 0)
    assert np.exp(start) == pytest.approx(np.nanmean(samples()[0].step_us), rel=0.2)
    assert features_of(deployment())(any_steps()).shape == (any_steps().length, 30)
    assert forest.feature.max() < 30


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> Callable[..., object]:
        raise ImportError(module)

    monkeypatch.setattr("roofml.validation.baselines.baseline.import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'roofml\[baselines\]'"):
        BASELINES[name].train(samples(), 0)
