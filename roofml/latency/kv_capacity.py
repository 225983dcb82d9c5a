"""KV capacity: how many cache blocks fit on a GPU beside the weights, as vLLM finds out when it starts.

vLLM V1 runs the model once on the largest batch it will accept, notes the peak of memory, and gives the rest of its
share to KV blocks (vllm/v1/worker/gpu_worker.py, determine_available_memory, v0.15):

    KV bytes = gpu_memory_utilization · memory that the driver reports
               - weights - peak of activations - what lies outside of PyTorch's allocator

CUDA graphs are captured afterwards, in the part that `gpu_memory_utilization` leaves free: they cost no blocks.
Recurrent states live in blocks, too. Sizes in bytes of one GPU unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.latency.server_defaults import GIB, default_batch
from roofml.models.operations import AttentionOp, MixerOp
from roofml.models.spec import ModelSpec
from roofml.traces.limits import MOST_OF_SERVER
from roofml.util.arrays import Ints
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown

LIBRARY_BYTES = GIB // 4
"""Outside of PyTorch's allocator on every GPU: cuBLAS and Triton workspaces, loaded kernels.

vLLM logs it as non_torch_memory: 0.16 GiB in vllm-project/vllm#12126, 0.20 GiB in #14447; attention workspaces of the
V1 engine add to it."""

COMMUNICATOR_BYTES = GIB // 2
"""The same for tensor parallelism: NCCL channels and the registered buffers of the custom and symmetric-memory
all-reduce, which do not depend on the model."""

LOGIT_BYTES = 30
"""Peak bytes of one logit in the sampler: the LM head's (2), in FP32 (4), sorted with their order (4 + 8), and the
sort's second buffer (12)."""

LATENT_BLOCK_SIZE, BLOCK_SIZE = 64, 16
"""vLLM's default tokens per block: FlashMLA needs 64."""


