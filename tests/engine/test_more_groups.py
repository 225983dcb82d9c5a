"""Further layer groups: the blocks that windows, chunks and states take of the pool, and when capacity binds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import PLENTY, plain_tables, run_of

from roofml.engine.more_groups import more_blocks, most_more_blocks
from roofml.engine.replay import Replay, replay
from roofml.latency.parameters import Parameters, RequestParameters, StepParameters
from roofml.traces.run import Run
from roofml.util.arrays import Ints
from roofml.util.errors import InputError

WINDOW, FULL, STATE = (np.array([row]) for row in ([2, 64, 1], [2, 0, 1], [3, -1, 1]))


TIMES = Parameters(StepParameters(per_step_us=100.0, per_request_us=4.0), RequestParameters())


@st.composite
def small_runs(draw: st.DrawFn) -> Run:
    """Up to ten requests on a server that often has too few blocks for all of them."""
    n = draw(st.integers(1, 10))
    gaps = draw(st.lists(st.integers(0, 1500), min_size=n, max_size=n))
    tokens = draw(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 30)), min_size=n, max_size=n))
    rows = [(float(at), *lengths) for at, lengths in zip(np.cumsum(gaps).tolist(), tokens, strict=True)]
    budget, blocks = draw(st.sampled_from([16, 64, 2048])), draw(st.integers(10, 90))
    return run_of(rows, replace(PLENTY, max_num_batched_tokens=budget, num_gpu_blocks=blocks, max_num_seqs=8))


def served(run: Run, shares: Ints | None) -> Replay:
    return replay(run, plain_tables(gemm_us=3.0, kv_token_us=1.0)._replace(shares=shares), TIMES)


@given(st.integers(0, 5000), st.integers(1, 300), st.integers(1, 2000), st.sampled_from([1, 16, 64]))
def test_a_window_never_holds_more_than_all_and_no_less_than_its_reach(
    context: int, new: int, window: int, block: int
) -> None:
    held = more_blocks(np.array([[1, window, 1]]), context, new, block)
    assert held <= more_blocks(np.array([[1, 0, 1]]), context, new, block)
    assert held * block >= min(context + new, window - 1 + new)
    assert held <= -(-min(context + new, window - 1 + new) // block) + 1


@given(st.integers(0, 5000), st.integers(1, 300))
def test_a_state_is_one_block_however_long_the_context(context: int, new: int) -> None:
    assert more_blocks(STATE, context, new, 16) == 3


@given(st.integers(1, 3000), st.integers(1, 500), st.sampled_from([1, 16]))
def test_no_step_of_a_request_holds_more_than_the_most(tokens: int, budget: int, block: int) -> None:
    most = most_more_blocks(WINDOW, tokens, budget, block)
    for context in range(tokens):
        assert more_blocks(WINDOW, context, min(budget, tokens - context), block) <= most


@pytest.mark.parametrize("shares", [WINDOW, FULL, STATE])
@given(small_runs())
def test_every_request_is_served_whatever_its_groups(shares: Ints, run: Run) -> None:
    """With few blocks, too: preempted, admitted again, and never handed a block that is not there."""
    try:
        result = served(run, shares)
    except InputError:  # one request alone needs more than there is
        return
    tokens = result.schedule.steps.prefill_tokens + result.schedule.steps.decode_tokens
    assert np.all(result.completed)
    assert tokens.sum() >= (run.output_tokens - 1).sum()


def concurrency(shares: Ints | None) -> float:
    """Mean requests in a step of a server of 200 blocks of 16 tokens and requests of up to 1,000."""
    server = replace(PLENTY, num_gpu_blocks=200, max_num_batched_tokens=64, prefix_caching=False)
    run = run_of([(0.0, 900, 100)] * 8, server)
    return float(served(run, shares).schedule.steps.requests.mean())


def test_capacity_binds_when_the_groups_of_the_model_fill_the_pool() -> None:
    """At its end a request has 63 blocks in the first group, and as many in each of two beside it, or 5 of a window.

    So about three fit alone, two beside windows and chunks of 64, one beside groups that keep everything.
    """
    assert concurrency(None) > 2.5
    assert 1.5 < concurrency(WINDOW) < concurrency(None)
    assert 1 <= concurrency(FULL) < 1.5


def test_a_group_that_takes_nothing_changes_nothing() -> None:
    run = run_of([(0.0, 90, 40), (5.0, 70, 20)], replace(PLENTY, num_gpu_blocks=12))
    alone, beside = served(run, None), served(run, np.array([[0, 64, 1]]))
    assert np.array_equal(alone.schedule.steps.columns(), beside.schedule.steps.columns())
    assert np.array_equal(alone.e2e_us, beside.e2e_us)
