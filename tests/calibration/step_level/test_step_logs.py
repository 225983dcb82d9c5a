"""Step logs of a server whose truth is known: beside a client's file, or with contexts of their own, they say it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from roofml.calibration.step_level.contexts import match
from roofml.calibration.step_level.fit import StepData, fit_steps
from roofml.engine.replay import Schedule, replay
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.parameters import NAMES, PRIOR_VALUES, Parameters
from roofml.traces.run import Run
from roofml.traces.steps import read_steps
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.validation.demo import GPU, MODEL, TP, synthetic_run
from roofml.validation.step_report import judge

pytestmark = pytest.mark.slow

HOST_US = 400.0


@pytest.fixture(scope="module")
def where() -> Deployment:
    return deploy(MODEL, GPU, TP, budget=2048)


@pytest.fixture(scope="module")
def truth() -> Floats:
    values = PRIOR_VALUES.copy()
    for name, value in {"weights": 1.12, "kv_cache": 1.08}.items():
        values[NAMES.index(name)] = value
    return values


@pytest.fixture(scope="module")
def run(where: Deployment, truth: Floats) -> Run:
    return synthetic_run(np.random.default_rng(5), where, truth)


@pytest.fixture(scope="module")
def schedule(where: Deployment, truth: Floats, run: Run) -> Schedule:
    return replay(run, where.tables, Parameters.of(truth)).schedule


@pytest.fixture(scope="module")
def iteration_log(schedule: Schedule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As vLLM logs it: elapsed times lack what the host did."""
    steps, began = schedule.steps, datetime(2026, 12, 22, 21, 44, 40)
    path = tmp_path_factory.mktemp("log") / "server.log"
    with path.open("w") as file:
        for row in range(steps.length):
            took = float(schedule.step_time_us[row])
            end = began + timedelta(microseconds=float(schedule.step_start_us[row]) + took)
            decodes, prefills = int(steps.decode_tokens[row]), int(steps.requests[row] - steps.decode_tokens[row])
            file.write(
                f"(EngineCore_DP0 pid=1) INFO {end:%m-%d %H:%M:%S} [core.py:349] Iteration({row + 70}): {prefills} "
                f"context requests, {int(steps.prefill_tokens[row])} context tokens, {decodes} generation requests, "
                f"{decodes} generation tokens, iteration elapsed time: {max(took - HOST_US, 0) / 1e3:.2f} ms\n"
            )
    return path


@pytest.fixture(scope="module")
def forward_passes(schedule: Schedule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = schedule.steps
    path = tmp_path_factory.mktemp("fpm") / "fpm.msgpack"
    with path.open("wb") as file:
        for row in range(steps.length):
            decodes = int(steps.decode_tokens[row])
            scheduled: dict[str, Any] = {
                "num_prefill_requests": int(steps.requests[row]) - decodes,
                "sum_prefill_tokens": int(steps.prefill_tokens[row]),
                "var_prefill_length": 0.0,
                "sum_prefill_kv_tokens": int(steps.prefill_context[row]),
                "num_decode_requests": decodes,
                "sum_decode_kv_tokens": int(steps.decode_context[row]),
                "var_decode_kv_tokens": 0.0,
            }
            message = {"counter_id": row, "wall_time": float(schedule.step_time_us[row]) / 1e6}
            content = msgpack.packb(message | {"scheduled_requests": scheduled, "queued_requests": {}})
            assert content is not None
            file.write(content)
    return path


def test_a_log_beside_a_clients_file_is_matched_by_its_load(
    iteration_log: Path, schedule: Schedule, run: Run, where: Deployment, truth: Floats
) -> None:
    steps = read_steps(iteration_log)
    clock = match(steps, schedule)
    assert clock.offset_us == pytest.approx(float(schedule.step_start_us[0]), abs=1.5e6)
    assert clock.covered > 0.95
    report = judge(StepData(steps, 0), run, where.tables, Parameters.of(truth))
    assert report.median_abs_error_pct < 0.6
    assert abs(report.bias_pct) < 1.0


def test_a_log_of_another_run_is_refused(iteration_log: Path, run: Run, where: Deployment, truth: Floats) -> None:
    short = run.take(np.arange(len(run)) < 40)
    with pytest.raises(InputError, match="not a table of this run"):
        match(read_steps(iteration_log), replay(short, where.tables, Parameters.of(truth)).schedule)


def test_forward_passes_need_no_replay_for_their_contexts(
    forward_passes: Path, run: Run, where: Deployment, truth: Floats
) -> None:
    data = StepData(read_steps(forward_passes), 0, "snapshot")
    report = judge(data, run, where.tables, Parameters.of(truth))
    assert report.median_abs_error_pct < 0.3
    assert abs(report.bias_pct) < 0.5


@pytest.mark.parametrize("form", ["iteration_log", "forward_passes"])
def test_a_fit_to_a_log_alone_finds_the_times_of_steps(
    request: pytest.FixtureRequest, form: str, run: Run, where: Deployment, truth: Floats
) -> None:
    source = "replay" if form == "iteration_log" else "snapshot"
    data = StepData(read_steps(request.getfixturevalue(form)), 0, source)
    found = fit_steps([data], [run], where.tables)
    assert found.requests == 0
    report = judge(data, run, where.tables, Parameters.of(found.values).paced(found.paces[run.identity]))
    assert report.median_abs_error_pct < 0.6
    assert abs(report.bias_pct) < 1.0