@dataclass(frozen=True)
class KvGroup:
    """Layers that share a block table: a request needs the same blocks in each of them."""

    op: MixerOp
    block_size: int
    """Tokens of one block (of a recurrent state, which takes one block whatever the context: the attention's)."""
    pages: int = 1
    """Blocks of the pool that one of its own takes."""

    def blocks(self, context: int, max_num_batched_tokens: int) -> int:
        """Blocks of a request with `context` tokens: all of them, those a window can reach, or one state."""
        if not isinstance(self.op, AttentionOp):
            return 1
        if not self.reach:
            return -(-context // self.block_size)
        return self.pages * (-(-min(context, self.reach - 1 + max_num_batched_tokens) // self.block_size) + 1)

    @property
    def reach(self) -> int:
        """Tokens that the group keeps; 0 = all, of which merged entries keep one in `compression`."""
        if not isinstance(self.op, AttentionOp) or self.op.compression > 1:
            return 0
        return self.op.window or self.op.chunk


@dataclass(frozen=True)
class KvCapacity:
    """What fits on one GPU of the tensor-parallel group, and how the rest of its memory is used."""

    blocks: int
    """vLLM's num_gpu_blocks."""
    block_size: int
    """Tokens of one block."""
    block_bytes: int
    """Bytes of one block in all layers that share it."""
    groups: tuple[KvGroup, ...]
    usable_bytes: int
    """gpu_memory_utilization · memory that the driver reports."""
    weight_bytes: int
    activation_bytes: int
    other_bytes: int
    max_num_batched_tokens: int
    max_num_seqs: int

    @property
    def kv_bytes(self) -> int:
        """What is left for the cache."""
        return self.usable_bytes - self.weight_bytes - self.activation_bytes - self.other_bytes

    def requests(self, context: int) -> float:
        """Requests of `context` tokens that the cache holds at once (vLLM logs it as maximum concurrency)."""
        return self.blocks / sum(group.blocks(context, self.max_num_batched_tokens) for group in self.groups)


def activation_bytes(model: ModelSpec, tp: int, max_num_batched_tokens: int, max_num_seqs: int) -> int:
    """Peak of activations in vLLM's profiling run: the widest layer on a full batch, or the sampler after it.

    Layer: tokens · (2·hidden + 1.5·n) elements: the residual and its norm, the output of the widest product (n; gate
    and up of an MLP) and the half that its activation function makes of it. A mixture has n columns for every expert a
    token visits, and never less than the hidden size, to which the same buffer returns. Sampler: LOGIT_BYTES for each
    of the max_num_seqs · vocabulary logits, beside the hidden states.
    """
    widest = 0
    for gemm in model.gemms(tp):
        if gemm.rows == "tokens":
            output = max(gemm.n, model.hidden_size) if gemm.experts else gemm.n
            widest = max(widest, max(1, gemm.experts_per_token) * (2 * output + gemm.n) // 2)
    layer = max_num_batched_tokens * (2 * model.hidden_size + widest) * model.dtype_bytes
    hidden = max_num_batched_tokens * model.hidden_size * model.dtype_bytes
    return max(layer, hidden + min(max_num_seqs, max_num_batched_tokens) * model.vocab_size * LOGIT_BYTES)


def kv_groups(model: ModelSpec, tp: int, block_size: int | None = None) -> tuple[tuple[KvGroup, ...], int, int]:
    """The groups of layers that share blocks, the block size, and the bytes of one block.

    Layers of one kind are one group. Mixed kinds (full and windowed attention, recurrent layers) are cut into groups of
    equally many layers, which take turns in the same memory: as many as the rarest kind has, or as the commonest where
    that is less than 1.25 times more. Pages of all kinds are made equal by larger blocks for the narrower kind; next to
    recurrent layers the attention's block grows until it holds a state. Source: vllm/v1/core/kv_cache_utils.py, v0.15.
    """
    ops = model.mixers(tp)
    if any(isinstance(op, AttentionOp) and op.compression > 1 for op in ops):
        return _merged_groups(ops)
    if not any(isinstance(op, AttentionOp) for op in ops):
        raise NotSupportedError(f"{model.name}: a model without attention keeps no KV cache")
    latent = any(op.name == "latent_attention" for op in ops)
    size = block_size or (LATENT_BLOCK_SIZE if latent else BLOCK_SIZE)
    per_token = {op: op.kv_bytes + op.index_bytes for op in ops if isinstance(op, AttentionOp)}
    state = max((op.state_bytes for op in ops if not isinstance(op, AttentionOp)), default=0)
    if state:
        size *= max(1, -(-state // (size * min(per_token.values()))))
    if (all(op.window == 0 and op.chunk == 0 for op in per_token) and not state) or len(ops) == 1:
        groups = tuple(KvGroup(op, size) for op in list(per_token)[:1])
        return groups, size, size * sum(op.count * per_token[op] for op in per_token)
    page = size * max(per_token.values())
    counts = [op.count for op in ops]
    layers = max(counts) if max(counts) < 1.25 * min(counts) else min(counts)
    groups: tuple[KvGroup, ...] = ()
    for op in ops:
        own = page // per_token[op] if isinstance(op, AttentionOp) else size
        groups += (KvGroup(op, own),) * -(-op.count // layers)
    return groups, size, layers * page


MERGED_BLOCK, WINDOW_BLOCK = 256, 64
"""Tokens of a block of merged entries, which is 64 entries of ratio 4 or 2 of ratio 128, and of their window's."""


def _merged_groups(ops: Sequence[MixerOp]) -> tuple[tuple[KvGroup, ...], int, int]:
    """Of a model with merged entries (DeepSeek-V4): these of all layers in one block, and every layer's window.

    vLLM keeps pages of several sizes there; here a block of the window takes as many of the pool's blocks as its bytes
    are of theirs, rounded up. The states of the compressors, a few entries a request, are left out.
    """
    attention = [op for op in ops if isinstance(op, AttentionOp)]
    merged = [op for op in attention if op.compression > 1]
    block_bytes = sum(op.count * MERGED_BLOCK // op.compression * (op.kv_bytes + op.index_bytes) for op in merged)
    window = sum(op.count * WINDOW_BLOCK * op.kv_bytes for op in attention)
    near = replace(attention[0], compression=1, top_k=0, index_bytes=0, index_flops_per_pair=0)
    groups = (KvGroup(merged[0], MERGED_BLOCK), KvGroup(near, WINDOW_BLOCK, -(-window // block_bytes)))
    return groups, MERGED_BLOCK, block_bytes


class FurtherGroups(NamedTuple):
    """What the replay needs to know of a model's layer groups."""

    shares: Ints | None
    """(kinds, 3) how the blocks of a request go in the groups beside the first: blocks of the pool that a block takes
    in all groups of the kind; tokens that it reaches, 0 for all and -1 for a state; tokens of its block over the first
    group's. None where the first is all there is."""
    block_ratio: int
    """Tokens of a block of the first group over the engine's block size."""


def further_groups(model: ModelSpec, tp: int) -> FurtherGroups:
    """The layer groups of a model as the replay takes them; the first is one that keeps every token.

    A block smaller than the first's counts as so many more. A chunk counts as a window of its size, which is what it
    holds at most. Where every group has a window a request is replayed as if it kept all of its blocks.
    """
    try:
        groups, size, _ = kv_groups(model, tp)
    except NotSupportedError:  # a model that keeps no cache
        return FurtherGroups(None, 1)
    first = next((group for group in groups if isinstance(group.op, AttentionOp) and not group.reach), None)
    if first is None or len(groups) == 1:
        return FurtherGroups(None, 1)
    others = list(groups)
    others.remove(first)
    rows: dict[tuple[int, int], int] = {}
    for group in others:
        reach = group.reach if isinstance(group.op, AttentionOp) else -1
        ratio = max(1, group.block_size // first.block_size)
        pages = group.pages * max(1, first.block_size // group.block_size)
        rows[reach, ratio] = rows.get((reach, ratio), 0) + pages
    shares = np.array([(pages, reach, ratio) for (reach, ratio), pages in rows.items()], np.int64)
    return FurtherGroups(shares, max(1, first.block_size // size))


def check_options(
    gpu_memory_utilization: float = 0.9,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    block_size: int | None = None,
) -> None:
    """Raise InputError naming the option of `kv_capacity` that no server can be started with."""
    if not 0 < gpu_memory_utilization <= 1:
        raise InputError(f"gpu_memory_utilization {gpu_memory_utilization}: expected a number above 0, up to 1")
    given = {"max_num_batched_tokens": max_num_batched_tokens, "max_num_seqs": max_num_seqs, "block_size": block_size}
    for name, value in given.items():
        if value is not None and not 1 <= value <= MOST_OF_SERVER[name]:
            raise InputError(f"{name} {shown(value)}: expected between 1 and {MOST_OF_SERVER[name]}")


def kv_capacity(
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    *,
    gpu_memory_utilization: float = 0.9,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    block_size: int | None = None,
) -> KvCapacity:
    """The KV blocks of `model` on `tp` GPUs. Batch limits and block size default to vLLM's.

    Raises InputError where the model does not divide by `tp` or leaves no room, naming the smallest TP that does.
    """
    check_options(gpu_memory_utilization, max_num_batched_tokens, max_num_seqs, block_size)
    tokens, seqs = default_batch(gpu)
    tokens = tokens if max_num_batched_tokens is None else max_num_batched_tokens
    seqs = seqs if max_num_seqs is None else max_num_seqs
    groups, size, block_bytes = kv_groups(model, tp, block_size)
    capacity = KvCapacity(
        blocks=0,
        block_size=size,
        block_bytes=block_bytes,
        groups=groups,
        usable_bytes=int(gpu_memory_utilization * gpu.process_memory_bytes),
        weight_bytes=model.weight_bytes(tp),
        activation_bytes=activation_bytes(model, tp, tokens, seqs),
        other_bytes=LIBRARY_BYTES + (COMMUNICATOR_BYTES if tp > 1 else 0),
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
    )
    blocks = capacity.kv_bytes // block_bytes
    if blocks < 1:
        raise InputError(_no_room(model, gpu, tp, capacity))
    return replace(capacity, blocks=blocks)


def _no_room(model: ModelSpec, gpu: Gpu, tp: int, capacity: KvCapacity) -> str:
    needed = capacity.weight_bytes + capacity.activation_bytes + capacity.other_bytes
    message = (
        f"{model.name} does not fit on {gpu.name} with tensor parallel size {tp}: weights and activations take "
        f"{needed / GIB:.1f} of {capacity.usable_bytes / GIB:.1f} GiB"
    )
    return f"{message}; {smallest_group(tp, lambda larger: _fits(model, larger, capacity))}"


def smallest_group(tp: int, fits: Callable[[int], bool]) -> str:
    """For an error: the smallest power of two above `tp` that is enough GPUs."""
    for larger in (2**power for power in range(1, 11)):
        try:
            if larger > tp and fits(larger):
                return f"minimum tensor parallel size: {larger}"
        except InputError:  # the model does not divide by it
            continue
    return "no tensor parallel size up to 1024 is enough"


def _fits(model: ModelSpec, tp: int, capacity: KvCapacity) -> bool:
    weights = model.weight_bytes(tp)
    activations = activation_bytes(model, tp, capacity.max_num_batched_tokens, capacity.max_num_seqs)
    block_bytes = kv_groups(model, tp, None)[2]
    return weights + activations + LIBRARY_BYTES + COMMUNICATOR_BYTES + block_bytes <= capacity.usable_bytes
