"""Replay: a run served again by the compiled scheduler, with step times of ours or of any function.

A run and parameters -> latencies, and the schedule they come from (`scheduler` says what is imitated of vLLM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.engine.kv_cache import block_keys
from roofml.engine.scheduler import Limits, Requests, compiled_in, serve
from roofml.engine.step_time import Callback, Formula, StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import Parameters, RequestParameters, StepParameters
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which steps a run took and which requests were in them. Requests are in the run's order."""

    steps: StepSums
    step_start_us: Floats
    """(steps,)"""
    step_time_us: Floats
    """(steps,)"""
    first_step: Ints
    """(requests,) the step that made the first output token. Until its last a request waits for every step, and is in
    each unless it was preempted or the budget ran out before it."""
    last_step: Ints
    """(requests,) the step that made the last output token."""
    queued_us: Floats
    """(requests,) when it entered the scheduler's queue."""
    running_at_arrival: Ints
    """(requests,) requests running when it arrived."""
    cached_tokens: Ints
    """(requests,) prompt tokens found in the cache when first scheduled."""
    preemptions: Ints
    """(requests,)"""
    cold: Floats
    """(2, steps) 1 in steps that `cold_step_us`, and `cold_kernel_us`, were added to."""


@dataclass(frozen=True, eq=False)
class Replay:
    """Predicted latencies of every request of a run, µs, and the schedule that they come from."""

    ttft_us: Floats
    e2e_us: Floats
    schedule: Schedule


def _requests(run: Run) -> Requests:
    """The run's requests, and keys for every full block of prompt and output: a preempted request finds its own."""
    block_size = run.server.block_size
    shared = np.where(run.prefix_group >= 0, np.minimum(run.prefix_tokens, run.prompt_tokens) // block_size, 0)
    full = (run.prompt_tokens + run.output_tokens) // block_size + 1
    keys = block_keys(run.prefix_group, shared, full)
    return Requests(run.arrival_us, run.prompt_tokens, run.output_tokens, keys)


def _check_fits(run: Run) -> None:
    server = run.server
    tokens = run.prompt_tokens + run.output_tokens
    if len(run) == 0:
        raise InputError(f"{run.name}: no requests to replay")
    if run.prompt_tokens.min() < 1 or run.output_tokens.min() < 1:
        row = int(np.argmin(np.minimum(run.prompt_tokens, run.output_tokens)))
        raise InputError(f"{run.name}: request {run.request_id[row]}: expected at least one prompt and output token")
    worst = int(np.argmax(tokens))
    if tokens[worst] > server.max_model_len:
        raise InputError(
            f"{run.name}: request {run.request_id[worst]}: {tokens[worst]} tokens exceed max_model_len "
            f"{server.max_model_len}"
        )
    if -(-int(tokens[worst]) // server.block_size) > server.num_gpu_blocks - 1:
        raise InputError(
            f"{run.name}: request {run.request_id[worst]}: {tokens[worst]} tokens do not fit in "
            f"{server.num_gpu_blocks} KV blocks of {server.block_size}"
        )


def replay(run: Run, tables: ComponentTables, parameters: Parameters, progress: Ints | None = None) -> Replay:
    """Serve the run's requests as vLLM would, with steps as long as the parameters say.

    `progress`, an array of one, is kept at the number of finished requests while the compiled loop runs (it releases
    the GIL). Raises InputError for a request that can never run, ValueError for tables that end before the budget.
    """
    budget = run.server.max_num_batched_tokens
    if len(tables.gemm) <= budget:
        raise ValueError(f"tables of {len(tables.gemm) - 1} tokens for a budget of {budget}")
    experts = (int(tables.experts), int(tables.experts_per_token))
    step = StepParameters(*map(float, parameters.step))
    return _serve(run, Formula(tables, step), parameters.request, progress, experts)


def replay_with(run: Run, times: StepTimes, request: RequestParameters, progress: Ints | None = None) -> Replay:
    """As `replay`, with steps as long as any function says: some µs more a step, and whatever the function takes.

    Raises what the function raises, and ValueError for a time that is not positive.
    """
    callback = Callback(times)
    result = _serve(run, callback.pointer, request, progress)
    callback.check()
    return result


def _serve(
    run: Run, source: Any, request: RequestParameters, progress: Ints | None, experts: tuple[int, int] = (0, 0)
) -> Replay:
    _check_fits(run)
    server = run.server
    limits = Limits(
        server.max_num_seqs,
        server.max_num_batched_tokens,
        server.block_size,
        server.num_gpu_blocks,
        server.prefix_caching,
        1 if server.async_scheduling else 0,
        server.fresh,
        *experts,
    )
    columns, start, duration, cold, first, last, queued, running, cached, preemptions = serve(
        _requests(run),
        limits,
        source,
        RequestParameters(*map(float, request)),
        np.zeros(1, np.int64) if progress is None else progress,
        compiled_in(),
    )
    end = start + duration
    return Replay(
        ttft_us=end[first] - run.arrival_us + request.pipeline_delay_us,
        e2e_us=end[last] - run.arrival_us + request.pipeline_delay_us,
        schedule=Schedule(
            StepSums.from_columns(columns), start, duration, first, last, queued, running, cached, preemptions, cold
        ),
    )
