"""Arguments: a run, checked and laid out as the compiled loop takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from roofml.engine.clients import Requests
from roofml.engine.followers import followers_of
from roofml.engine.incoming import incoming_of, no_incoming
from roofml.engine.kv_cache import BlockKeys, block_keys
from roofml.engine.more_groups import most_more_blocks
from roofml.engine.rules import Limits, Rules
from roofml.engine.step_time import Formula
from roofml.engine.versions import rules_of
from roofml.engine.workspace import Workspace, workspace_of
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import Parameters, RequestParameters, StepParameters
from roofml.latency.pauses import NO_PAUSES, Pauses
from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.util.names import shown


@dataclass(frozen=True, eq=False)
class Waits:
    """Who waits for whose answer: sessions. Arrays have shape (requests,)."""

    after: Ints
    """The request, an earlier one, whose answer each waits for; -1: it is sent when the run says."""
    pause_us: Floats
    """How long after that answer it is sent."""


@dataclass(frozen=True, eq=False)
class Times:
    """How long things take on a server, and what of its model the schedule depends on."""

    source: Any
    """Of a step: `Formula`, a number of µs, or a pointer to a function."""
    request: RequestParameters
    kernels: tuple[int, int, int, float] = (0, 0, 0, 0.0)
    shares: Ints | None = None
    drafts: int = 0
    acceptance: float | None = None
    reaches: Ints | None = None
    pauses: Pauses = NO_PAUSES


class Arguments(NamedTuple):
    """What `scheduler.serve` takes, in its order."""

    requests: Requests
    limits: Limits
    rules: Rules
    source: Any
    request: RequestParameters
    pauses: Pauses
    work: Workspace


def times_of(run: Run, tables: ComponentTables, parameters: Parameters) -> tuple[Run, Times]:
    """The run on blocks as large as the model's are, and the times that its parameters say.

    Raises InputError for parameters that are no numbers, ValueError for tables that end before the budget.
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
    return run, Times(
        Formula(tables, step),
        parameters.request,
        kernels,
        tables.shares,
        int(tables.verified) - 1,
        tables.acceptance,
        tables.reaches,
        parameters.pauses,
    )


def _requests(run: Run, seen_ttft_us: Floats | None) -> Requests:
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
        np.ascontiguousarray(run.prompt_tokens),  # columns of a table are not, and the loop would be compiled again
        np.ascontiguousarray(run.output_tokens),
        keys,
        priority,
        given_up_us,
        order,
        min(run.clients, len(run)),
        run.deadline_us,
        run.pause_us if len(run.pause_us) else np.zeros(len(run)),
        incoming_of(run),
        seen_ttft_us=_padded(seen_ttft_us, len(run)),
    )


def _padded(seen_ttft_us: Floats | None, length: int) -> Floats | None:
    """The same of so many requests: those behind a recording nobody measured."""
    if seen_ttft_us is None:
        return None
    behind = np.full(length - len(seen_ttft_us), np.inf)
    return np.concatenate((np.where(np.isfinite(seen_ttft_us), seen_ttft_us, np.inf), behind))


def _not_sent(requests: Requests, waits: Waits, share: float) -> Requests:
    """Requests whose places in the order of arrival are not known yet, and room for a share of them, on average."""
    size, keys = len(waits.after), requests.keys
    places = size if share == 1.0 else min(size, int(share * size) + SPARE)
    own = keys.own_blocks
    own_keys = int(own.sum())
    room = own_keys if share == 1.0 else min(own_keys, int(share * own_keys) + SPARE * int(own.max()))
    shared_blocks, shared_key, own_key = np.zeros((3, places), np.int64)
    incoming = requests.incoming
    return requests._replace(
        arrival_us=np.full(places, np.inf),
        prompt=np.zeros(places, np.int64),
        output=np.zeros(places, np.int64),
        keys=BlockKeys(shared_blocks, shared_key, own_key, keys.total - own_keys + room),
        priority=np.zeros(places, np.int64),
        given_up_us=np.full(places, np.inf),
        giving_up=np.arange(places),
        incoming=None if incoming is None else no_incoming(places),
        followers=followers_of(
            *(requests.arrival_us, requests.prompt, requests.output, keys, requests.priority),
            *(waits.after, waits.pause_us, incoming, places),
        ),
    )


LIMITED = ("max_num_seqs", "max_num_batched_tokens", "block_size", "num_gpu_blocks", "max_model_len")
"""Fields of a server that something is as long as."""
SPARE = 64
"""Requests for which a server has room beyond its share."""
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


def _check_waits(run: Run, waits: Waits) -> None:
    """Raise InputError for a run that has no sessions, ValueError for who waits for nobody."""
    if run.clients or len(run.kv_tokens):
        raise InputError(f"{run.name}: sessions in a closed loop, or beside KV from another server: not imitated")
    if not len(waits.after) == len(waits.pause_us) == len(run) or (waits.after >= np.arange(len(run))).any():
        raise ValueError("waits: expected a number for each request, and an earlier request to wait for")


def arguments_of(
    run: Run,
    times: Times,
    waits: Waits | None = None,
    share: float | None = None,
    seen_ttft_us: Floats | None = None,
) -> Arguments:
    """The run's requests on an empty server; without a `share` all of them will be sent to it.

    With one, they are sent while the loop stands still (`live`), and there is room for as large a share of them. Raises
    InputError for what can never run, or takes more memory than there is, as `replay` says.
    """
    _check_fits(run, times.shares, times.drafts)
    if not np.isfinite(times.request).all():
        raise InputError(f"{run.name}: request parameters: expected finite numbers, found {times.request}")
    server, rules = run.server, rules_of(run.server)
    # More places than requests, and more blocks than all of them fill, change nothing: they stay empty.
    blocks = min(
        server.num_gpu_blocks,
        int(_full_blocks(run).sum()) + 2 + len(run) * (_most_more(run, times.shares) + times.drafts),
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
        *times.kernels,
        times.drafts,
        times.acceptance,
    )
    requests = _requests(run, seen_ttft_us)
    longest = int((run.prompt_tokens + run.output_tokens).max())
    if share is not None:
        requests = _not_sent(requests, Waits(np.arange(len(run)), np.zeros(len(run))), share)
    elif waits is not None:
        _check_waits(run, waits)
        requests = _not_sent(requests, waits, 1.0)
    return Arguments(
        requests,
        limits,
        rules,
        times.source,
        RequestParameters(*map(float, times.request)),
        Pauses(*map(float, times.pauses)),
        workspace_of(requests, longest, limits, rules.by_priority, times.reaches, times.shares),
    )
