"""A slow, plain reading of vLLM's V1 scheduler and block pool, to hold the compiled replay against.

Lists and dictionaries, tokens by name, one object a request; it shares nothing with roofml/engine but what vLLM does,
of 0.15 and of 0.33. Recorded schedules of the real one are in test_conformance.py.
Source: vllm/v1/core/sched/scheduler.py, core/block_pool.py, engine/core.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from roofml.latency.parameters import RequestParameters
from roofml.traces.run import Run

Row = tuple[float, ...]
"""Prefill tokens, decode tokens, requests, prefill pairs, prefill context, decode context, of it past 1,024 tokens."""


@dataclass
class Request:
    number: int
    arrival: float
    prompt: int
    output: int
    tokens: list[tuple[str, int, int]]
    """Every token of prompt and answer by name: equal names, equal tokens."""
    queued: float = 0.0
    running_at_arrival: int = 0
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    generated: int = 0
    known: int = 0
    """Output tokens whose step has ended."""
    cached: int | None = None
    first_step: int = -1
    last_step: int = -1
    preemptions: int = 0


class BlockPool:
    def __init__(self, blocks: int, block_size: int, caching: bool, empty_first: bool) -> None:
        self.size, self.caching, self.empty_first = block_size, caching, empty_first
        self.free = list(range(blocks - 1))  # in order of eviction; vLLM keeps one block for itself
        self.users = [0] * (blocks - 1)
        self.holds: dict[int, tuple[object, ...]] = {}
        self.found: dict[tuple[object, ...], list[int]] = {}

    def key(self, request: Request, index: int) -> tuple[object, ...]:
        """All tokens up to the end of the block: a block's keys and values depend on what stands before it."""
        return tuple(request.tokens[: (index + 1) * self.size])

    def hits(self, request: Request) -> list[int]:
        """The cached blocks a request begins with, all but the one of its last token."""
        known, blocks = request.prompt + request.generated, []
        while self.caching and (len(blocks) + 1) * self.size <= known - 1:
            copies = self.found.get(self.key(request, len(blocks)))
            if not copies:
                break
            blocks.append(copies[0])
        return blocks

    def missing(self, request: Request, until: int) -> int:
        """Blocks to be handed out before `until` tokens can be computed."""
        return -(-until // self.size) - len(request.blocks)

    def grow(self, request: Request, until: int) -> None:
        for _ in range(self.missing(request, until)):
            block = self.free.pop(0)
            key = self.holds.pop(block, None)
            if key is not None:
                self.found[key].remove(block)
            self.users[block] = 1
            request.blocks.append(block)
        self.remember(request, min(until, request.prompt + request.known))

    def remember(self, request: Request, tokens: int) -> None:
        """The first tokens are computed and known: their full blocks can be found."""
        for index in range(tokens // self.size if self.caching else 0):
            key, block = self.key(request, index), request.blocks[index]
            if block not in self.holds:
                self.found.setdefault(key, []).append(block)
                self.holds[block] = key

    def take(self, request: Request, blocks: list[int]) -> None:
        for block in blocks:
            if self.users[block] == 0:
                self.free.remove(block)
            self.users[block] += 1
        request.blocks = list(blocks)

    def release(self, request: Request) -> None:
        first: list[int] = []
        for block in reversed(request.blocks):
            self.users[block] -= 1
            if self.users[block] == 0:
                (first if self.empty_first and block not in self.holds else self.free).append(block)
        self.free[:0] = first
        request.blocks = []


@dataclass
class Scheduler:
    run: Run
    pool: BlockPool
    reserves: bool
    """Whether a waiting request is admitted only if all of it fits."""
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)

    def batch(self, clock: float) -> list[tuple[Request, int]]:
        """Who is computed in the next step, and how many tokens of each."""
        server, budget, scheduled = self.run.server, self.run.server.max_num_batched_tokens, []
        preempting = False
        for request in list(self.running):
            if budget == 0 or request not in self.running:
                break
            if request.generated == request.output:
                continue  # nothing left to compute, its last step is in flight
            new = min(request.prompt + request.generated - request.computed, budget)
            while request in self.running and self.pool.missing(request, request.computed + new) > len(self.pool.free):
                preempting = True
                self.preempt(self.running.pop())
            if request not in self.running:
                break
            self.pool.grow(request, request.computed + new)
            scheduled.append((request, new))
            budget -= new
        while not preempting and budget > 0 and self.waiting and len(self.running) < server.max_num_seqs:
            request = self.waiting[0]
            if request.queued > clock:
                break
            hits = self.pool.hits(request)
            start = len(hits) * self.pool.size
            new = min(request.prompt + request.generated - start, budget)
            idle = sum(self.pool.users[block] == 0 for block in hits)
            until = request.prompt + request.generated if self.reserves else start + new
            if -(-until // self.pool.size) - len(hits) + idle > len(self.pool.free):
                break
            self.running.append(self.waiting.pop(0))
            self.pool.take(request, hits)
            request.computed = start
            request.cached = start if request.cached is None else request.cached
            self.pool.grow(request, start + new)
            scheduled.append((request, new))
            budget -= new
        return scheduled

    def preempt(self, request: Request) -> None:
        self.pool.release(request)
        request.computed = 0
        request.preemptions += 1
        if request.generated < request.output:
            self.waiting.insert(0, request)


def row_of(batch: list[tuple[Request, int]]) -> Row:
    prefill = [(new, r.computed) for r, new in batch if new > 1 or r.computed < r.prompt]
    decode = [r.computed for r, new in batch if not (new > 1 or r.computed < r.prompt)]
    pairs = sum(float(context + i) for new, context in prefill for i in range(1, new + 1))
    context = sum(context for _, context in prefill)
    return (
        sum(new for new, _ in prefill),
        len(decode),
        len(batch),
        pairs,
        context,
        sum(decode),
        sum(max(0, c - 1024) for c in decode),
    )


def simulate(
    run: Run, step_us: Callable[[Row], float], p: RequestParameters
) -> tuple[list[Row], list[float], list[Request]]:
    """The rows of the steps, when each started, and the requests as they ended."""
    server = run.server
    coming: list[Request] = []
    for number, arrival in enumerate(run.arrival_us.tolist()):
        prompt, output = int(run.prompt_tokens[number]), int(run.output_tokens[number])
        shared = int(run.prefix_tokens[number]) if run.prefix_group[number] >= 0 else 0
        names = [("group", int(run.prefix_group[number]), i) for i in range(min(shared, prompt))]
        names += [("request", number, i) for i in range(len(names), prompt + output)]
        coming.append(Request(number, arrival, prompt, output, names))
    requests, unfinished = list(coming), len(coming)
    newer = server.engine_version == "0.33.0"
    pool = BlockPool(server.num_gpu_blocks, server.block_size, server.prefix_caching, newer)
    scheduler = Scheduler(run, pool, newer)
    rows: list[Row] = []
    starts: list[float] = []
    in_flight: list[tuple[float, list[Request]]] = []
    """When each of them ends, and who gets a token from it."""
    clock, last_end = coming[0].arrival, 0.0
    while unfinished:
        while coming and coming[0].arrival <= clock:
            request = coming.pop(0)
            request.running_at_arrival = len(scheduler.running)
            wait = p.queueing_us + p.queueing_per_running_us * request.running_at_arrival
            request.queued = request.arrival + wait
            scheduler.waiting.append(request)
        batch = scheduler.batch(clock)
        if batch:
            rows.append(row_of(batch))
            starts.append(max(clock, last_end))
            last_end = starts[-1] + step_us(rows[-1])
            sampled: list[Request] = []
            for request, new in batch:
                request.computed += new
                if request.computed == request.prompt + request.generated:
                    request.generated += 1
                    sampled.append(request)
                    request.first_step = len(rows) - 1 if request.generated == 1 else request.first_step
                    request.last_step = len(rows) - 1
            in_flight.append((last_end, sampled))
            if len(in_flight) <= server.async_scheduling:
                continue
        elif not in_flight:
            clock = max(clock, scheduler.waiting[0].queued) if scheduler.waiting else coming[0].arrival
            continue
        clock, sampled = in_flight.pop(0)
        for request in sampled:
            request.known += 1
            if request in scheduler.running:  # else it was preempted meanwhile
                pool.remember(request, request.computed - (request.generated - request.known))
            if request.known < request.output:
                continue
            unfinished -= 1
            if request in scheduler.running:
                scheduler.running.remove(request)
                pool.release(request)
    return rows, starts, requests
