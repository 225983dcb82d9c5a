"""Prompts that another server computed: the schedule is that of vLLM's scheduler with a KV connector, step by step.

The files `kv-*` in data/schedules were recorded with `benchmarks/conformance_kv.py --record` beside two releases:
workloads drawn with seeds 5 (synchronous) and 6 (asynchronous), those of fewer than 1,200 steps.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roofml.engine.incoming import POLL_US
from roofml.engine.replay import replay_at
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.traces.settings import settings_of
from roofml.util.errors import InputError

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "data" / "schedules"
SERVER = Server(
    model="",
    tensor_parallel=1,
    max_num_seqs=8,
    max_num_batched_tokens=256,
    block_size=16,
    num_gpu_blocks=60,
    max_model_len=4096,
    async_scheduling=False,
    engine_version="0.33.0",
)
STEP = 100.0


def a_run(
    arrivals: list[float], prompts: list[int], outputs: list[int], server: Server = SERVER, **columns: Any
) -> Run:
    size = len(arrivals)
    nothing = np.full(size, np.nan)
    return Run(
        name="incoming",
        server=server,
        request_id=np.arange(size),
        arrival_us=np.array(arrivals),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        prefix_group=columns.pop("prefix_group", np.full(size, -1)),
        prefix_tokens=columns.pop("prefix_tokens", np.zeros(size, np.int64)),
        ttft_us=nothing,
        e2e_us=nothing,
        ok=np.zeros(size, np.bool_),
        kv_tokens=columns.pop("kv_tokens", np.array(prompts)),
        kv_block_us=np.full(size, columns.pop("block_us", 30.0)),
        kv_latency_us=np.full(size, columns.pop("latency_us", 100.0)),
        **columns,
    )


def our_steps(workloads: list[Any], version: str) -> list[Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "conformance_kv.py"), "--steps", "--engine-version", version]
    lines = "\n".join(map(json.dumps, workloads))
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def lines_of(name: str) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress((RECORDED / f"{name}.jsonl.gz").read_bytes()).splitlines()]


@pytest.mark.parametrize("version", ["0.22.0", "0.33.0"])
def test_every_step_is_that_of_the_real_scheduler_with_a_connector(version: str) -> None:
    workloads, theirs = lines_of("kv-workloads"), lines_of(f"kv-{version}")
    assert len(theirs) == len(workloads) >= 60
    assert sum(map(len, theirs)) > 10_000
    ours = our_steps(workloads, version)
    assert [number for number, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]] == []


def test_transfers_go_over_the_link_in_order_and_are_seen_by_the_next_look() -> None:
    """By hand: 100 tokens are 7 blocks, 64 are 4. Both take their blocks at 0 and share the link; the third comes while
    the engine has nothing to do, which looks every ms, hears of it a ms later, and computes their last tokens then."""
    schedule = replay_at(a_run([0, 0, 50], [100, 64, 33], [3, 3, 3]), STEP).schedule
    begin, end = schedule.transfer_us
    assert begin.tolist() == [0, 0, POLL_US]
    assert end.tolist() == [7 * 30 + 100, 11 * 30 + 100, POLL_US + 3 * 30 + 100]
    assert schedule.step_start_us[0] == 2 * POLL_US
    assert schedule.steps.requests.tolist() == [2, 3, 3, 1]
    assert schedule.steps.new_tokens.tolist() == [2, 3, 3, 1]  # none of a prompt but its last
    assert schedule.steps.prefill_tokens.sum() == 0


def test_loads_hold_blocks_but_no_seats_and_no_budget() -> None:
    """One long answer fills the only seat; three prompts are pulled beside it all the same."""
    server = replace(SERVER, max_num_seqs=2, max_num_batched_tokens=16)
    run = a_run([0, 5000, 5000, 5000], [16, 100, 100, 100], [200, 2, 2, 2], server)
    schedule = replay_at(run, STEP).schedule
    begin, end = schedule.transfer_us
    assert begin[1] == begin[2] == begin[3]
    assert np.diff(end[1:]).tolist() == [210, 210]
    assert schedule.steps.requests.max() == 2


def test_blocks_of_a_prefix_in_the_cache_are_not_sent_again() -> None:
    groups: dict[str, Any] = {"prefix_group": np.zeros(2, np.int64), "prefix_tokens": np.full(2, 64)}
    schedule = replay_at(a_run([0, 50_000], [100, 100], [2, 2], **groups), STEP).schedule
    begin, end = schedule.transfer_us
    assert (end - begin).tolist() == [7 * 30 + 100, 3 * 30 + 100]
    assert schedule.cached_tokens.tolist() == [0, 64]


def test_a_preempted_request_is_computed_here_and_every_token_is_made() -> None:
    server = replace(SERVER, num_gpu_blocks=24)
    run = a_run([0.0] * 6, [40, 48, 33, 60, 20, 50], [60] * 6, server)
    replayed = replay_at(run, STEP)
    assert replayed.completed.all()
    assert replayed.schedule.preemptions.sum() > 0
    assert replayed.schedule.steps.prefill_tokens.sum() > 0
    alone = replay_at(replace(run, kv_tokens=np.array([40, 48, 0, 60, 0, 50])), STEP)
    assert alone.completed.all()
    assert np.isnan(alone.schedule.transfer_us[0]).tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kv_tokens": np.array([17, 0])}, "request 0: kv_tokens 17: expected at most the 16 of its prompt"),
        ({"kv_tokens": np.array([-1, 0])}, "kv_tokens: expected a finite number, not below 0"),
        ({"kv_tokens": np.array([1])}, "kv_tokens: expected a finite number"),
        ({"kv_block_us": np.array([np.nan, 1.0])}, "kv_block_us: expected a finite number"),
        ({"kv_latency_us": np.array([-1.0, 1.0])}, "kv_latency_us: expected a finite number"),
        ({"clients": 1}, "a closed loop beside KV from another server"),
        ({"deadline_us": 1e6}, "clients that give up beside KV"),
        ({"server": replace(SERVER, settings=settings_of({"policy": "priority"}, "s"))}, "policy: priority beside KV"),
    ],
)
def test_what_is_not_imitated_beside_it_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replay_at(replace(a_run([0, 0], [16, 16], [2, 2]), **change), STEP)
