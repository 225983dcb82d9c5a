"""What a step without a CUDA graph pays for its launches, and that no other does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from roofml.calibration.calibrate import physics
from roofml.calibration.objective import step_columns, times_and_gradients
from roofml.latency.batch import Batch, StepSums
from roofml.latency.deployment import deploy
from roofml.latency.formula import step_times
from roofml.latency.launches import COMPILED_US, EAGER_US, drawn_launches, launches_us, said_of_launches
from roofml.latency.parameters import PRIOR_VALUES, Parameters

SMALL = "qwen2.5-0.5b-instruct"
STEP = Parameters.of(PRIOR_VALUES).step


def decodes(*counts: int) -> StepSums:
    """One step for each count of requests that decode after 100 tokens."""
    sums = [Batch(decode=[(100, count)]).sums() for count in counts]
    return StepSums.from_columns(np.concatenate([one.columns() for one in sums]))


def test_steps_that_fit_the_graphs_are_the_same_to_the_bit() -> None:
    tables = deploy(SMALL, "H100", 1).tables
    steps = decodes(1, 8, 100, 256)
    free = step_times(tables._replace(launches_us=0.0), steps, STEP)
    assert step_times(tables, steps, STEP).tolist() == free.tolist()
    assert said_of_launches(free, steps.new_tokens, tables) == []


def test_launches_are_a_floor_of_what_no_graph_runs() -> None:
    tables = deploy(SMALL, "H100", 1).tables
    assert tables.launches_us == launches_us(24, (1, 2)) == 24 * COMPILED_US
    steps = decodes(256, 257, 2000)
    free = step_times(tables._replace(launches_us=0.0), steps, STEP)
    times = step_times(tables, steps, STEP)
    assert times.tolist() == [free[0], *np.maximum(free[1:], tables.launches_us)]
    assert times[1] > free[1]
    assert said_of_launches(times, steps.new_tokens, tables)[0].startswith("33.3 % of steps run without a CUDA graph")


def test_a_large_model_hides_them() -> None:
    tables = deploy("llama-2-70b-hf", "H100", 4).tables
    steps = decodes(257, 1000)
    free = step_times(tables._replace(launches_us=0.0), steps, STEP)
    assert step_times(tables, steps, STEP).tolist() == free.tolist()


def test_an_eager_server_pays_them_in_every_step_and_says_so_with_an_interval() -> None:
    graphs, eager = deploy(SMALL, "H100", 1), deploy(SMALL, "H100", 1, graphs=())
    assert eager.tables.launches_us == 24 * EAGER_US
    calibration = replace(physics(SMALL, "H100"), deployment=eager)
    step = calibration.step_time(Batch(decode=[(100, 8)]))
    assert step.total_us == pytest.approx(24 * EAGER_US)
    interval = step.interval_us
    assert interval is not None
    assert interval[0] < 0.6 * step.total_us < 1.8 * step.total_us < interval[1]
    assert any("450 µs a layer" in text for text in step.outside)
    captured = replace(calibration, deployment=graphs).step_time(Batch(decode=[(100, 8)]))
    assert captured.total_us < 0.5 * step.total_us
    assert not any("CUDA graph" in text for text in captured.outside)


def test_the_fit_sees_the_same_times_and_no_slope_where_launches_decide() -> None:
    tables = deploy(SMALL, "H100", 1).tables
    steps = decodes(10, 300)
    times, gradients = times_and_gradients(np.array(STEP), step_columns(steps, tables), tables)
    assert times[:2] == pytest.approx(step_times(tables, steps, STEP), rel=1e-12)
    assert np.any(gradients[:, 0] != 0)
    assert not np.any(gradients[:, 1])


def test_drawn_launches_are_the_same_every_time_and_around_the_published_ones() -> None:
    tables = deploy(SMALL, "H100", 1).tables
    drawn = np.array([each.launches_us for each in drawn_launches(tables, 4000)])
    assert drawn.tolist() == [each.launches_us for each in drawn_launches(tables, 4000)]
    assert np.median(drawn) == pytest.approx(tables.launches_us, rel=0.05)
    assert np.percentile(drawn, 84) / np.median(drawn) == pytest.approx(np.exp(0.5), rel=0.05)
