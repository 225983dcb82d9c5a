"""Cases: exact batches that could be timed, within what a server and its GPU allow.

Decodes, fresh prompts, later chunks of prompts, prompts of which the cache has the beginning, and mixtures. Sizes are
those at which kernels change: the sizes of CUDA graphs (a served batch is padded to one), and one token more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from roofml.latency.deployment import Deployment
from roofml.latency.feasibility import blocks_of
from roofml.latency.kv_capacity import KvGroup, kv_capacity, kv_groups
from roofml.latency.server_defaults import default_batch, default_memory_utilization
from roofml.traces.engine_version import parse_version
from roofml.traces.forwards import FIRST_RELEASE, TimedRequest
from roofml.traces.server import Server
from roofml.util.errors import InputError, NotSupportedError

RELEASE = parse_version(FIRST_RELEASE, "engine version")
ROOM = 0.95
"""Share of the KV blocks that are estimated to fit which a case may take: an estimate is good to a few per cent."""
BATCHES = (1, 2, 4, 8, 16, 17, 24, 32, 33, 48, 49, 64, 65, 96, 128, 129, 192, 256, 257, 384, 512, 768, 1024)
CONTEXTS = (16, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
PROMPTS = (16, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
TOGETHER = (4, 16, 64)
"""Prompts of one batch."""
CHUNKS = (256, 1024, 2048, 8192)
HITS = (16, 64, 256)
"""New tokens after what the cache has."""
BESIDE = (8, 32, 128, 256)
"""Decodes beside prompts."""


@dataclass(frozen=True)
class Case:
    """A batch to time: groups of equal requests."""

    name: str
    """Of letters, digits, `_` and `x` alone: the benchmark names files after it."""
    groups: tuple[tuple[TimedRequest, int], ...]
    """Each a request, and how many of it."""

    @property
    def requests(self) -> list[TimedRequest]:
        """One by one."""
        return [request for request, count in self.groups for _ in range(count)]

    @property
    def new_tokens(self) -> int:
        """Tokens that it computes."""
        return sum(request.new_tokens * count for request, count in self.groups)

    @property
    def size(self) -> int:
        """How many requests."""
        return sum(count for _, count in self.groups)

    @property
    def syntax(self) -> str:
        """As `--case` takes it: `[N*]Q[@K][c]`, comma separated."""
        return ",".join(
            (f"{count}*" if count > 1 else "")
            + f"{request.new_tokens}"
            + (f"@{request.context + request.new_tokens}" if request.context else "")
            + ("c" if request.chunked else "")
            for request, count in self.groups
        )

    def to_dict(self) -> dict[str, Any]:
        """As an entry of `cases` in the file of `--shapes`."""
        return {
            "name": self.name,
            "requests": [
                {
                    "query_len": request.new_tokens,
                    "kv_len": request.context + request.new_tokens,
                    "num_draft_tokens": 0,
                    "chunked": request.chunked,
                    "count": count,
                }
                for request, count in self.groups
            ],
        }


@dataclass(frozen=True)
class Limits:
    """What bounds a case."""

    budget: int
    """New tokens of a step."""
    requests: int
    longest: int
    """Tokens of a request, new ones included."""
    blocks: int | None
    """KV blocks; None where the layout of the model's cache is not known."""
    groups: Sequence[KvGroup]
    shortened: bool
    """Whether `longest` is less than the model's own: the benchmark must be told."""
    block_size: int = 16
    """Tokens of a block."""

    def allow(self, case: Case) -> bool:
        """Whether the benchmark can run it."""
        if case.new_tokens > self.budget or case.size > self.requests:
            return False
        lengths = [(request.context + request.new_tokens, count) for request, count in case.groups]
        if max(tokens for tokens, _ in lengths) > self.longest:
            return False
        return self.blocks is None or blocks_of(self.groups, lengths, case.new_tokens) < self.blocks


