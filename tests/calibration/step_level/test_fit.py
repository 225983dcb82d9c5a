"""Cycle times, contexts and the fit to them, on steps sampled from replays whose truth is known; and on real tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fitted import measured_again
from sampled import columns_of, table

from roofml.calibration.prior import PACKAGE
from roofml.calibration.step_level.batches import cycle_steps
from roofml.calibration.step_level.contexts import contexts, match
from roofml.calibration.step_level.fit import StepData, first_share, fit_steps
from roofml.engine.replay import Schedule, replay
from roofml.latency.deployment import Deployment, deploy, deployment_of
from roofml.latency.formula import step_times
from roofml.latency.parameters import NAMES, PRIOR_SD, PRIOR_VALUES, Parameters, to_coordinates
from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.traces.steps import read_steps
from roofml.traces.steps.cycles import cycles
from roofml.traces.steps.sampling import IMPROBABLE, sampling
from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.validation.demo import GPU, MODEL, TP, synthetic_run
from roofml.validation.step_report import judge, predicted_us

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def where() -> Deployment:
    return deploy(MODEL, GPU, TP, budget=2048)


@pytest.fixture(scope="module")
def truth() -> Floats:
    """Weights two standard deviations slower than the prior says, keys and values two, and dearer prompts."""
    values = PRIOR_VALUES.copy()
    for name, value in {"weights": 1.12, "kv_cache": 1.08, "prefill_gemm": 1.5}.items():
        values[NAMES.index(name)] = value
    return values


@pytest.fixture(scope="module")
def run(where: Deployment, truth: Floats) -> Run:
    return synthetic_run(np.random.default_rng(5), where, truth)


@pytest.fixture(scope="module")
def schedule(where: Deployment, truth: Floats, run: Run) -> Schedule:
    return replay(run, where.tables, Parameters.of(truth)).schedule


@pytest.fixture(scope="module")
def steps(schedule: Schedule) -> SampledSteps:
    return table(columns_of(schedule, 0.1))


def by_hand(ids: list[int], starts_ms: list[float], decodes: list[int]) -> SampledSteps:
    """A table of decode steps."""
    count = len(ids)
    zero = np.zeros(count, np.int64)
    start = (1e6 * np.array(starts_ms)).astype(np.int64)
    d = np.array(decodes)
    fields = {"id": np.array(ids), "start_ns": start, "end_ns": start, "decode_requests": d, "decode_tokens": d}
    rest = ("call_us", "running", "waiting", "prefill_requests", "prefill_tokens", "finished", "preempted")
    return table(
        fields | dict.fromkeys(rest, zero) | {"scheduled_tokens": d, "blocks_total": zero + 9, "blocks_free": zero}
    )


def test_a_cycle_is_the_mean_time_between_neighbours() -> None:
    found = cycles(by_hand([10, 11, 14, 30, 31, 32], [0, 10, 46, 300, 310, 900], [1, 1, 1, 1, 0, 1]), ahead=0)
    assert found.before.tolist() == [0, 1]  # 16 steps apart says nothing, and beside an empty step the load waited
    assert found.time_us.tolist() == [10_000, 12_000]
    assert found.count.tolist() == [1, 3]
    assert (found.apart, found.idle) == (1, 2)


def test_with_async_scheduling_the_time_is_that_of_the_step_before() -> None:
    steps = by_hand([10, 12], [0, 20], [1, 1])
    assert cycles(steps, ahead=0).first.tolist() == [10]
    assert cycles(steps, ahead=1).first.tolist() == [9]


def test_no_pair_of_neighbours_is_an_error() -> None:
    with pytest.raises(InputError, match="no two neighbouring steps of a busy server"):
        cycles(by_hand([10, 20], [0, 20], [1, 1]), ahead=0)


def test_a_fully_sampled_table_gives_back_the_steps_themselves(
    where: Deployment, run: Run, schedule: Schedule, truth: Floats
) -> None:
    """Every step of a busy stretch, with contexts as they were: predicted cycle times are the replayed step times."""
    everything = table(columns_of(schedule, 1.0))
    found = cycles(everything, ahead=1)
    means = contexts(everything, "replay", run, schedule, 1)
    made = cycle_steps(everything, found, means, 2048)
    single = found.count == 1
    np.testing.assert_allclose(made.mean(np.ones(len(made.weight))), 1.0)  # a cycle's shares sum to one
    predicted = made.mean(step_times(where.tables, made.steps, Parameters.of(truth).step))
    # Where the server idles before a step its start is no step's end; contexts are means over neighbours: 0.1 %.
    busy = np.abs(schedule.step_start_us[1:] - (schedule.step_start_us + schedule.step_time_us)[:-1])[:-1] < 1
    row = found.first - 40
    sure = single & busy[np.clip(row, 0, len(busy) - 1)] & busy[np.clip(row - 1, 0, len(busy) - 1)]
    assert sure.sum() > 1000
    assert np.median(np.abs(predicted / found.time_us - 1)[sure]) < 1e-3


def test_the_replay_finds_when_a_table_began_and_what_its_requests_had(
    steps: SampledSteps, run: Run, schedule: Schedule
) -> None:
    clock = match(steps, schedule)
    first = steps.id[0] - 40
    # The offset is searched on a grid of 5 ms, and 0.1 s later batches of this load are still much alike.
    assert clock.offset_us == pytest.approx(schedule.step_start_us[first - 1], abs=1e5)
    found = contexts(steps, "replay", run, schedule, 1)
    rows = steps.id - 40
    true = schedule.steps.decode_context[rows] / np.maximum(schedule.steps.decode_tokens[rows], 1)
    some = schedule.steps.decode_tokens[rows] > 0
    assert np.median(np.abs(found.decode / true - 1)[some]) < 0.02
    assert np.median(np.abs(contexts(steps, "mean", run, None, 1).decode / true - 1)[some]) < 0.2
    shared = np.median(np.abs(contexts(steps, "kv", run, None, 1).decode / true - 1)[some])
    assert shared < 0.05  # nothing is shared here, or counted once


def test_a_table_of_another_run_is_refused(steps: SampledSteps, run: Run, where: Deployment, truth: Floats) -> None:
    short = run.take(np.arange(len(run)) < 40)
    with pytest.raises(InputError, match="not a table of this run"):
        match(steps, replay(short, where.tables, Parameters.of(truth)).schedule)


def test_a_fit_to_cycles_alone_recovers_step_times_and_never_looks_at_a_latency(
    where: Deployment, run: Run, schedule: Schedule, steps: SampledSteps, truth: Floats
) -> None:
    """Times of all steps, not those sampled alone, within 1 % of the truth in the median, where the prior is further
    off; intervals hold. (Single cycles are not met as closely: most of their steps were not sampled.)"""
    unknown = np.full(len(run), np.nan)
    blind = measured_again(run, ttft_us=unknown, e2e_us=unknown)
    data = StepData(steps, 0)
    found = fit_steps([data], [blind], where.tables, train_fraction=0.6)
    seen = fit_steps([data], [run], where.tables, train_fraction=0.6)
    assert found.values.tobytes() == seen.values.tobytes()
    assert found.requests == 0

    def error_pct(values: Floats, pace: float = 1.0) -> float:
        times = step_times(where.tables, schedule.steps, Parameters.of(values).paced(pace).step)
        return 100 * float(np.median(np.abs(times / schedule.step_time_us - 1)))

    assert error_pct(found.values, found.paces[blind.identity]) < 1.0 < error_pct(PACKAGE.values)
    off = np.abs(to_coordinates(found.values) - to_coordinates(truth)) / np.maximum(found.sd, 1e-12)
    identified = [name not in found.not_identified for name in NAMES]
    assert np.all(off[identified] < 3)  # a few parameters: one in a hundred seeds would not


def test_a_joint_fit_learns_from_both_and_only_from_what_was_answered_in_time(
    where: Deployment, run: Run, steps: SampledSteps
) -> None:
    data = StepData(steps, 0)
    together = fit_steps([data], [run], where.tables, train_fraction=0.5, requests=True)
    assert 0 < together.requests < 0.6 * len(run)
    alone = fit_steps([data], [run], where.tables, train_fraction=0.5)
    queueing = NAMES.index("queueing_us")
    assert alone.sd[queueing] == pytest.approx(PRIOR_SD[queueing], rel=1e-6)  # no cycle says when a request came
    assert together.sd[queueing] < 0.9 * PRIOR_SD[queueing]


def test_held_out_cycles_are_those_after_the_share(steps: SampledSteps, run: Run) -> None:
    data = StepData(steps, 0)
    inside = first_share(data, run, 0.6)
    assert inside[: int(inside.sum())].all()
    assert 0.5 < inside.mean() < 0.7
    with pytest.raises(InputError, match="no cycle in the first"):
        first_share(data, run, 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_uniform_sample_is_called_uniform(schedule: Schedule, seed: int) -> None:
    """Each seed errs once in a thousand, by definition."""
    found = sampling(table(columns_of(schedule, 0.1, seed)))
    assert found.uniform
    assert found.share == pytest.approx(0.1, abs=0.03)


def test_samples_that_are_not_uniform_are_found(schedule: Schedule) -> None:
    columns = columns_of(schedule, 0.3)
    half = {name: values[: len(values) // 2] for name, values in columns.items()}
    rest = {name: values[len(values) // 2 :: 4] for name, values in columns.items()}
    fewer = table({name: np.concatenate((half[name], rest[name])) for name in columns})
    assert sampling(fewer).parts_p < IMPROBABLE
    every_third = columns_of(schedule, 1.0)
    regular = table({name: values[::3] for name, values in every_third.items()})
    assert sampling(regular).gaps_p < IMPROBABLE


TABLES = ("20260217-202857-llama-2-70b-tp4-general", "20260218-150304-codellama-34b-tp2-general")


@pytest.mark.parametrize("name", TABLES)
def test_real_cycle_times_are_met_without_a_fit_and_closer_with_one(shared: Path, name: str) -> None:
    """Without a fit: at most 6 % median (measured 5.2 and 2.0). On the last 40 % of the steps, after a fit to the
    first 60 %: at most 5 % (1.7 and 1.3), with contexts from the replay and with one mean."""
    pytest.importorskip("pyarrow")
    path = shared / "steps" / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"no {path}")
    run = read_run(shared / "groundtruth" / name, gpu="H100")
    tables = deployment_of([run]).tables
    for source in ("replay", "mean"):
        data = StepData(read_steps(path), 0, source)
        assert judge(data, run, tables, Parameters.of(PACKAGE.values)).median_abs_error_pct < 6
        found = fit_steps([data], [run], tables, train_fraction=0.6)
        after = judge(data, run, tables, Parameters.of(found.values), 0.6)
        assert after.median_abs_error_pct < 2.5
        assert after.pearson_r > 0.8


def test_predictions_and_measurements_have_one_value_a_cycle(
    where: Deployment, run: Run, steps: SampledSteps, truth: Floats
) -> None:
    predicted, measured = predicted_us(StepData(steps, 0), run, where.tables, Parameters.of(truth))
    assert predicted.shape == measured.shape == (len(cycles(steps, 1)),)
    assert np.all(predicted > 0)
