"""A replay by itself refuses what would take the machine's memory, or never end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic import PLENTY, plain_tables, run_of

from roofml.engine.replay import replay
from roofml.latency.parameters import Parameters, RequestParameters, StepParameters
from roofml.util.errors import InputError

REQUESTS = [(1e4 * i, 64 + i, 10) for i in range(20)]
PARAMETERS = Parameters(StepParameters(per_step_us=100.0), RequestParameters())
TABLES = plain_tables(1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_gpu_blocks", 2_000_000_000),
        ("max_num_seqs", 500_000_000),
        ("max_num_seqs", 0),
        ("max_model_len", 10**400),
        ("block_size", 10**9),
        ("num_gpu_blocks", -1),
    ],
)
def test_a_server_that_no_memory_holds_is_refused_by_field(field: str, value: int) -> None:
    run = run_of(REQUESTS, replace(PLENTY, **{field: value}))
    with pytest.raises(InputError, match=rf"^synthetic: {field} .*: expected between 1 and \d+$"):
        replay(run, TABLES, PARAMETERS)


def test_a_request_of_days_is_refused() -> None:
    server = replace(PLENTY, max_model_len=10**8, num_gpu_blocks=2 * 10**7)
    with pytest.raises(InputError, match=r"request 101: 20000010 tokens, expected at most 16777216"):
        replay(run_of([*REQUESTS[:1], (2e4, 10, 20_000_000)], server), TABLES, PARAMETERS)


def test_requests_that_fill_more_blocks_than_memory_has_are_refused() -> None:
    server = replace(PLENTY, max_model_len=10**7, num_gpu_blocks=2 * 10**7, block_size=1)
    with pytest.raises(InputError, match="its requests take more than 134217728 KV blocks of 1 tokens"):
        replay(run_of([(0.0, 9_000_000, 1)] * 20, server), TABLES, PARAMETERS)


def test_places_and_blocks_that_nobody_takes_change_nothing() -> None:
    few = replay(run_of(REQUESTS), TABLES, PARAMETERS)
    large = replace(PLENTY, max_num_seqs=100_000, num_gpu_blocks=20_000_000)
    many = replay(run_of(REQUESTS, large), TABLES, PARAMETERS)
    assert many.e2e_us.tolist() == few.e2e_us.tolist()
    assert many.schedule.cached_tokens.tolist() == few.schedule.cached_tokens.tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("group", ["step", "request"])
def test_a_time_that_is_no_number_never_starts_a_loop_that_never_ends(group: str, value: float) -> None:
    changed: dict[str, Any] = {
        "step": PARAMETERS._replace(step=PARAMETERS.step._replace(per_step_us=value)),
        "request": PARAMETERS._replace(request=RequestParameters(queueing_us=value)),
    }
    with pytest.raises(InputError, match=f"synthetic: {group} parameters: expected finite numbers"):
        replay(run_of(REQUESTS), TABLES, changed[group])


def test_an_infinite_pace_is_refused() -> None:
    with pytest.raises(InputError, match="step parameters: expected finite numbers"):
        replay(run_of(REQUESTS), TABLES, PARAMETERS.paced(math.inf))


def test_a_time_of_arrival_that_is_no_number_is_refused() -> None:
    run = run_of(REQUESTS)
    with pytest.raises(InputError, match="arrival_us: expected finite times"):
        replay(replace(run, arrival_us=np.append(run.arrival_us[:-1], math.nan)), TABLES, PARAMETERS)
