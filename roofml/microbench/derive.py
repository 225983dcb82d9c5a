"""Derive: measured kernel latencies -> the compact tables of `bench_data/<gpu>/`.

The tables hold ratios of ideal to measured time at a few sizes, and for decode attention the three numbers of a
straight line; `roofml/hardware/read_kernels.py` reads them. The measurements are one table a kernel, with the columns
of NVIDIA's aiconfigurator (`COLUMNS`) and times in ms. Needs pandas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.hardware.gpu import Gpu
from roofml.util.arrays import Floats
from roofml.util.outside_text import for_line

Derived = tuple[list[str], float]
"""Lines of a file, header first, and the relative standard deviation of what is interpolated between them."""

COLUMNS = {
    "gemm": ("gemm_dtype", "m", "n", "k", "latency"),
    "moe": (
        "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size",
        "distribution", "latency",
    ),
    "context_attention": (
        "kv_cache_dtype", "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "latency",
    ),
    "generation_attention": (
        "kv_cache_dtype", "batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency",
    ),
    "custom_allreduce": ("num_gpus", "message_size", "latency"),
    "context_mla": ("kv_cache_dtype", "batch_size", "isl", "num_heads", "latency"),
    "generation_mla": ("kv_cache_dtype", "batch_size", "isl", "step", "num_heads", "latency"),
}  # fmt: skip
"""Kernel -> the columns that its measurements need, latency in ms. Two further columns are read: rows of a sliding
window (`window_size`) are left out, and of all-reduces those inside a CUDA graph (`backend`) are used. Of several
kernels for one shape the fastest counts, as an engine's own tuning would choose."""
NEEDED = ("gemm", "moe", "context_attention", "generation_attention", "custom_allreduce")
"""Kernels without which a GPU's tables do not serve every usual model."""
GEMM_TOKENS = (1, 16, 32, 48, 64, 128, 256, 512, 1024, 4096)
MOE_TOKENS = (1, 8, 32, 64, 128, 256, 512, 2048, 8192)
PROMPTS = (1024, 2048, 4096, 8192, 16384)
MESSAGES = (128, *(2**p for p in range(16, 28)))
UNKNOWN_SD = 0.1
"""Relative standard deviation of a table whose shapes have no neighbours to be predicted from."""
LEAST_WORK = 1e11
"""FLOP of a batch that fills a GPU. The time of attention over less work is mostly that of the launch."""
DTYPES = {"bfloat16": ("bfloat16", 2), "fp8": ("fp8", 1)}
"""aiconfigurator's data type -> roofml's, and bytes of a weight. Types in blocks or of 4 bits are not imported yet."""
LATENT_ENTRY = 576
"""Elements of a token in the cache of multi-head latent attention: 512 compressed and 64 rotary."""
SMALLEST_SHARE = 0.05
"""Share of the roofline below which a row is a failed measurement, or of a shape that nobody serves."""


def never_falling(sizes: Floats, times: Floats) -> Floats:
    """Times that never fall with size: the measured ones without gross outliers, by isotonic regression of logarithms.

    A time is an outlier if it is above that of the next larger size and more than a tenth above linear growth from the
    next smaller one (an H100 product of 2,048 tokens took four times as long as that of 4,096).
    """
    logs = np.log(times)
    for i in range(1, len(logs) - 1):
        if logs[i] > logs[i + 1] + 0.05 and logs[i] > logs[i - 1] + np.log(sizes[i] / sizes[i - 1]) + 0.1:
            logs[i] = 0.5 * (logs[i - 1] + logs[i + 1])
    return np.exp(np.asarray(isotonic_regression(logs).x, np.float64))


def at_sizes(row: Any, targets: Sequence[int]) -> Floats:
    """Times of `row` (a pandas Series indexed by size) at the sizes `targets`, interpolated in logarithms."""
    measured = row.dropna()
    sizes = np.asarray(measured.index, np.float64)
    times = never_falling(sizes, np.asarray(measured, np.float64))
    return np.exp(np.interp(np.log(targets), np.log(sizes), np.log(times)))


def robust_sd(errors: Floats) -> float:
    """1.48 times the median absolute error; `UNKNOWN_SD` without errors."""
    if errors.size == 0:
        return UNKNOWN_SD
    return 1.4826 * float(np.nanmedian(np.abs(errors)))


