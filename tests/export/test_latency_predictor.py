"""Rows for llm-d's latency predictor: the queue as each request came, counted again one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted import a_calibration, a_run
from pydantic import BaseModel, ConfigDict, Field
from served import served

from roofml.engine.replay import Replay
from roofml.export.latency_predictor import export_latency_predictor, parse_rates, queue_at_arrival, rows_of
from roofml.export.subject import Lengths, Subject, read_subject
from roofml.traces.run import Run
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError


class TrainingEntry(BaseModel):
    """training_server.py of llm-d/llm-d-latency-predictor (2026); strict, so that a count is a count."""

    model_config = ConfigDict(extra="forbid", strict=True)
    kv_cache_percentage: float = Field(..., ge=0.0, le=1.0)
    input_token_length: int = Field(..., ge=0)
    num_request_waiting: int = Field(..., ge=0)
    num_request_running: int = Field(..., ge=0)
    actual_ttft_ms: float = Field(..., ge=0.0)
    actual_tpot_ms: float = Field(..., ge=0.0)
    num_tokens_generated: int = Field(..., ge=0)
    prefix_cache_score: float = Field(..., ge=0.0, le=1.0)
    pod_type: str | None = ""
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class BulkTrainingRequest(BaseModel):
    """What /add_training_data_bulk takes."""

    entries: list[TrainingEntry]


def crowded(**server: Any) -> tuple[Run, Replay]:
    """A run of which many requests wait, and its replay."""
    run = served(120)
    run = replace(run, arrival_us=run.arrival_us / 40, server=replace(run.server, max_num_seqs=8, **server))
    return run, a_calibration([run]).replay(run)


def subject_of(run: Run) -> Subject:
    lengths = Lengths(run.prompt_tokens, run.output_tokens, "test")
    return Subject(a_calibration([run]), run.server, lengths, run)


@pytest.mark.parametrize("ahead", [False, True])
def test_the_queue_is_what_counting_gives(ahead: bool) -> None:
    run, replayed = crowded(async_scheduling=ahead, fresh=False)
    queue, schedule = queue_at_arrival(run, replayed), replayed.schedule
    size, end = run.server.block_size, schedule.step_start_us + schedule.step_time_us
    assert queue.waiting.max() > 5
    assert (queue.running == schedule.running_at_arrival).all()
    for i in range(len(run)):
        now, there, working, blocks = run.arrival_us[i], 0, 0, 0
        for j in range(i):
            first, last = schedule.first_step[j], schedule.last_step[j]
            if end[last] <= now:
                continue
            there += 1
            if schedule.step_start_us[max(0, first - ahead)] > now or schedule.queued_us[j] > now:
                continue  # every prompt here is one chunk
            working += 1
            made = max(0, int(np.searchsorted(schedule.step_start_us, now, side="right")) - 1 - first)
            blocks += -(-(run.prompt_tokens[j] + made) // size)
        assert queue.waiting[i] == there - queue.running[i]
        assert abs(working - queue.running[i]) <= run.server.max_num_seqs
        assert queue.kv_share[i] == pytest.approx(blocks / run.server.num_gpu_blocks)


def test_the_requests_that_hold_blocks_are_those_that_run() -> None:
    """Counted from first tokens on the one side, by the scheduler itself on the other."""
    run, replayed = crowded(fresh=False)
    queue = queue_at_arrival(run, replayed)
    blocks = queue.kv_share * run.server.num_gpu_blocks
    held = -(-(run.prompt_tokens + run.output_tokens) // run.server.block_size)
    assert (blocks <= queue.running.max() * held.max()).all()
    assert np.corrcoef(blocks, queue.running)[0, 1] > 0.8


def test_an_idle_server_has_no_queue() -> None:
    run = a_run(10)
    run = replace(run, arrival_us=1e8 * np.arange(10.0))
    queue = queue_at_arrival(run, a_calibration([run]).replay(run))
    assert queue.waiting.sum() == queue.running.sum() == queue.kv_share.sum() == 0


def test_blocks_that_requests_share_count_once() -> None:
    run, _ = crowded()
    alike = replace(run, prefix_group=np.zeros(len(run), np.int64), prefix_tokens=np.full(len(run), 48))
    calibration = a_calibration([run])
    replayed = calibration.replay(alike)
    apart = queue_at_arrival(replace(alike, prefix_group=np.full(len(run), -1)), replayed)
    queue = queue_at_arrival(alike, replayed)
    blocks = np.rint((apart.kv_share - queue.kv_share) * run.server.num_gpu_blocks)
    assert blocks.max() == 3 * (run.server.max_num_seqs - 1)
    assert (blocks % 3 == 0).all()
    assert (blocks <= 3 * np.maximum(queue.running - 1, 0)).all()


def test_rows_have_measured_latencies_or_replayed_ones() -> None:
    run, replayed = crowded()
    measured, predicted = rows_of(run, replayed), rows_of(run, replayed, predicted=True)
    assert measured.actual_ttft_ms == pytest.approx(run.ttft_us / 1e3)
    assert predicted.actual_ttft_ms == pytest.approx(replayed.ttft_us / 1e3)
    assert measured.actual_tpot_ms == pytest.approx(run.tpot_us / 1e3)
    assert (measured.features() == predicted.features()).all()


def test_failed_requests_and_single_tokens_are_left_out() -> None:
    run, _ = crowded()
    tokens = run.output_tokens.copy()
    tokens[3] = 1
    ok = run.ok.copy()
    ok[5] = False
    run = replace(run, output_tokens=tokens, ok=ok)
    replayed = a_calibration([run]).replay(run)
    assert len(rows_of(run, replayed)) == len(run) - 2
    assert len(rows_of(run, replayed, predicted=True)) == len(run) - 1


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_the_training_server_takes_the_file(name: str) -> None:
    run, _ = crowded()
    path = Path(name)
    exported = export_latency_predictor(subject_of(run), path)
    text = str(exported.files[path])
    document = (
        json.loads(text) if name == "rows.json" else {"entries": [json.loads(line) for line in text.split("\n")[:-1]]}
    )
    assert len(BulkTrainingRequest.model_validate(document).entries) == len(run)
    assert [loss.what for loss in exported.losses] == ["TTFT of a request", "TPOT of a request"]
    assert exported.losses[0].points == 48
    assert ("curl" in exported.use) is (name == "rows.json")


def test_few_rows_say_nothing_of_the_form() -> None:
    run = a_run(40)
    assert export_latency_predictor(subject_of(run), Path("rows.json")).losses == []


def test_loads_that_nobody_has_run(coefficients: Callable[..., Path]) -> None:
    subject = read_subject([coefficients()], ServerOverrides(max_num_seqs=32), (300, 40))
    path = Path("rows.json")
    exported = export_latency_predictor(subject, path, rates=[1, 20], requests=60)
    entries = BulkTrainingRequest.model_validate(json.loads(exported.files[path])).entries
    assert len(entries) == 120
    calm, busy = ([e.num_request_running for e in part] for part in (entries[:60], entries[60:]))
    assert np.mean(busy) > 3 * np.mean(calm)
    assert exported.files == export_latency_predictor(subject, path, rates=[1, 20], requests=60).files


def test_neither_run_nor_rate_is_refused(coefficients: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no run and no --rate"):
        export_latency_predictor(read_subject([coefficients()], ServerOverrides()), Path("rows.json"))


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1,", "1;2", ",".join(["1"] * 21), "1e9"])
def test_rates_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--rate"):
        parse_rates(text)
    assert parse_rates("1,2.5") == [1.0, 2.5]
