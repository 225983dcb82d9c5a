"""Attention -> prefill_attention.csv: MFU by length of prompt; decode_attention.csv: a straight line a shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.curves import robust_sd, straight_line
from roofml.microbench.derive.dtypes import DTYPES
from roofml.microbench.derive.family import Derived, Family
from roofml.util.arrays import Floats

PROMPTS = (1024, 2048, 4096, 8192, 16384)
LEAST_WORK = 1e11
"""FLOP of a batch that fills a GPU. The time of attention over less work is mostly that of the launch."""


def unwindowed(table: Any) -> Any:
    """The rows whose queries see their whole context."""
    return table[table.window_size == 0] if "window_size" in table else table


def decode_lines(table: Any, shape: list[str], dtype: str, gpu: Gpu) -> tuple[list[str], float]:
    """The straight line of every `shape` of a decode attention table, and the median relative sd.

    The column `entry_bytes` has the bytes of one token in the cache, `pairs` the work items of a request.
    """
    lines: list[str] = []
    errors: list[float] = []
    case = [*shape, "batch_size", "isl", "step", "entry_bytes", "pairs"]
    fastest = table.groupby(case, as_index=False).latency.min()
    for sizes, rows in fastest.groupby(shape):
        batch, context = rows.batch_size.to_numpy(float), (rows.isl + rows.step).to_numpy(float)
        read = batch * context * rows.entry_bytes.to_numpy(float) / gpu.bandwidth_bytes_per_us
        beyond = np.maximum(0, batch * rows.pairs.to_numpy(float) - gpu.sm_count)
        fixed, item, mbu, sd = straight_line(1e3 * rows.latency.to_numpy(), beyond, read, context <= 32)
        cells = ",".join(str(size) for size in sizes)
        lines.append(f"{dtype},{cells},{fixed:.3g},{item:.3g},{min(mbu, 1.0):.3g},{sd:.2g}")
        errors.append(sd)
    return lines, float(np.median(errors)) if errors else 0.0


def decode_attention(table: Any, gpu: Gpu) -> Derived:
    """Lines of decode_attention.csv, and the median relative residual of its lines."""
    table = unwindowed(table)
    lines: list[str] = []
    errors: list[float] = []
    for source_dtype, (dtype, size) in DTYPES.items():
        rows = table[table.kv_cache_dtype == source_dtype]
        kv_heads = rows.num_key_value_heads
        rows = rows.assign(entry_bytes=2 * size * kv_heads * rows.head_dim, pairs=kv_heads)
        dtype_lines, error = decode_lines(rows, ["num_heads", "num_key_value_heads", "head_dim"], dtype, gpu)
        lines += dtype_lines
        errors += [error] * len(dtype_lines)
    return Derived(["kv_dtype,heads,kv_heads,head_dim,fixed_us,item_us,mbu,sd", *lines], float(np.median(errors)))


def prompt_lines(table: Any, shape: list[str], gpu: Gpu) -> tuple[list[str], float]:
    """A line for every `shape` of a prefill attention table: the MFU of the larger batches, by length of prompt.

    A causal prompt of s tokens has s²/2 pairs of a query and a key, of `flops_per_pair` each.
    """
    table = table[table.kv_cache_dtype == "bfloat16"]
    flops = table.flops_per_pair * table.batch_size * table.isl.astype(float) ** 2 / 2
    table = table.assign(mfu=flops / gpu.flops_per_us["bfloat16"] / (1e3 * table.latency), work=flops)
    table = table[table.work > LEAST_WORK].groupby([*shape, "batch_size", "isl"], as_index=False).mfu.max()
    lines: list[str] = []
    errors: list[Floats] = []
    for sizes, rows in table.groupby(shape):
        by_length = rows.groupby("isl").mfu.median().reindex(list(PROMPTS))
        if by_length.notna().any():
            cells = ",".join(str(size) for size in sizes)
            lines.append(f"bfloat16,{cells}," + ",".join("" if np.isnan(v) else f"{v:.3g}" for v in by_length))
            errors.append(np.log((rows.mfu / rows.groupby("isl").mfu.transform("median")).to_numpy()))
    return lines, robust_sd(np.concatenate(errors))


def prefill_attention(table: Any, gpu: Gpu) -> Derived:
    """Lines of prefill_attention.csv, and the spread of MFU over batches."""
    shape = ["num_heads", "num_key_value_heads", "head_dim"]
    table = unwindowed(table)
    lines, sd = prompt_lines(table.assign(flops_per_pair=4.0 * table.num_heads * table.head_dim), shape, gpu)
    return Derived(["dtype,heads,kv_heads,head_dim," + ",".join(f"s{s}" for s in PROMPTS), *lines], sd)


PREFILL = ("kv_cache_dtype", "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "latency")
DECODE = ("kv_cache_dtype", "batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency")
FAMILIES = (
    Family("prefill_attention", "context_attention", PREFILL, prefill_attention, needed=True),
    Family("decode_attention", "generation_attention", DECODE, decode_attention, needed=True),
)
