"""What settings, versions and impatient clients do to a replay, beside what `test_conformance` holds against vLLM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import PLENTY, run_of

from roofml.engine.replay import Replay, replay_at
from roofml.engine.streaming import chunk_gaps_us
from roofml.engine.versions import rules_of
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.traces.settings import SchedulerSettings, settings_of
from roofml.util.errors import InputError, NotSupportedError

STEP = 100.0
SYNC = replace(PLENTY, async_scheduling=False)


def told(server: Server = SYNC, version: str = "0.33.0", **settings: object) -> Server:
    return replace(server, engine_version=version, settings=settings_of(settings, "settings"))


def served(requests: list[tuple[float, int, int]], server: Server = SYNC, **changes: object) -> tuple[Run, Replay]:
    run = replace(run_of(requests, server), **changes)
    return run, replay_at(run, STEP)


def test_a_client_that_gives_up_leaves_the_queue_and_its_seat() -> None:
    """One seat. The first needs 20 steps and is given up after 10; the second waits, and then has the seat."""
    requests = [(0.0, 8, 20), (0.0, 8, 5), (0.0, 8, 3)]
    run, patient = served(requests, replace(SYNC, max_num_seqs=1))
    _, impatient = served(requests, replace(SYNC, max_num_seqs=1), deadline_us=950.0)
    assert patient.completed.all()
    assert impatient.completed.tolist() == [False, False, False]
    _, longer = served(requests, replace(SYNC, max_num_seqs=1), deadline_us=2_450.0)
    assert longer.completed.tolist() == [True, False, False]
    late = replace(run, arrival_us=np.array([0.0, 0.0, 900.0]), deadline_us=950.0)
    third = replay_at(late, STEP)
    assert third.completed.tolist() == [False, False, True]
    assert third.e2e_us[2] == 1000 + 3 * STEP - 900
    assert np.isnan(third.e2e_us[:2]).all()
    assert np.isnan(third.ttft_us[:2]).all()


def test_blocks_of_a_request_given_up_are_free_for_the_next() -> None:
    server = replace(SYNC, num_gpu_blocks=6, block_size=16, prefix_caching=False)
    run, result = served([(0.0, 64, 16), (50.0, 64, 6)], server, deadline_us=1_450.0)
    assert result.completed.tolist() == [False, False]
    later = replay_at(replace(run, arrival_us=np.array([0.0, 800.0])), STEP)
    assert later.completed.tolist() == [False, True]
    assert later.schedule.first_step[1] == 15


def test_a_deadline_nobody_meets_changes_nothing() -> None:
    requests = [(60.0 * i, 30 + i, 5 + i % 9) for i in range(40)]
    _, without = served(requests)
    _, within = served(requests, deadline_us=1e9)
    assert within.e2e_us.tolist() == without.e2e_us.tolist()


def test_queue_limits_turn_requests_away() -> None:
    requests = [(0.0, 10, 50)] * 6
    _, limited = served(requests, told(max_num_queued_reqs=4))
    assert limited.completed.tolist() == [True] * 4 + [False] * 2
    _, tokens = served(requests, told(max_num_queued_tokens=25))
    assert tokens.completed.tolist() == [True] * 3 + [False] * 3
    _, older = served(requests, told(version="0.28.0", max_num_queued_reqs=4))
    assert older.completed.all()


def test_priorities_rule_where_the_policy_says_so() -> None:
    requests = [(0.0, 8, 10), (10.0, 8, 10), (20.0, 8, 10)]
    server = replace(SYNC, max_num_seqs=1)
    priority = np.array([0, 5, 1])
    _, fair = served(requests, server, priority=priority)
    assert (np.diff(fair.e2e_us) > 0).all()
    _, ruled = served(requests, told(server, policy="priority"), priority=priority)
    assert ruled.e2e_us[2] < ruled.e2e_us[1]


def test_a_step_that_only_preempts_takes_no_time() -> None:
    """The first in turn has the worst priority and finds no block: it is preempted, and the step has nobody in it.

    The next one forms at once, and not when the clock meets the next request, or whatever stands after the last.
    """
    server = told(replace(SYNC, num_gpu_blocks=5, block_size=16, prefix_caching=False), "0.22.0", policy="priority")
    requests = [(0.0, 17, 30), (50.0, 17, 30)]
    _, two = served(requests, server, priority=np.array([5, 0]))
    _, three = served([*requests, (1e6, 8, 2)], server, priority=np.array([5, 0, 0]))
    assert two.schedule.preemptions.tolist() == [1, 0]
    assert np.ptp(np.diff(two.schedule.step_start_us)) == 0
    assert three.e2e_us[:2].tolist() == two.e2e_us.tolist()


def test_newer_versions_admit_only_a_prompt_that_fits_whole() -> None:
    """25 blocks: beside the first request the second's first chunk fits, all of it does not."""
    server = replace(SYNC, num_gpu_blocks=26, block_size=16, max_num_batched_tokens=64, prefix_caching=False)
    requests = [(0.0, 160, 100), (400.0, 300, 2)]
    admitted = {}
    for version in ("0.18.1", "0.19.0"):
        _, result = served(requests, replace(server, engine_version=version))
        admitted[version] = result.schedule.preemptions.sum(), result.schedule.first_step[1]
    assert admitted["0.18.1"] != admitted["0.19.0"]
    _, off = served(requests, told(server, "0.19.0", scheduler_reserve_full_isl=False))
    assert (off.schedule.preemptions.sum(), off.schedule.first_step[1]) == admitted["0.18.1"]