def gemm(table: Any, gpu: Gpu) -> Derived:
    """Lines of gemm.csv, and the relative error of a matrix predicted from its four neighbours in n and k.

    Efficiencies are at most 1: a small matrix measured again and again sits in the cache, where a step never finds it.
    """
    lines: list[str] = []
    errors: list[Floats] = []
    m = np.array(GEMM_TOKENS, float)
    for source_dtype, (dtype, size) in DTYPES.items():
        rows = table[table.gemm_dtype == source_dtype]
        if dtype not in gpu.flops_per_us or rows.empty:
            continue
        times = 1e3 * rows.pivot_table(index=["n", "k"], columns="m", values="latency", aggfunc="min")
        efficiencies: dict[tuple[int, int], Floats] = {}
        for (n, k), row in times.iterrows():
            ideal = np.maximum(2 * m * n * k / gpu.flops_per_us[dtype], size * n * k / gpu.bandwidth_bytes_per_us)
            efficiencies[n, k] = np.minimum(1.0, ideal / at_sizes(row, GEMM_TOKENS))
            lines.append(f"{dtype},{n},{k}," + ",".join(f"{v:.3g}" for v in efficiencies[n, k]))
        grid = sorted({n for n, _ in efficiencies})
        for (n, k), efficiency in efficiencies.items():
            i, j = grid.index(n), grid.index(k) if k in grid else 0
            neighbours = [
                efficiencies.get((grid[i + di], grid[j + dj]))
                for di, dj in ((-1, 0), (1, 0), (0, -1), (0, 1))
                if 0 <= i + di < len(grid) and 0 <= j + dj < len(grid)
            ]
            logs = [np.log(neighbour) for neighbour in neighbours if neighbour is not None]
            if n >= 1024 and k >= 1024 and len(logs) == 4:
                errors.append(np.log(efficiency) - np.mean(logs, axis=0))
    return ["dtype,n,k," + ",".join(f"m{m}" for m in GEMM_TOKENS), *lines], robust_sd(np.array(errors))


