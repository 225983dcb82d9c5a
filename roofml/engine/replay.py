"""Replay: a run served again by the compiled scheduler, with step times of ours or of any function.

A run and parameters -> latencies, and the schedule they come from (`scheduler` says what is imitated of vLLM).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roofml.engine.clients import NOTHING_SEEN, Requests
from roofml.engine.continued import continued
from roofml.engine.incoming import incoming_of
from roofml.engine.kv_cache import block_keys
from roofml.engine.more_groups import most_more_blocks
from roofml.engine.rules import Limits
from roofml.engine.scheduler import compiled_in, serve
from roofml.engine.step_time import Callback, Formula, StepTimes
from roofml.engine.versions import rules_of
from roofml.engine.workspace import workspace_of
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import Parameters, RequestParameters, StepParameters
from roofml.latency.pauses import NO_PAUSES, Pauses
from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.util.names import shown

NO_TRANSFERS = np.zeros((2, 0))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which steps a run took and which requests were in them. Requests are in the run's order."""

    steps: StepSums
    step_start_us: Floats
    """(steps,)"""
    step_time_us: Floats
    """(steps,)"""
    first_step: Ints
    """(requests,) the step that made the first output token, or -1. Until its last a request waits for every step, and
    is in each unless it was preempted or the budget ran out before it."""
    last_step: Ints
    """(requests,) the step that made the last output token, or -1 for a request that did not complete."""
    arrival_us: Floats
    """(requests,) when it was sent: as the run says, or in a closed loop when one before it was answered."""
    queued_us: Floats
    """(requests,) when it entered the scheduler's queue."""
    running_at_arrival: Ints
    """(requests,) requests running when it arrived."""
    cached_tokens: Ints
    """(requests,) prompt tokens found in the cache when first scheduled."""
    preemptions: Ints
    """(requests,)"""
    cold: NDArray[np.int8]
    """(2, steps) 1 in steps that `cold_step_us`, and `cold_kernel_us` or what was seen in its place, were added to."""
    transfer_us: Floats
    """(2, requests) when blocks were taken for the KV that comes from elsewhere, and when it was there; NaN of a
    request that was computed here. (2, 0) where all were."""


@dataclass(frozen=True, eq=False)
class Replay:
    """Predicted latencies of every request of a run, µs, and the schedule that they come from.

    NaN for a request that did not complete: its client gave it up, or the server turned it away.
    """

    ttft_us: Floats
    e2e_us: Floats
    schedule: Schedule

    @property
    def completed(self) -> Bools:
        """(requests,) those that got their answer."""
        return self.schedule.last_step >= 0


