"""Attention kernels: what those of a layer reach, from the table of its kind, else from one that stands in.

Grouped-query attention has tables by heads and size. Latent attention, indexed and merged entries were measured as
whole blocks of a layer, less their projections (`hardware.modules`). A kind that nobody measured is priced at another
kernel's efficiency, and with a variance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import STANDS_IN
from roofml.hardware.kernels import Efficiency
from roofml.hardware.modules import Scan
from roofml.models.operations import AttentionOp, StateOp
from roofml.models.reach import WHOLE
from roofml.models.spec import ModelSpec

SD_OF_ANOTHER_KERNEL = 0.35
"""Relative sd added in quadrature where a kind of attention has no table and another kernel's efficiency stands in.

From H100, vLLM 0.25: full attention's efficiency for a window of 128 is off by a factor of up to 6 in long prompts, and
by a third in decoding."""
SHARED_ENTRY = ("latent_attention", "compressed_attention")
"""Kinds whose query heads all read one cache entry a token."""
INDEX_DTYPE = "fp8"
"""Type that indexers compute scores in."""
UNIT = 128 * 128
"""Elements of the state of a head as scans were measured."""


class PrefillKernel(NamedTuple):
    """Attention of prompts in one layer."""

    rate: float
    """FLOP/µs on query-entry pairs."""
    index_rate: float
    """FLOP/µs on an indexer's scores."""
    token_us: float
    """Time of every token besides, µs."""
    launch_us: float
    """Time of the launch where it is not in that of decoding, µs."""
    sd: float
    table_sd: float
    """Of `sd`, what is part of the corrections' priors."""


class DecodeKernel(NamedTuple):
    """Attention of decodes in one layer."""

    rate: float
    """FLOP/µs on query-entry pairs."""
    bandwidth: float
    """bytes/µs at which it reads entries."""
    index_bandwidth: float
    """bytes/µs at which it reads the indexer's keys."""
    fixed_us: float
    item_us: float
    """Time of each work item beyond the first `free_items`, µs; a request is `items` of them."""
    items: int
    free_items: int
    sd: float
    table_sd: float
    """Of `sd`, what is part of the corrections' priors."""
    whole: bool = False
    """Whether it was measured as a block over all contexts, of which `long_context` has nothing to add."""


def block_of(op: AttentionOp) -> str:
    """The kind of block (`hardware.modules`) that an operation is; empty for grouped-query attention."""
    if op.name == "latent_attention":
        return "dsa" if op.top_k else "mla"
    if op.name == "compressed_attention":
        return "csa" if op.top_k else "hca"
    return ""


def uses_modules(model: ModelSpec, tp: int) -> bool:
    """Whether a model has layers that `hardware.modules` has tables for."""
    return any(isinstance(op, StateOp) or block_of(op) for op in model.mixers(tp))


def kv_dtype(op: AttentionOp) -> str:
    """Data type of the cache: FP8 where an entry's bytes are no more than its elements."""
    elements = op.kv_heads * (op.qk_dim + op.value_dim)
    if op.name == "latent_attention":
        elements = op.decode_flops_per_pair // (2 * op.heads)  # 2·rank + rope; an entry has rank + rope of them
    if op.name == "compressed_attention":
        elements = op.qk_dim
    return "fp8" if op.kv_bytes <= elements else STANDS_IN


def index_rate(op: AttentionOp, gpu: Gpu) -> float:
    """Peak FLOP/µs of an indexer's scores: FP8, or the type of the model where the GPU has no FP8."""
    return gpu.flops_rate(INDEX_DTYPE if INDEX_DTYPE in gpu.flops_per_us else op.flops_dtype)


def prefill_kernel(op: AttentionOp, gpu: Gpu, efficiency: Efficiency) -> PrefillKernel:
    """The kernel that computes an operation's prompts."""
    peak, scores = gpu.flops_rate(op.flops_dtype), index_rate(op, gpu)
    if op.name == "latent_attention" and not op.top_k and efficiency.latent_prefill_rows is not None:
        mfu, sd = efficiency.latent_prefill(op.flops_dtype, op.heads)
        return PrefillKernel(peak * mfu, scores, 0.0, 0.0, sd, efficiency.prefill_attention_rows.sd)
    block = efficiency.modules.block(block_of(op), True, kv_dtype(op), op.heads)
    if block is not None:
        return PrefillKernel(
            peak * block.share, scores * block.index_share, block.item_us, block.fixed_us, block.sd, 0.0
        )
    if op.name in SHARED_ENTRY:
        mfu, sd = efficiency.latent_prefill(op.flops_dtype, op.heads)
    else:
        mfu, sd = efficiency.prefill_attention(op.flops_dtype, op.heads, op.kv_heads, op.qk_dim)
    sd = math.hypot(sd, SD_OF_ANOTHER_KERNEL if op.reach != WHOLE else 0.0)
    return PrefillKernel(peak * mfu, scores * mfu, 0.0, 0.0, sd, efficiency.prefill_attention_rows.sd)


def decode_kernel(op: AttentionOp, gpu: Gpu, efficiency: Efficiency) -> DecodeKernel:
    """The kernel that computes an operation's decodes: that of its cache's data type, heads and KV heads."""
    bandwidth, dtype = gpu.bandwidth_bytes_per_us, kv_dtype(op)
    measured = op.name == "latent_attention" and not op.top_k and efficiency.latent_decode_rows is not None
    block = None if measured else efficiency.modules.block(block_of(op), False, dtype, op.heads)
    peak = gpu.flops_rate(op.flops_dtype)
    if block is not None:
        return DecodeKernel(
            peak,
            bandwidth * block.share,
            bandwidth * block.index_share,
            block.fixed_us,
            block.item_us,
            items=1,
            free_items=0,
            sd=block.sd,
            table_sd=0.0,
            whole=True,
        )
    shared = op.name in SHARED_ENTRY
    if shared:
        kernel = efficiency.latent_decode(dtype, op.heads)
    else:
        kernel = efficiency.decode_attention(dtype, op.heads, op.kv_heads, op.qk_dim)
    return DecodeKernel(
        peak * prefill_kernel(op, gpu, efficiency).rate / peak,
        bandwidth * kernel.mbu,
        bandwidth * kernel.mbu,
        kernel.fixed_us,
        kernel.item_us,
        items=1 if shared else op.kv_heads,
        free_items=gpu.sm_count,
        sd=math.hypot(kernel.sd, SD_OF_ANOTHER_KERNEL if op.reach != WHOLE else 0.0),
        table_sd=efficiency.decode_attention_rows.sd,
    )


def scan_kernel(op: StateOp, gpu: Gpu, efficiency: Efficiency) -> Scan:
    """The kernels of a recurrent layer. Mamba-2's were measured nowhere: a gated delta rule with states as large."""
    kind = "gdn" if op.scan == "mamba2" else op.scan
    scan = efficiency.modules.scan(kind, max(1.0, op.state_elements / UNIT))
    if scan is None:
        kernel = efficiency.decode_attention(STANDS_IN, op.heads, op.heads, 128)
        return Scan(0.0, kernel.mbu, 0.0, op.flops_per_token / gpu.flops_rate(op.flops_dtype), SD_OF_ANOTHER_KERNEL)
    return scan._replace(sd=math.hypot(scan.sd, SD_OF_ANOTHER_KERNEL)) if op.scan == "mamba2" else scan
