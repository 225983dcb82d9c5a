"""Followers: a request that waits for an answer is sent a pause after it, and served as if that had been known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import PLENTY, plain_tables, run_of

from roofml.engine.arguments import Waits
from roofml.engine.replay import Replay, replay
from roofml.latency.parameters import PRIOR_VALUES, STEP_COUNT, Parameters, RequestParameters, StepParameters
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.traces.settings import SchedulerSettings
from roofml.util.errors import InputError

PARAMETERS = Parameters(StepParameters(*PRIOR_VALUES[:STEP_COUNT].tolist()), RequestParameters(300.0, 20.0, 40.0))


def served(run: Run, waits: Waits | None = None) -> Replay:
    return replay(run, plain_tables(gemm_us=3.0, kv_token_us=1.0, budget=2048), PARAMETERS, waits=waits)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[Run, Waits]:
    """Up to forty requests, most of which wait for another's answer; trees of them, long pauses and none."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    deadline_us, queue = draw(st.sampled_from([(np.inf, None), (np.inf, 3), (3e4, None)]))
    arrival = np.sort(rng.choice([0.0, 1.0], n) * rng.uniform(0, draw(st.sampled_from([0.0, 1e3, 1e5])), n))
    waits_for = np.where(rng.random(n) < draw(st.sampled_from([0.0, 0.6, 0.95])), rng.integers(0, np.arange(n) + 1), n)
    after = np.where(waits_for < np.arange(n), waits_for, -1)
    pause = rng.choice([0.0, 0.0, 10.0, 3e3, 2e5], n)
    server = Server(
        model="toy",
        tensor_parallel=1,
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(4, 64)),
        block_size=4,
        num_gpu_blocks=draw(st.integers(20, 60)),
        max_model_len=100,
        prefix_caching=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        engine_version="0.33.0",
        settings=SchedulerSettings(
            policy=draw(st.sampled_from(["fcfs", "priority"])),
            max_num_queued_reqs=queue,
        ),
    )
    rows = zip(arrival.tolist(), rng.integers(1, 40, n).tolist(), rng.integers(1, 20, n).tolist(), strict=True)
    run = run_of(list(rows), server, rng.integers(-1, 3, n).tolist())
    run = replace(
        run,
        prefix_tokens=np.where(run.prefix_group >= 0, np.minimum(rng.integers(0, 40, n), run.prompt_tokens), 0),
        priority=rng.integers(0, 3, n),
        deadline_us=deadline_us,
    )
    return run, Waits(after, pause)


@settings(max_examples=200)
@given(sessions())
def test_each_is_sent_a_pause_after_the_answer_and_served_as_if_that_were_known(some: tuple[Run, Waits]) -> None:
    run, waits = some
    found = served(run, waits)
    sent = found.schedule.arrival_us
    follows = waits.after >= 0
    before = waits.after[follows]
    turned_away = ~found.completed & np.isinf(run.deadline_us)
    ended = np.where(found.completed, sent + found.e2e_us, np.where(turned_away, sent, sent + run.deadline_us))
    assert np.array_equal(sent[~follows], run.arrival_us[~follows])
    # To a millionth of a µs: the engine adds the same times in another order.
    assert sent[follows] == pytest.approx(ended[before] + waits.pause_us[follows], abs=1e-6)
    order = np.argsort(sent, kind="stable")
    known = replace(run.take(np.ones(len(run), np.bool_)), arrival_us=sent[order], identity="")
    columns = ("prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens", "priority")
    known = replace(known, **{name: getattr(run, name)[order] for name in columns})
    again, found = served(known), found.taken(order)
    assert np.array_equal(again.ttft_us, found.ttft_us, equal_nan=True)
    assert np.array_equal(again.e2e_us, found.e2e_us, equal_nan=True)
    for name in ("first_step", "last_step", "queued_us", "running_at_arrival", "cached_tokens", "preemptions"):
        assert np.array_equal(getattr(again.schedule, name), getattr(found.schedule, name)), name
    assert np.array_equal(again.schedule.step_time_us, found.schedule.step_time_us)


def test_who_waits_for_nobody_comes_as_without() -> None:
    run = run_of([(0.0, 30, 9), (10.0, 50, 3), (10.0, 20, 5)], PLENTY)
    alone = served(run, Waits(np.full(3, -1), np.zeros(3)))
    assert np.array_equal(alone.e2e_us, served(run).e2e_us)


def test_a_session_goes_on_that_gives_up_or_is_turned_away() -> None:
    run = run_of([(0.0, 30, 50), (10.0, 50, 30), (20.0, 20, 5)], PLENTY)
    waits = Waits(np.array([-1, -1, 1]), np.array([0.0, 0.0, 700.0]))
    impatient = served(replace(run, deadline_us=90.0), waits)
    assert impatient.schedule.arrival_us.tolist() == [0.0, 10.0, 10.0 + 90.0 + 700.0]
    server = replace(PLENTY, engine_version="0.33.0", settings=SchedulerSettings(max_num_queued_reqs=1))
    turned_away = served(replace(run, server=server), waits)
    assert turned_away.completed.tolist() == [True, False, False]
    assert turned_away.schedule.arrival_us.tolist() == [0.0, 10.0, 10.0 + 700.0]


def test_what_no_session_is_is_refused() -> None:
    run = run_of([(0.0, 30, 9), (10.0, 50, 3)], PLENTY)
    nobody = np.zeros(2)
    for after in ([1, -1], [-1], [0, -1]):
        with pytest.raises(ValueError, match="an earlier request to wait for"):
            served(run, Waits(np.array(after), nobody))
    with pytest.raises(InputError, match="sessions in a closed loop"):
        served(replace(run, clients=1), Waits(np.array([-1, 0]), nobody))