def moe(table: Any, gpu: Gpu) -> Derived:
    """Lines of moe.csv, and the relative error of a shape predicted from the same experts of another width.

    Routing is even if that was measured, else the least skewed that was. The ideal time is that of the experts that
    even routing is expected to hit.
    """
    table = table[table.moe_ep_size == 1]
    even = "balanced" if (table.distribution == "balanced").any() else sorted(table.distribution.unique())[0]
    table = table[table.distribution == even].assign(inter=table.inter_size // table.moe_tp_size)
    lines: list[str] = []
    errors: list[Floats] = []
    shape, m = ["num_experts", "topk", "hidden_size", "inter"], np.array(MOE_TOKENS, float)
    for source_dtype, (dtype, size) in DTYPES.items():
        rows = table[table.moe_dtype == source_dtype]
        if dtype not in gpu.flops_per_us or rows.empty:
            continue
        times = 1e3 * rows.pivot_table(index=shape, columns="num_tokens", values="latency", aggfunc="min")
        previous: tuple[tuple[int, ...], Floats] | None = None
        for (experts, top_k, hidden, inter), row in times.iterrows():
            hit = experts * (1 - (1 - top_k / experts) ** m)
            compute = 6 * m * top_k * hidden * inter / gpu.flops_per_us[dtype]
            ideal = np.maximum(compute, 3 * hit * hidden * inter * size / gpu.bandwidth_bytes_per_us)
            efficiency = np.minimum(1.0, ideal / at_sizes(row, MOE_TOKENS))
            if efficiency.max() < SMALLEST_SHARE:
                continue
            lines.append(f"{dtype},{experts},{top_k},{hidden},{inter}," + ",".join(f"{v:.3g}" for v in efficiency))
            if previous is not None and previous[0] == (experts, top_k, hidden):
                errors.append(np.log(efficiency) - np.log(previous[1]))
            previous = ((experts, top_k, hidden), efficiency)
    return ["dtype,experts,top_k,hidden,inter," + ",".join(f"m{m}" for m in MOE_TOKENS), *lines], robust_sd(
        np.array(errors)
    )


def straight_line(times: Floats, items: Floats, ideal: Floats, short: Any) -> tuple[float, float, float, float]:
    """(fixed µs, µs an item, MBU, relative sd) of times ≈ fixed + item·items + ideal/MBU; least relative squares.

    The fit uses the shortest contexts (`short`), which cost only the launch and the items, and those too large for a
    cache (40 µs of ideal time: 130 MB on an H100). Between them a kernel measured alone finds its keys in the cache.
    """
    rows = short | (ideal > 40)
    matrix = np.column_stack((np.ones_like(times), items, ideal))
    weights = np.ones(int(rows.sum()))
    solution = np.zeros(3)
    for _ in range(10):
        solution = np.asarray(nnls((matrix[rows] / times[rows, None]) * weights[:, None], weights)[0], np.float64)
        errors = matrix[rows] @ solution / times[rows] - 1
        weights = 1 / np.sqrt(np.maximum(1, np.abs(errors) / (3 * robust_sd(errors) + 1e-3)))
    fixed, item, slope = map(float, solution)
    return fixed, item, 1 / max(slope, 1e-3), robust_sd(matrix[rows] @ solution / times[rows] - 1)


def _lines_of(table: Any, shape: list[str], dtype: str, gpu: Gpu) -> Derived:
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
    lines: list[str] = []
    errors: list[float] = []
    for source_dtype, (dtype, size) in DTYPES.items():
        rows = table[table.kv_cache_dtype == source_dtype]
        kv_heads = rows.num_key_value_heads
        rows = rows.assign(entry_bytes=2 * size * kv_heads * rows.head_dim, pairs=kv_heads)
        dtype_lines, error = _lines_of(rows, ["num_heads", "num_key_value_heads", "head_dim"], dtype, gpu)
        lines += dtype_lines
        errors += [error] * len(dtype_lines)
    return ["kv_dtype,heads,kv_heads,head_dim,fixed_us,item_us,mbu,sd", *lines], float(np.median(errors))


def latent_decode(table: Any, gpu: Gpu) -> Derived:
    """Lines of mla_decode.csv, by heads on one GPU, and the median relative residual of its lines."""
    lines: list[str] = []
    errors: list[float] = []
    for source_dtype, (dtype, size) in DTYPES.items():
        rows = table[table.kv_cache_dtype == source_dtype].assign(entry_bytes=LATENT_ENTRY * size, pairs=1)
        dtype_lines, error = _lines_of(rows, ["num_heads"], dtype, gpu)
        lines += dtype_lines
        errors += [error] * len(dtype_lines)
    return ["kv_dtype,heads,fixed_us,item_us,mbu,sd", *lines], float(np.median(errors))


def _prompt_lines(table: Any, shape: list[str], gpu: Gpu) -> Derived:
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
    lines, sd = _prompt_lines(table.assign(flops_per_pair=4.0 * table.num_heads * table.head_dim), shape, gpu)
    return ["dtype,heads,kv_heads,head_dim," + ",".join(f"s{s}" for s in PROMPTS), *lines], sd


def latent_prefill(table: Any, gpu: Gpu) -> Derived:
    """Lines of mla_prefill.csv: queries and keys have 128 + 64 elements a head, values 128, so 640 FLOP a pair."""
    lines, sd = _prompt_lines(table.assign(flops_per_pair=640.0 * table.num_heads), ["num_heads"], gpu)
    return ["dtype,heads," + ",".join(f"s{s}" for s in PROMPTS), *lines], sd


def allreduce(table: Any, gpu: Gpu) -> Derived:
    """Lines of allreduce.csv: time inside a CUDA graph, made to never fall with bytes, and how much that changed it."""
    graph = table[table.backend.str.endswith("graph")] if "backend" in table else table
    lines: list[str] = []
    errors: list[Floats] = []
    for gpus, rows in graph.groupby("num_gpus"):
        times = 1e3 * rows.groupby("message_size").latency.median()
        risen = times.cummax()
        errors.append(np.log((risen / times).to_numpy()))
        lines += [f"{gpus},{size},{risen[size]:.3g}" for size in MESSAGES if size in risen.index]
    return ["gpus,bytes,time_us", *lines], max(0.05, robust_sd(np.concatenate(errors)))


TABLES = {
    "gemm": ("gemm", gemm),
    "moe": ("moe", moe),
    "prefill_attention": ("context_attention", prefill_attention),
    "decode_attention": ("generation_attention", decode_attention),
    "mla_prefill": ("context_mla", latent_prefill),
    "mla_decode": ("generation_mla", latent_decode),
    "allreduce": ("custom_allreduce", allreduce),
}
"""File of `bench_data` -> the kernel it is derived from, and the function that derives it."""


def derive(measured: Mapping[str, Any], gpu: Gpu, about: Mapping[str, str]) -> dict[str, str]:
    """File name -> text of every table that `measured` (kernel -> pandas table with its `COLUMNS`) has data for.

    `about` is provenance that every file gets: source, engine, licence, derived.
    """
    texts: dict[str, str] = {}
    for name, (kernel, lines_of) in TABLES.items():
        if kernel not in measured:
            continue
        table = measured[kernel]
        if "window_size" in table:
            table = table[table.window_size == 0]
        lines, sd = lines_of(table, gpu)
        header = {"kernel": name, "gpu": gpu.name, **about, "sd": f"{sd:.2g}"}
        texts[f"{name}.csv"] = (
            "".join(f"# {key}: {for_line(value)}\n" for key, value in header.items()) + "\n".join(lines) + "\n"
        )
    return texts
