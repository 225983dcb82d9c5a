"""Feasibility: whether a step, or a server, can be on a GPU at all. A time for what cannot be is wrong without a word.

What no memory or model allows is refused. What vLLM's defaults do not allow but the memory does is a sentence, for a
server can be started with other settings. A server that ran is given the benefit of every doubt: activations are left
out, its cache may have been in FP8 whatever the config says, and blocks may exceed the estimate by a quarter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from roofml.hardware.gpu import Gpu
from roofml.latency.batch import Batch
from roofml.latency.kv_capacity import (
    LIBRARY_BYTES,
    KvGroup,
    kv_capacity,
    kv_groups,
    smallest_group,
)
from roofml.latency.server_defaults import GIB, default_batch
from roofml.models.spec import ModelSpec
from roofml.traces.load import batch_slots
from roofml.traces.run import Run
from roofml.util.errors import InputError, NotSupportedError

TOLERANCE = 1.25
"""A server's KV blocks over those that are estimated to fit: the estimate is good to a percent, engines differ."""


def check_step(model: ModelSpec, gpu: Gpu, tp: int, batch: Batch, *, allow_oversize: bool = False) -> list[str]:
    """One sentence for each way in which vLLM's defaults do not allow a step that the memory does.

    Raises InputError for a step beyond the model's positions or the GPUs' memory, naming the smallest tensor parallel
    size that is enough; with `allow_oversize` that is a sentence, too.
    """
    requests = [(new + context, 1) for new, context in batch.prefill]
    requests += [(context + 1, count) for context, count in batch.decode]
    refused = _refusals(
        [
            lambda: _check_positions(model, max(tokens for tokens, _ in requests)),
            lambda: _check_weights(model, gpu, tp),
        ],
        allow_oversize,
    )
    try:
        groups, _, block_bytes = kv_groups(model, tp)
    except NotSupportedError:  # the layout of its blocks is not known
        return refused
    blocks = blocks_of(groups, requests, batch.new_tokens)
    refused = refused or _refusals([lambda: _check_cache(model, gpu, tp, requests, batch.new_tokens)], allow_oversize)
    if refused:
        return refused
    tokens, seqs = default_batch(gpu)
    tokens, seqs = max(tokens, batch.new_tokens), max(seqs, sum(count for _, count in requests))
    try:
        capacity = kv_capacity(model, gpu, tp, max_num_batched_tokens=tokens, max_num_seqs=seqs)
    except InputError as error:
        return [*_links(gpu, tp), f"at vLLM's default of 90 % of the memory, {error}"]
    if blocks <= capacity.blocks:
        return _links(gpu, tp)
    needed, left = blocks * block_bytes / GIB, capacity.blocks * block_bytes / GIB
    return [
        *_links(gpu, tp),
        f"the step's KV cache takes {needed:.1f} GiB of each GPU, and vLLM's default of 90 % of the memory leaves "
        f"{left:.1f} GiB",
    ]


def _links(gpu: Gpu, tp: int) -> list[str]:
    """What is taken on trust of how the GPUs of a group reach each other."""
    if tp == 1 or not gpu.over_pcie:
        return []
    return [
        f"tensor parallel size {tp} on {gpu.name}: its all-reduces go over PCIe, and are priced by what was measured "
        "between GPUs that reach each other's memory; without peer-to-peer access they take longer, nobody here knows "
        "how much"
    ]


def blocks_of(groups: Sequence[KvGroup], requests: Sequence[tuple[int, int]], new_tokens: int) -> int:
    """KV blocks of requests given as (tokens, how many of them), in a step that computes so many new ones."""
    return sum(count * sum(group.blocks(tokens, new_tokens) for group in groups) for tokens, count in requests)


def check_run(model: ModelSpec, gpu: Gpu, tp: int, run: Run, *, allow_oversize: bool = False) -> list[str]:
    """One sentence for each way in which the server of a run cannot do what it is set to.

    Raises InputError for a server that cannot have been on these GPUs with this model: with weights or KV blocks that
    do not fit, or with `max_model_len` beyond the model's positions. With `allow_oversize` that is a sentence, too.
    """
    server = run.server
    checks = (_check_length, _check_room, _check_blocks)
    refused = _refusals([partial(check, model, gpu, tp, run) for check in checks], allow_oversize)
    slots = batch_slots(run)
    if slots < server.max_num_seqs:
        refused.append(
            f"{run.name}: max_num_seqs {server.max_num_seqs} is never reached: {server.num_gpu_blocks} KV blocks hold "
            f"{slots} of its requests"
        )
    return [*refused, *_links(gpu, tp)]