def _requests(run: Run, seen_ttft_us: Floats) -> Requests:
    """The run's requests, and keys for every full block of prompt and output: a preempted request finds its own."""
    block_size = run.server.block_size
    known = run.prompt_tokens + (run.output_tokens if run.shares_answers else 0)
    common = np.minimum(run.prefix_tokens, known)
    shared = np.where(run.prefix_group >= 0, common // block_size, 0)
    keys = block_keys(run.prefix_group, shared, _full_blocks(run))
    priority = run.priority if len(run.priority) else np.zeros(len(run), np.int64)
    arrival = np.where(np.arange(len(run)) < (run.clients or len(run)), run.arrival_us, np.inf)
    given_up_us = arrival + run.deadline_us
    order = np.argsort(given_up_us, kind="stable")
    return Requests(
        arrival,
        run.prompt_tokens,
        run.output_tokens,
        keys,
        priority,
        given_up_us,
        order,
        min(run.clients, len(run)),
        run.deadline_us,
        run.pause_us if len(run.pause_us) else np.zeros(len(run)),
        incoming_of(run),
        _padded(seen_ttft_us, len(run)),
    )


def _padded(seen_ttft_us: Floats, length: int) -> Floats:
    """The same of so many requests, if anything was seen: those behind a recording nobody measured."""
    if not len(seen_ttft_us):
        return seen_ttft_us
    behind = np.full(length - len(seen_ttft_us), np.inf)
    return np.concatenate((np.where(np.isfinite(seen_ttft_us), seen_ttft_us, np.inf), behind))


LIMITED = ("max_num_seqs", "max_num_batched_tokens", "block_size", "num_gpu_blocks", "max_model_len")
"""Fields of a server that something is as long as."""
MOST_TOKENS = 2**24
"""Of one request: a step each, for those it makes."""
MOST_BLOCKS = 2**27
"""Of all requests of a run: the cache keeps a number for each."""


def _check_fits(run: Run, shares: Ints | None, drafts: int) -> None:
    """Raise InputError for requests that can never run, and for a server or run that the machine's memory cannot."""
    server = run.server
    tokens = run.prompt_tokens + run.output_tokens
    if len(run) == 0:
        raise InputError(f"{run.name}: no requests to replay")
    for field in LIMITED:
        if not 1 <= getattr(server, field) <= MOST_OF_SERVER[field]:
            found = shown(getattr(server, field))
            raise InputError(f"{run.name}: {field} {found}: expected between 1 and {MOST_OF_SERVER[field]}")
    _check_incoming(run)
    if not np.isfinite(run.arrival_us).all():
        raise InputError(f"{run.name}: arrival_us: expected finite times")
    if run.prompt_tokens.min() < 1 or run.output_tokens.min() < 1:
        row = int(np.argmin(np.minimum(run.prompt_tokens, run.output_tokens)))
        raise InputError(f"{run.name}: request {run.request_id[row]}: expected at least one prompt and output token")
    worst = int(np.argmax(tokens))
    if tokens[worst] > server.max_model_len:
        raise InputError(
            f"{run.name}: request {run.request_id[worst]}: {tokens[worst]} tokens exceed max_model_len "
            f"{server.max_model_len}"
        )
    if tokens[worst] > MOST_TOKENS:
        raise InputError(
            f"{run.name}: request {run.request_id[worst]}: {tokens[worst]} tokens, expected at most {MOST_TOKENS}"
        )
    if -(-(int(tokens[worst]) + drafts) // server.block_size) + _most_more(run, shares) > server.num_gpu_blocks - 1:
        raise InputError(
            f"{run.name}: request {run.request_id[worst]}: {tokens[worst]} tokens do not fit in "
            f"{server.num_gpu_blocks} KV blocks of {server.block_size}"
        )
    rows = min(server.max_num_seqs, len(run)) + (min(len(run), server.num_gpu_blocks) if len(run.kv_tokens) else 0)
    seats = rows * (int(tokens[worst]) // server.block_size + 1)
    if max(int(_full_blocks(run).sum()), seats) > MOST_BLOCKS:
        raise InputError(
            f"{run.name}: its requests take more than {MOST_BLOCKS} KV blocks of {server.block_size} tokens"
        )


def _check_incoming(run: Run) -> None:
    """Raise InputError for KV from elsewhere that is none, or beside what is not imitated together with it."""
    if not len(run.kv_tokens):
        return
    columns = {"kv_tokens": run.kv_tokens, "kv_block_us": run.kv_block_us, "kv_latency_us": run.kv_latency_us}
    for name, column in columns.items():
        if len(column) != len(run) or not (np.isfinite(column).all() and (column >= 0).all()):
            raise InputError(f"{run.name}: {name}: expected a finite number, not below 0, for each request")
    if (run.kv_tokens > run.prompt_tokens).any():
        row = int(np.argmax(run.kv_tokens > run.prompt_tokens))
        raise InputError(
            f"{run.name}: request {run.request_id[row]}: kv_tokens {run.kv_tokens[row]}: expected at most the "
            f"{run.prompt_tokens[row]} of its prompt"
        )
    beside = {
        "a closed loop": run.clients > 0,
        "clients that give up": bool(np.isfinite(run.deadline_us)),
        "policy: priority": run.server.settings.policy == "priority",
    }
    for what, there in beside.items():
        if there:
            raise InputError(f"{run.name}: {what} beside KV from another server: not imitated")


def _most_more(run: Run, shares: Ints | None) -> int:
    """The most blocks of further layer groups that a request of the run ever holds."""
    longest = int((run.prompt_tokens + run.output_tokens).max())
    return int(most_more_blocks(shares, longest, run.server.max_num_batched_tokens, run.server.block_size))


def _full_blocks(run: Run) -> Ints:
    """(requests,) KV blocks that each request fills, and one."""
    return (run.prompt_tokens + run.output_tokens) // run.server.block_size + 1


def replay(
    run: Run,
    tables: ComponentTables,
    parameters: Parameters,
    progress: Ints | None = None,
    seen_ttft_us: Floats = NOTHING_SEEN,
) -> Replay:
    """Serve the run's requests as vLLM would, with steps as long as the parameters say.

    `seen_ttft_us` are times to the first token that were measured, (requests,), NaN where none was: a fresh server's
    kernels are then compiled where these came late, and for as long (`cold_start`).

    `progress`, an array of one, is kept at the number of finished requests while the compiled loop runs (it releases
    the GIL). Raises InputError for a request that can never run, ValueError for tables that end before the budget.
    """
    budget = run.server.max_num_batched_tokens
    if len(tables.gemm) <= budget:
        raise ValueError(f"tables of {len(tables.gemm) - 1} tokens for a budget of {budget}")
    kernels = (int(tables.experts), int(tables.experts_per_token), int(tables.captured), float(tables.launches_us))
    step = StepParameters(*map(float, parameters.step))
    if not np.isfinite(step).all():
        raise InputError(f"{run.name}: step parameters: expected finite numbers, found {step}")
    if tables.block_ratio > 1:
        server = replace(run.server, block_size=run.server.block_size * int(tables.block_ratio))
        run = replace(run, server=server)
    return _serve(
        run,
        Formula(tables, step),
        parameters.request,
        progress,
        kernels,
        tables.shares,
        int(tables.verified) - 1,
        tables.acceptance,
        tables.reaches,
        parameters.pauses,
        seen_ttft_us,
    )


def replay_at(run: Run, step_us: float, progress: Ints | None = None) -> Replay:
    """As `replay`, with steps of `step_us` each and nothing between a request's arrival and the queue."""
    if not (np.isfinite(step_us) and step_us > 0):
        raise ValueError(f"step time: expected a positive time, found {step_us:g} µs")
    return _serve(run, float(step_us), RequestParameters(*([0.0] * len(RequestParameters._fields))), progress)


def replay_with(run: Run, times: StepTimes, request: RequestParameters, progress: Ints | None = None) -> Replay:
    """As `replay`, with steps as long as any function says: some µs more a step, and whatever the function takes.

    Raises what the function raises, and ValueError for a time that is not positive.
    """
    callback = Callback(times)
    result = _serve(run, callback.pointer, request, progress)
    callback.check()
    return result


def _serve(
    run: Run,
    source: Any,
    request: RequestParameters,
    progress: Ints | None,
    kernels: tuple[int, int, int, float] = (0, 0, 0, 0.0),
    shares: Ints | None = None,
    drafts: int = 0,
    acceptance: float | None = None,
    reaches: Ints | None = None,
    pauses: Pauses = NO_PAUSES,
    seen_ttft_us: Floats = NOTHING_SEEN,
) -> Replay:
    recorded, run = run, continued(run)
    _check_fits(run, shares, drafts)
    if not np.isfinite(request).all():
        raise InputError(f"{run.name}: request parameters: expected finite numbers, found {request}")
    server, rules = run.server, rules_of(run.server)
    # More places than requests, and more blocks than all of them fill, change nothing: they stay empty.
    blocks = min(
        server.num_gpu_blocks, int(_full_blocks(run).sum()) + 2 + len(run) * (_most_more(run, shares) + drafts)
    )
    rules = rules._replace(watermark_blocks=max(0, rules.watermark_blocks - (server.num_gpu_blocks - blocks)))
    limits = Limits(
        min(server.max_num_seqs, len(run)),
        server.max_num_batched_tokens,
        server.block_size,
        blocks,
        server.prefix_caching,
        1 if server.async_scheduling else 0,
        server.fresh,
        *kernels,
        drafts,
        acceptance,
    )
    requests, length = _requests(run, seen_ttft_us), len(recorded)
    work = workspace_of(requests, limits, rules.by_priority, reaches, shares)
    took, sums, times, cold = serve(
        requests,
        limits,
        rules,
        source,
        RequestParameters(*map(float, request)),
        Pauses(*map(float, pauses)),
        work,
        np.zeros(1, np.int64) if progress is None else progress,
        compiled_in(),
    )
    arrival = requests.arrival_us[:length]
    filled = work.filled
    first, last = filled.first_step[:length], filled.last_step[:length]
    queued, running = filled.queued_us[:length], filled.running_at_arrival[:length]
    noted = work.books.noted[:length]
    cached, preemptions = noted["cached_tokens"].copy(), noted["preemptions"].copy()
    del work, noted  # most of the memory
    incoming = requests.incoming
    transfers = NO_TRANSFERS if incoming is None else np.stack([incoming.begin_us, incoming.end_us])[:, :length]
    if length < len(run):
        took = max(int(first.max()), int(last.max())) + 1
    sums, (start, duration), cold = sums[:, :took], times[:, :took], cold[:, :took]
    end, completed = start + duration, last >= 0
    return Replay(
        ttft_us=np.where(completed, end[first] - arrival + request.pipeline_delay_us, np.nan),
        e2e_us=np.where(completed, end[last] - arrival + request.pipeline_delay_us, np.nan),
        schedule=Schedule(
            StepSums.from_rows(sums),
            start,
            duration,
            first,
            last,
            arrival,
            queued,
            running,
            cached,
            preemptions,
            cold,
            transfers,
        ),
    )
