"""Attention -> prefill_attention.csv: MFU by length of prompt; decode_attention.csv: a straight line a shape.

Rows of a sliding window make tables of their own, `prefill_window.csv` and `decode_window.csv`, by window: a kernel
that skips keys reaches another share of the roofline.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.bounds import CACHED_BYTES, FASTER, LeftOut
from roofml.microbench.derive.curves import robust_sd, straight_line
from roofml.microbench.derive.dtypes import CACHE_DTYPES
from roofml.microbench.derive.family import Derived, Family
from roofml.microbench.derive.known_bad import without_known_bad
from roofml.util.arrays import Floats

PROMPTS = (1024, 2048, 4096, 8192, 16384)
LEAST_WORK = 1e11
"""FLOP of a batch that fills a GPU. The time of attention over less work is mostly that of the launch."""
SHAPE = ["num_heads", "num_key_value_heads", "head_dim"]
PREFILL = ("kv_cache_dtype", "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "latency")
DECODE = ("kv_cache_dtype", "batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency")


def decode_lines(
    table: Any, shape: list[str], dtype: str, gpu: Gpu, left_out: LeftOut | None = None
) -> tuple[list[str], float]:
    """The straight line of every `shape` of a decode attention table, and the median relative sd.

    The column `entry_bytes` has the bytes of one token in the cache, `pairs` the work items of a request, and `seen`,
    where it is, the tokens that a query reads of its context.
    """
    lines: list[str] = []
    errors: list[float] = []
    table = table.assign(context=table.isl + table.step)
    if "seen" not in table:
        table = table.assign(seen=table.context)
    read = table.batch_size * table.seen * table.entry_bytes.astype(float)
    cached = read < CACHED_BYTES
    impossible = ~cached & (read / gpu.bandwidth_bytes_per_us > FASTER * 1e3 * table.latency)
    if left_out is not None:
        left_out.count("faster than the datasheet", int(impossible.sum()))
    case = [*shape, "batch_size", "context", "seen", "entry_bytes", "pairs"]
    fastest = table[~impossible].groupby(case, as_index=False).latency.min()
    for sizes, rows in fastest.groupby(shape):
        batch, seen = rows.batch_size.to_numpy(float), rows.seen.to_numpy(float)
        ideal = batch * seen * rows.entry_bytes.to_numpy(float) / gpu.bandwidth_bytes_per_us
        beyond = np.maximum(0, batch * rows.pairs.to_numpy(float) - gpu.sm_count)
        short = rows.context.to_numpy(float) <= 32
        if not (ideal > 40).sum() >= 3:
            short = np.ones_like(short)  # a window so small that nothing leaves the cache
        fixed, item, mbu, sd = straight_line(1e3 * rows.latency.to_numpy(), beyond, ideal, short)
        cells = ",".join(str(int(size)) for size in sizes)
        lines.append(f"{dtype},{cells},{fixed:.3g},{item:.3g},{min(mbu, 1.0):.3g},{sd:.2g}")
        errors.append(sd)
    return lines, float(np.median(errors)) if errors else 0.0


def decode_attention(table: Any, gpu: Gpu) -> Derived:
    """Lines of decode_attention.csv, and the median relative residual of its lines."""
    return _decode(_windowed(table, windows=False), SHAPE, "kv_dtype,heads,kv_heads,head_dim", gpu)


def decode_window(table: Any, gpu: Gpu) -> Derived:
    """Lines of decode_window.csv: a query reads the last `window` tokens of its context, itself included."""
    table = _windowed(table, windows=True)
    table = table.assign(seen=np.minimum(table.isl + table.step, table.window_size))
    return _decode(table, [*SHAPE, "window_size"], "kv_dtype,heads,kv_heads,head_dim,window", gpu)


def _decode(table: Any, shape: list[str], columns: str, gpu: Gpu) -> Derived:
    left_out = LeftOut()
    table = without_known_bad(table, "generation_attention", left_out)
    lines: list[str] = []
    errors: list[float] = []
    for source, (dtype, size) in CACHE_DTYPES.items():
        rows = table[table.kv_cache_dtype == source]
        if rows.empty:
            continue
        kv_heads = rows.num_key_value_heads
        rows = rows.assign(entry_bytes=2 * size * kv_heads * rows.head_dim, pairs=kv_heads)
        dtype_lines, error = decode_lines(rows, shape, dtype, gpu, left_out)
        lines += dtype_lines
        errors += [error] * len(dtype_lines)
    sd = float(np.median(errors)) if errors else 0.0
    return Derived([f"{columns},fixed_us,item_us,mbu,sd", *lines], sd, left_out.about())


def _windowed(table: Any, *, windows: bool) -> Any:
    """The rows of a sliding window, or those whose queries see their whole context."""
    if "window_size" not in table:
        table = table.assign(window_size=0)
    return table[(table.window_size > 0) == windows]


def prompt_lines(table: Any, shape: list[str], gpu: Gpu, left_out: LeftOut | None = None) -> tuple[list[str], float]:
    """A line for every `shape` of a prefill attention table: the MFU of the larger batches, by length of prompt.

    A causal prompt of s tokens has s²/2 pairs of a query and a key, of `flops_per_pair` each; where queries see but
    `window_size` keys, s·W - W²/2. MFU is of the rate in bfloat16, in which attention computes whatever the cache.
    """
    length = table.isl.astype(float)
    pairs = length**2 / 2
    if "window_size" in table:
        window = table.window_size.where(table.window_size > 0, length).clip(upper=length)
        pairs = length * window - window**2 / 2
    flops = table.flops_per_pair * table.batch_size * pairs
    table = table.assign(mfu=flops / gpu.flops_per_us["bfloat16"] / (1e3 * table.latency), work=flops)
    if left_out is not None:
        left_out.count("faster than the datasheet", int((table.mfu > FASTER).sum()))
    table = table[(table.mfu <= FASTER) & (table.work > LEAST_WORK)]
    lines: list[str] = []
    errors: list[Floats] = []
    for source, (dtype, _) in CACHE_DTYPES.items():
        rows_of = table[table.kv_cache_dtype == source]
        rows_of = rows_of.groupby([*shape, "batch_size", "isl"], as_index=False).mfu.max()
        for sizes, rows in rows_of.groupby(shape):
            by_length = rows.groupby("isl").mfu.median().reindex(list(PROMPTS))
            if by_length.notna().any():
                cells = ",".join(str(int(size)) for size in sizes)
                lines.append(f"{dtype},{cells}," + ",".join("" if np.isnan(v) else f"{v:.3g}" for v in by_length))
                errors.append(np.log((rows.mfu / rows.groupby("isl").mfu.transform("median")).to_numpy()))
    return lines, robust_sd(np.concatenate(errors)) if errors else 0.0


def prefill_attention(table: Any, gpu: Gpu) -> Derived:
    """Lines of prefill_attention.csv by the type of the cache, and the spread of MFU over batches."""
    return _prefill(_windowed(table, windows=False), SHAPE, "dtype,heads,kv_heads,head_dim", gpu)


def prefill_window(table: Any, gpu: Gpu) -> Derived:
    """Lines of prefill_window.csv: MFU over the pairs that the window leaves."""
    return _prefill(
        _windowed(table, windows=True), [*SHAPE, "window_size"], "dtype,heads,kv_heads,head_dim,window", gpu
    )


def _prefill(table: Any, shape: list[str], columns: str, gpu: Gpu) -> Derived:
    left_out = LeftOut()
    table = without_known_bad(table, "context_attention", left_out)
    table = table.assign(flops_per_pair=4.0 * table.num_heads * table.head_dim)
    lines, sd = prompt_lines(table, shape, gpu, left_out)
    return Derived([f"{columns}," + ",".join(f"s{s}" for s in PROMPTS), *lines], sd, left_out.about())


FAMILIES = (
    Family("prefill_attention", "context_attention", PREFILL, prefill_attention, needed=True),
    Family("decode_attention", "generation_attention", DECODE, decode_attention, needed=True),
    Family("prefill_window", "context_attention", PREFILL, prefill_window),
    Family("decode_window", "generation_attention", DECODE, decode_window),
)