def _refusals(checks: Sequence[Callable[[], None]], allow_oversize: bool) -> list[str]:
    """Make the checks. What they refuse, as sentences where that is allowed; else the first is raised."""
    refused: list[str] = []
    for check in checks:
        try:
            check()
        except InputError as error:
            if not allow_oversize:
                raise
            refused.append(str(error))
    return refused


def _check_room(model: ModelSpec, gpu: Gpu, tp: int, run: Run) -> None:
    try:
        _check_weights(model, gpu, tp)
    except InputError as error:
        raise InputError(f"{run.name}: {error}") from None


def _check_length(model: ModelSpec, _gpu: Gpu, _tp: int, run: Run) -> None:
    reach = _reach(model)
    if run.server.max_model_len > reach:
        raise InputError(
            f"{run.name}: max_model_len {run.server.max_model_len}: {model.name} has {reach} positions, expected "
            "no more"
        )


def _check_blocks(model: ModelSpec, gpu: Gpu, tp: int, run: Run) -> None:
    server = run.server
    try:
        # The trace may not say the type of the cache, and FP8 has the most blocks.
        spec = replace(model, kv_dtype="fp8") if server.kv_dtype in (None, "auto") else model
        groups, _, block_bytes = kv_groups(spec, tp, server.block_size)
    except NotSupportedError:
        return
    except InputError as error:
        raise InputError(f"{run.name}: {error}") from None
    assert groups
    most = max(_room(model, gpu, tp), 0) // block_bytes
    if server.num_gpu_blocks > TOLERANCE * most:
        needed = server.num_gpu_blocks * block_bytes / GIB
        kind = "even in FP8 " if spec is not model else ""
        raise InputError(
            f"{run.name}: num_gpu_blocks {server.num_gpu_blocks}: they take {needed:,.1f} GiB {kind}beside the "
            f"weights of {model.name}, and {gpu.name} with tensor parallel size {tp} has room for {most}"
        )


def _reach(model: ModelSpec) -> int:
    return model.longest_context or model.max_position_embeddings


def _check_positions(model: ModelSpec, tokens: int) -> None:
    if tokens > _reach(model):
        raise InputError(
            f"a request of {tokens} tokens, context and new ones: {model.name} has {_reach(model)} positions"
        )


def _room(model: ModelSpec, gpu: Gpu, tp: int) -> int:
    """Bytes of each GPU that all of its memory leaves beside the weights and the libraries."""
    return gpu.process_memory_bytes - model.weight_bytes(tp) - LIBRARY_BYTES


def _check_weights(model: ModelSpec, gpu: Gpu, tp: int) -> None:
    if _room(model, gpu, tp) >= 0:
        return
    weights, memory = model.weight_bytes(tp) / GIB, gpu.process_memory_bytes / GIB
    raise InputError(
        f"{model.name} does not fit on {gpu.name} with tensor parallel size {tp}: its weights take {weights:.1f} of "
        f"{memory:.1f} GiB; {smallest_group(tp, lambda larger: _room(model, gpu, larger) >= 0)}"
    )


def _check_cache(model: ModelSpec, gpu: Gpu, tp: int, requests: Sequence[tuple[int, int]], new_tokens: int) -> None:
    def needed(size: int) -> int:
        groups, _, block_bytes = kv_groups(model, size)
        return blocks_of(groups, requests, new_tokens) * block_bytes

    if needed(tp) > _room(model, gpu, tp):
        larger = smallest_group(tp, lambda size: needed(size) <= _room(model, gpu, size))
        raise InputError(
            f"the step does not fit on {gpu.name} with tensor parallel size {tp}: its KV cache takes "
            f"{needed(tp) / GIB:,.1f} GiB of each GPU, {model.name} leaves {_room(model, gpu, tp) / GIB:.1f}; {larger}"
        )
