"""Speculative decoding: what a step with drafts costs, and how many tokens it makes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import BUDGET, GPU, MIXTRAL, PLENTY, ROUND, model, run_of

from roofml.engine.replay import Replay, replay
from roofml.latency.batch import Batch
from roofml.latency.components import ComponentTables, component_tables
from roofml.latency.formula import step_times
from roofml.latency.parameters import PRIOR_VALUES, Parameters, RequestParameters
from roofml.latency.speculation import Speculation, speculating, speculation
from roofml.util.errors import InputError

STEP = Parameters.of(PRIOR_VALUES).step


@cache
def tables_of(drafts: int, acceptance: float = 1.0) -> ComponentTables:
    spec = model(MIXTRAL)
    tables = component_tables(spec, GPU, 1, BUDGET, ROUND)
    return speculating(tables, spec, GPU, 1, ROUND, Speculation(drafts, acceptance)) if drafts else tables


def time_of(tables: ComponentTables, batch: Batch) -> float:
    return float(step_times(tables, batch.sums(tables.reaches, int(tables.verified)), STEP)[0])


batches = st.builds(
    Batch,
    prefill=st.lists(st.tuples(st.integers(1, 200), st.integers(0, 3000)), max_size=2),
    decode=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 60)), min_size=1, max_size=3),
)


@given(batches, st.integers(0, 6))
def test_another_draft_never_makes_a_step_cheaper(batch: Batch, drafts: int) -> None:
    assert time_of(tables_of(drafts + 1), batch) >= time_of(tables_of(drafts), batch)


@given(batches, st.integers(1, 7))
def test_verifying_is_cheaper_than_a_step_for_every_token(batch: Batch, drafts: int) -> None:
    """Keys, values and weights are read once: that is what drafts are for."""
    no_drafts = tables_of(drafts)._replace(drafts=None, layers=tables_of(0).layers, kv_token=tables_of(0).kv_token)
    assert time_of(no_drafts, batch) <= (drafts + 1) * time_of(tables_of(0), batch)


@pytest.mark.parametrize(("drafts", "acceptance"), [(0, 1.0), (65, 2.0), (3, 0.9), (3, 4.1), (3, None), (True, 1.0)])
def test_drafts_that_cannot_be_are_refused(drafts: object, acceptance: object) -> None:
    with pytest.raises(InputError, match=r"server\.yaml: (num_speculative_tokens|acceptance_length)"):
        speculation(drafts, acceptance, "server.yaml")


def served(output: int, drafts: int, acceptance: float, requests: int = 1) -> Replay:
    server = replace(PLENTY, async_scheduling=False)
    run = run_of([(0.0, 50, output)] * requests, server)
    return replay(run, tables_of(drafts, acceptance), Parameters(STEP, RequestParameters()))


@given(st.integers(2, 200), st.integers(1, 7), st.floats(1, 8))
def test_a_request_takes_as_many_steps_as_its_tokens_need(output: int, drafts: int, acceptance: float) -> None:
    acceptance = min(acceptance, drafts + 1.0)
    schedule = served(output, drafts, acceptance).schedule
    steps = schedule.last_step[0] - schedule.first_step[0]
    assert abs(steps - np.ceil((output - 1) / acceptance)) <= 1
    decodes = schedule.steps.decode_tokens[schedule.steps.decode_tokens > 0]
    assert set(decodes.tolist()) == {drafts + 1.0}


def test_no_draft_accepted_is_slower_than_none_made_and_all_accepted_is_faster() -> None:
    none, refused, accepted = served(100, 0, 1.0), served(100, 3, 1.0), served(100, 3, 4.0)
    assert refused.e2e_us[0] > none.e2e_us[0] > accepted.e2e_us[0]
    assert none.schedule.steps.length == refused.schedule.steps.length


def test_drafts_count_against_the_budget_and_take_blocks() -> None:
    """64 requests of 4 tokens each fill a budget of 128 in two steps' worth."""
    server = replace(PLENTY, max_num_batched_tokens=128, async_scheduling=False)
    run = run_of([(0.0, 1, 20)] * 64, server)
    result = replay(run, tables_of(3, 2.0), Parameters(STEP, RequestParameters()))
    assert result.completed.all()
    assert result.schedule.steps.requests.max() <= 64
    assert (result.schedule.steps.requests[1:] <= 128).all()
