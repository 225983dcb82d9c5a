"""Attention blocks measured whole -> modules/*_decode.csv and *_prefill.csv: latent, indexed and merged attention.

vLLM's newer measurements are of a layer's whole attention, with its projections. What roofml prices itself is taken
off: each projection at the time that the GPU's table of products has for it. The rest is a straight line: a launch, a
request or token, the entries read (or pairs computed) and those that an indexer scores. The shapes are those of the
models that were measured; what a query reads is `models.reach`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import GemmTable
from roofml.microbench.derive.curves import robust_sd
from roofml.microbench.derive.family import Derived, Family
from roofml.models.attention import CompressedAttention, LatentAttention, SparseIndexer
from roofml.models.operations import AttentionOp
from roofml.util.arrays import Floats

LEAST_SHARE = 0.15
"""Of a block's time that is left at least when its projections are taken off: what they leave cannot be nothing."""
GEMM_DTYPES = {"bfloat16": "bfloat16", "fp8_block": "fp8", "fp8": "fp8"}
DECODE = "kv_dtype,heads,fixed_us,item_us,mbu,index_mbu,sd"
PREFILL = "kv_dtype,heads,fixed_us,token_us,mfu,index_mfu,sd"
Mixer = LatentAttention | CompressedAttention


@dataclass(frozen=True)
class Block:
    """A measured kind: the mixer of its model, and the rows that are of it."""

    mixer: Mixer
    hidden: int
    model: str = ""
    """In the column `model`; empty = all rows."""
    floor_us: float = 0.0
    """Prompts that take less were measured without a CUDA graph: theirs is the time of a CPU that launches kernels."""

    def on(self, heads: int) -> Mixer:
        """The mixer of a rank with so many heads."""
        if isinstance(self.mixer, CompressedAttention):
            groups = max(1, self.mixer.output_groups * heads // self.mixer.heads)
            return replace(self.mixer, heads=heads, output_groups=groups)
        return replace(self.mixer, heads=heads)


LATENT = LatentAttention(heads=128, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, query_rank=1536)
MLA = Block(LATENT, 7168)
DSA = Block(replace(LATENT, indexer=SparseIndexer(64, 128, 2048)), 7168, "deepseek-ai/DeepSeek-V3.2", floor_us=2000.0)
MERGED = CompressedAttention(64, 512, 1024, output_groups=8, output_rank=1024, window=128)
CSA = Block(replace(MERGED, ratio=4, indexer=SparseIndexer(64, 128, 512)), 4096, "sgl-project/DeepSeek-V4-Flash-FP8")
HCA = Block(replace(MERGED, ratio=128), 4096, "sgl-project/DeepSeek-V4-Flash-FP8")
"""DeepSeek-V3, V3.2 and V4-Flash; of the last, layers of ratio 4 and 128."""


def projections_us(block: Block, heads: int, dtype: str, tokens: Floats, gpu: Gpu, gemm: GemmTable) -> Floats:
    """Time of the block's matrix products on M tokens, µs, shape (M,) -> (M,): as the table of products has them.

    In FP8, too, at the efficiency of BF16: that of products with scales in blocks is not in every GPU's table.
    """
    fused: dict[tuple[str, int], int] = {}
    for part in block.on(heads).projections(block.hidden):
        n, k = part.shape(1)
        fused[part.gemm, k] = fused.get((part.gemm, k), 0) + n
    size, rate = (1, gpu.flops_per_us["fp8"]) if dtype == "fp8" else (2, gpu.flops_rate("bfloat16"))
    time = np.zeros_like(tokens)
    for (_, k), n in fused.items():
        slowdown, _ = gemm.at("bfloat16", n, k)
        ideal = np.maximum(2 * tokens * n * k / rate, size * n * k / gpu.bandwidth_bytes_per_us)
        time += ideal * np.interp(np.log(tokens), np.log(gemm.tokens), slowdown)
    return time


def line(columns: Floats, times: Floats) -> tuple[Floats, float]:
    """Non-negative coefficients of `columns` (rows, terms) with the least relative squares, robustly; relative sd."""
    weights = np.ones(len(times))
    solution = np.zeros(columns.shape[1])
    for _ in range(10):
        solution = np.asarray(nnls(columns / times[:, None] * weights[:, None], weights)[0], np.float64)
        errors = columns @ solution / times - 1
        weights = 1 / np.sqrt(np.maximum(1, np.abs(errors) / (3 * robust_sd(errors) + 1e-3)))
    return solution, robust_sd(columns @ solution / times - 1)


def ideals(block: Block, heads: int, kv_dtype: str, rows: Any, gpu: Gpu) -> tuple[Floats, Floats, Floats]:
    """Ideal µs of each row's attention and of its indexer's scores, and its tokens or requests.

    Decoding (one new token) moves entries, a prompt computes pairs.
    """
    op: AttentionOp = block.on(heads).operation(1, 1, "bfloat16", kv_dtype)
    batch, new = rows.batch_size.to_numpy(np.int64), rows.isl.to_numpy(np.int64)
    context = rows.step.to_numpy(np.int64)
    scored = new * context + new * (new + 1) // 2
    if (new == 1).all():
        read = np.array([op.keys(int(c)) for c in context]) * op.kv_bytes
        index = (context + 1) // op.compression * op.index_bytes
        return (*(batch * one / gpu.bandwidth_bytes_per_us for one in (read, index)), batch.astype(float))
    pairs = np.array([op.pairs(int(c), int(n)) for c, n in zip(context, new, strict=True)]) * op.prefill_flops_per_pair
    attention = batch * pairs / gpu.flops_rate("bfloat16")
    rate = gpu.flops_per_us.get("fp8", gpu.flops_rate("bfloat16"))
    return attention, batch * (scored // op.compression) * op.index_flops_per_pair / rate, (batch * new).astype(float)


def rest_of(block: Block, rows: Any, gpu: Gpu, gemm: GemmTable, heads: int) -> tuple[Any, Floats]:
    """The fastest row of every shape, and what its block takes beside the projections, µs."""
    case = ["batch_size", "isl", "step", "gemm_type"]
    rows = rows.groupby(case, as_index=False).latency.min()
    dtype = GEMM_DTYPES[str(rows.gemm_type.iloc[0])]
    total = 1e3 * rows.latency.to_numpy(float)
    own = projections_us(block, heads, dtype, (rows.batch_size * rows.isl).to_numpy(float), gpu, gemm)
    return rows, np.maximum(total - own, LEAST_SHARE * total)


def fit(block: Block, rows: Any, gpu: Gpu, gemm: GemmTable, heads: int, kv_dtype: str) -> tuple[Floats, float]:
    """(fixed, µs an item, share of the rate, share of it that the indexer reaches) and the relative sd."""
    rows, rest = rest_of(block, rows, gpu, gemm, heads)
    attention, index, items = ideals(block, heads, kv_dtype, rows, gpu)
    solution, sd = line(np.column_stack((np.ones_like(rest), items, attention, index)), rest)
    shares = [min(1.0, 1 / slope) if slope > 1e-2 else 1.0 for slope in solution[2:]]
    return np.array([*solution[:2], *shares]), sd


def lines_of(block: Block, prompts: bool) -> Callable[[Any, Gpu, GemmTable], Derived]:
    """The function of a family that derives its file."""

    def derive(table: Any, gpu: Gpu, gemm: GemmTable) -> Derived:
        lines: list[str] = []
        errors: list[float] = []
        for (kv_dtype, heads), rows in chosen(block, table, prompts).groupby(["kv_cache_dtype", "num_heads"]):
            if len(rows) < 12:
                continue
            values, sd = fit(block, rows, gpu, gemm, int(heads), str(kv_dtype))
            lines.append(f"{kv_dtype},{heads}," + ",".join(f"{v:.3g}" for v in values) + f",{sd:.2g}")
            errors.append(sd)
        return Derived([PREFILL if prompts else DECODE, *lines], float(np.median(errors)) if errors else 0.0)

    return derive


def chosen(block: Block, table: Any, prompts: bool) -> Any:
    """The rows of the block's model that it is derived from: with BF16 products where there are any."""
    if block.model:
        table = table[table.model == block.model]
    if (table.gemm_type == "bfloat16").any():
        table = table[table.gemm_type == "bfloat16"]
    if not prompts:
        return table
    return table[(table.batch_size * table.isl >= 512) & (table.isl > 1) & (1e3 * table.latency >= block.floor_us)]


COLUMNS = ("kv_cache_dtype", "batch_size", "isl", "step", "num_heads", "latency")
FAMILIES = tuple(
    Family(
        f"modules/{name}_{'prefill' if prompts else 'decode'}",
        kernel,
        COLUMNS,
        lines_of(block, prompts),
        with_products=True,
    )
    for name, block, prompts, kernel in (
        ("mla", MLA, False, "mla_generation_module"),
        ("mla", MLA, True, "mla_context_module"),
        ("dsa", DSA, False, "dsa_generation_module"),
        ("dsa", DSA, True, "dsa_context_module"),
        ("csa", CSA, False, "dsv4_csa_generation_module"),
        ("csa", CSA, True, "dsv4_csa_context_module"),
        ("hca", HCA, False, "dsv4_hca_generation_module"),
        ("hca", HCA, True, "dsv4_hca_context_module"),
    )
)