def limits_of(
    deployment: Deployment,
    *,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    max_model_len: int | None = None,
) -> Limits:
    """What a server of this deployment, and the memory of its GPUs, allow: vLLM's defaults where nothing is said.

    Raises InputError where the model does not fit, and for a length beyond its positions.
    """
    budget, seqs = default_batch(deployment.gpu, RELEASE)
    budget, seqs = max_num_batched_tokens or budget, max_num_seqs or seqs
    model = deployment.on_rank
    reach = model.longest_context or model.max_position_embeddings
    if max_model_len is not None and max_model_len > reach:
        raise InputError(f"max_model_len {max_model_len}: {model.name} has {reach} positions, expected no more")
    longest, blocks, groups, block_size = max_model_len or reach, None, (), 16
    try:
        room = kv_capacity(
            model,
            deployment.gpu,
            deployment.tp,
            gpu_memory_utilization=default_memory_utilization(RELEASE),
            max_num_batched_tokens=budget,
            max_num_seqs=seqs,
        )
    except NotSupportedError:
        pass
    else:
        blocks, groups, block_size = int(ROOM * room.blocks), room.groups, room.block_size
        while longest > 1 and blocks_of(groups, [(longest, 1)], budget) >= blocks:
            longest //= 2
    return Limits(budget, seqs, longest, blocks, groups, longest < reach, block_size)


def limits_of_server(deployment: Deployment, server: Server) -> Limits:
    """The same of a server that ran."""
    try:
        groups: Sequence[KvGroup] = kv_groups(deployment.on_rank, deployment.tp, server.block_size)[0]
    except NotSupportedError:
        groups = ()
    return Limits(
        budget=server.max_num_batched_tokens,
        requests=server.max_num_seqs,
        longest=server.max_model_len,
        blocks=server.num_gpu_blocks if groups else None,
        groups=groups,
        shortened=True,
        block_size=server.block_size,
    )


def candidates(limits: Limits) -> list[Case]:
    """Every case that could be timed, shorter ones first of each kind; names are unique."""
    found: dict[str, Case] = {}
    for case in (*_decodes(limits), *_prompts(limits), *_mixtures(limits)):
        if limits.allow(case):
            found.setdefault(case.name, case)
    if not found:
        raise InputError(f"no batch fits a budget of {limits.budget} tokens and {limits.longest} of a request")
    return list(found.values())


def _contexts(limits: Limits, beside: int = 1) -> list[int]:
    """Contexts below the longest request's, and that of the longest itself."""
    longest = limits.longest - beside
    return [context for context in CONTEXTS if context < longest] + ([longest] if longest >= 1 else [])


def _decodes(limits: Limits) -> Iterator[Case]:
    for batch in BATCHES:
        for context in _contexts(limits):
            yield Case(f"d{batch}_k{context}", ((TimedRequest(1, context), batch),))
    for batch in BESIDE:  # contexts that differ within a batch
        for short, long in ((256, 4096), (256, 16384)):
            half = batch // 2
            groups = ((TimedRequest(1, short), batch - half), (TimedRequest(1, long), half))
            yield Case(f"d{batch - half}_k{short}_d{half}_k{long}", groups)


def _prompts(limits: Limits) -> Iterator[Case]:
    for new in sorted({*PROMPTS, limits.budget}):
        yield Case(f"p{new}", ((TimedRequest(new, 0), 1),))
        for count in TOGETHER:
            yield Case(f"p{new}x{count}", ((TimedRequest(new, 0), count),))
    for new in CHUNKS:
        for context in _contexts(limits, new):
            yield Case(f"c{new}_k{context}", ((TimedRequest(new, context, chunked=True), 1),))
    for new in HITS:
        for context in _contexts(limits, new):
            for count in (1, 8, 32):
                yield Case(f"h{new}x{count}_k{context}", ((TimedRequest(new, context), count),))


def _mixtures(limits: Limits) -> Iterator[Case]:
    for batch in BESIDE:
        for context in (256, 2048, 8192):
            decodes = (TimedRequest(1, context), batch)
            for new in sorted({16, 64, 256, 1024, limits.budget - batch}):
                if new >= 2:
                    yield Case(f"m{new}_d{batch}_k{context}", ((TimedRequest(new, 0), 1), decodes))
                    chunk = TimedRequest(new, 2048, chunked=True)
                    yield Case(f"m{new}_k2048_d{batch}_k{context}", ((chunk, 1), decodes))