@pytest.mark.parametrize(
    ("version", "settings", "expected"),
    [
        ("0.15.1", {"watermark": 0.1}, {"watermark_blocks": 0, "reserve_prompt": False, "empty_first": False}),
        ("0.24.0", {"watermark": 0.1}, {"reserve_prompt": True, "empty_first": True}),
        ("0.30.0", {"max_num_active_seqs": 3}, {"longest_chunk_alone": True}),
        ("0.33.0", {"max_num_active_seqs": 3}, {"max_running": 3, "longest_chunk_alone": False}),
        ("0.32.0", {"prefill_schedule_interval": 4}, {"prefill_interval": 1}),
        ("0.33.0", {"prefill_schedule_interval": 4}, {"prefill_interval": 4}),
        ("0.99.0", {}, {"goes_on": True, "keeps_place": True}),
    ],
)
def test_rules_by_version(version: str, settings: dict[str, object], expected: dict[str, object]) -> None:
    server = replace(SYNC, engine_version=version, settings=settings_of(settings, "settings"))
    rules = rules_of(server)._asdict()
    assert {name: rules[name] for name in expected} == expected


def test_chunks_of_several_tokens() -> None:
    run, result = served([(0.0, 8, 10), (0.0, 8, 1)])
    gaps, request = chunk_gaps_us(run, result)
    assert gaps.tolist() == [STEP] * 9
    assert request.tolist() == [0] * 9
    bundled = replace(run, server=replace(run.server, settings=SchedulerSettings(stream_interval=4)))
    assert chunk_gaps_us(bundled, result)[0].tolist() == [4 * STEP, 4 * STEP, STEP]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "lifo"}, "--server-arg: policy: 'lifo': input should be 'fcfs' or 'priority'"),
        ({"watermark": 2.0}, "--server-arg: watermark: 2.0: input should be less than or equal to 1"),
        (
            {"max_num_active_seqs": 0},
            "--server-arg: max_num_active_seqs: 0: input should be greater than or equal to 1",
        ),
        ({"stream_interval": "4"}, "--server-arg: stream_interval: '4': input should be a valid integer"),
        ({"banana": 1}, "--server-arg: 'banana': no setting that is known here, expected one of policy, "),
    ],
)
def test_settings_that_cannot_be(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        settings_of(given, "--server-arg")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"enable_expert_parallel": True}, "enable_expert_parallel is True: expert parallelism is not modelled"),
        ({"data_parallel_size": 8}, "data_parallel_size is 8: data parallelism is not modelled"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size is 2: pipeline parallelism is not modelled"),
        ({"decode_context_parallel_size": 2}, "decode_context_parallel_size is 2: context parallelism is not modelled"),
        ({"num_speculative_tokens": 3}, "num_speculative_tokens is 3: speculative decoding is not modelled"),
        ({"kv_offloading_size": 8}, "kv_offloading_size is 8: offloading and transfer of KV is not modelled"),
    ],
)
def test_what_no_step_here_prices_is_refused_by_name(given: dict[str, object], message: str) -> None:
    with pytest.raises(NotSupportedError) as error:
        settings_of(given, "exp-config.yaml")
    assert str(error.value) == f"exp-config.yaml: {message}, only tensor parallelism is"


def test_what_is_off_is_no_matter() -> None:
    assert settings_of({"enable_expert_parallel": False, "data_parallel_size": 1}, "x") == SchedulerSettings()
