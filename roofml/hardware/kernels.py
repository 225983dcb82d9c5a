"""Efficiency: how measured kernels compare with the roofline, as a function of shape, from `bench_data/<gpu>/*.csv`.

One table a kernel, each row a shape with ideal over measured time. A shape in between is interpolated in the logarithm
of size and time, so that what is larger never takes less; beyond the largest measured its efficiency holds, which is
the roofline's slope, and what is smaller than the smallest takes as long as that one. Every answer has a relative
standard deviation: that of predicting a measured shape from its neighbours, and more for every doubling outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roofml.hardware.gpu import Gpu
from roofml.util.errors import InputError
from roofml.util.files import data_folder

Floats = NDArray[np.float64]

SD_PER_DOUBLING = 0.05
"""Added in quadrature for every doubling of a size between a shape and the nearest that was measured."""
SD_OF_OTHER_DTYPE = 0.15
"""The same where another data type's efficiency stands in."""
STANDS_IN = "bfloat16"
"""Whose efficiency a data type takes that was not measured."""
AS_FAST = {"float16": "bfloat16"}
"""The same kernels at the same rates."""


@dataclass(frozen=True)
class Rows:
    """One file of `bench_data`: rows of a shape's sizes and what was measured for it."""

    path: str
    about: Mapping[str, str]
    """Provenance: kernel, gpu, source, engine, licence, date, sd."""
    dtype: tuple[str, ...]
    """(rows,) data type of the weights or of the cache; empty strings where the kernel has none."""
    sizes: Floats
    """(rows, sizes) in the order of the file's columns."""
    values: Floats
    """(rows, values)"""

    @property
    def sd(self) -> float:
        """Relative standard deviation inside the measured range."""
        return float(self.about.get("sd", "0.1"))

    def nearest(self, dtype: str, sizes: Sequence[float]) -> tuple[Floats, float]:
        """Values of the shape nearest in the logarithm of each size, and their relative standard deviation."""
        known = np.array([found == AS_FAST.get(dtype, dtype) for found in self.dtype])
        sd = self.sd
        if not known.any():
            known, sd = np.array([found in {STANDS_IN, ""} for found in self.dtype]), math.hypot(sd, SD_OF_OTHER_DTYPE)
        distance = np.abs(np.log2(self.sizes[known] / np.asarray(sizes, np.float64))).sum(axis=1)
        row = int(np.argmin(distance))
        return self.values[known][row], math.hypot(sd, SD_PER_DOUBLING * float(distance[row]))


@dataclass(frozen=True)
class GemmTable:
    """Matrix products (M x k) times (k x n)."""

    tokens: Floats
    """(knots,) M, ascending."""
    n: Floats
    k: Floats
    slowdown: Mapping[str, Floats]
    """Data type -> (n, k, knots) measured over ideal time."""
    sd: float
    source: str = ""

    def at(self, dtype: str, n: int, k: int) -> tuple[Floats, float]:
        """Measured over ideal time of a matrix at each M of `tokens`, shape (knots,), and its relative sd."""
        dtype, sd = AS_FAST.get(dtype, dtype), self.sd
        if dtype not in self.slowdown:
            dtype, sd = STANDS_IN, math.hypot(sd, SD_OF_OTHER_DTYPE)
        (i, a, small_n, out_n), (j, b, small_k, out_k) = _place(self.n, n), _place(self.k, k)
        grid = np.log(self.slowdown[dtype])
        low = (1 - b) * grid[i, j] + b * grid[i, j + 1]
        high = (1 - b) * grid[i + 1, j] + b * grid[i + 1, j + 1]
        slowdown = np.exp((1 - a) * low + a * high) * small_n * small_k
        return slowdown, math.hypot(sd, SD_PER_DOUBLING * (out_n + out_k))


def _place(grid: Floats, size: float) -> tuple[int, float, float, float]:
    """Where `size` lies in `grid`: cell, share of it in the logarithm, how much smaller than the smallest it is, and
    how many doublings outside."""
    inside = float(np.clip(size, grid[0], grid[-1]))
    cell = int(np.clip(np.searchsorted(grid, inside) - 1, 0, len(grid) - 2))
    share = math.log(inside / grid[cell]) / math.log(grid[cell + 1] / grid[cell])
    return cell, share, max(1.0, grid[0] / size), abs(math.log2(size / inside))


@dataclass(frozen=True)
class DecodeAttention:
    """One layer's decode attention, of R requests with their keys and values in memory, takes
    fixed_us + item_us·max(0, R·kv_heads - SMs) + bytes/(mbu·bandwidth)."""

    fixed_us: float
    """Launch, and the shortest a kernel runs."""
    item_us: float
    """For each pair of request and KV head beyond one for every streaming multiprocessor."""
    mbu: float
    sd: float


@dataclass(frozen=True)
class Efficiency:
    """Measured kernels of one GPU."""

    gemm: GemmTable
    moe: Rows | None
    """sizes experts, top_k, hidden, inter; values at M of `moe_tokens`."""
    moe_tokens: Floats
    prefill_attention_rows: Rows
    """sizes heads, kv_heads, head_dim; values by length of the prompt."""
    decode_attention_rows: Rows
    """sizes heads, kv_heads, head_dim; values fixed_us, item_us, mbu, sd."""
    latent_prefill_rows: Rows | None
    latent_decode_rows: Rows | None
    allreduce_bytes: Floats
    """(sizes,) message sizes at which all-reduces were measured, bytes, ascending."""
    allreduce_us: dict[int, Floats]
    """GPUs -> (sizes,) measured time, µs."""
    allreduce_sd: float
    source: str

    def mixture(self, dtype: str, experts: int, top_k: int, hidden: float, inter: float) -> tuple[Floats, float]:
        """Ideal over measured time of a fused mixture of experts at each M of `moe_tokens`, and its relative sd."""
        if self.moe is None:
            raise InputError(f"{self.source}: no mixture of experts was measured")
        return self.moe.nearest(dtype, (experts, top_k, hidden, inter))

    def prefill_attention(self, dtype: str, heads: int, kv_heads: int, head_dim: int) -> tuple[float, float]:
        """MFU of causal prefill attention of long prompts, and its relative sd."""
        values, sd = self.prefill_attention_rows.nearest(dtype, (heads, kv_heads, head_dim))
        return float(np.median(values[np.isfinite(values)][-4:])), sd

    def decode_attention(self, kv_dtype: str, heads: int, kv_heads: int, head_dim: int) -> DecodeAttention:
        """Decode attention of the measured shape nearest in queries a KV head, KV heads and head size."""
        rows = self.decode_attention_rows
        by_group = Rows(rows.path, rows.about, rows.dtype, _grouped(rows.sizes), rows.values)
        shape = _grouped(np.array([[heads, kv_heads, head_dim]], np.float64))[0]
        (fixed, item, mbu, sd), reach = by_group.nearest(kv_dtype, list(shape))
        return DecodeAttention(fixed, item, mbu, math.hypot(sd, reach))

    def latent_prefill(self, dtype: str, heads: int) -> tuple[float, float]:
        """MFU of prefill attention over a latent cache. Where none was measured, that of ordinary attention."""
        if self.latent_prefill_rows is None:
            mfu, sd = self.prefill_attention(dtype, heads, heads, 128)
            return mfu, math.hypot(sd, SD_OF_OTHER_DTYPE)
        values, sd = self.latent_prefill_rows.nearest(dtype, (heads,))
        return float(np.median(values[np.isfinite(values)])), sd

    def latent_decode(self, kv_dtype: str, heads: int) -> DecodeAttention:
        """Decode attention over a latent cache; its items are requests."""
        if self.latent_decode_rows is None:
            found = self.decode_attention(kv_dtype, heads, 1, 128)
            return DecodeAttention(found.fixed_us, found.item_us, found.mbu, math.hypot(found.sd, SD_OF_OTHER_DTYPE))
        (fixed, item, mbu, sd), reach = self.latent_decode_rows.nearest(kv_dtype, (heads,))
        return DecodeAttention(fixed, item, mbu, math.hypot(sd, reach))

    def allreduce_us_at(self, gpus: int, message_bytes: Floats) -> Floats:
        """Time of one all-reduce, µs: interpolated in bytes, beyond the largest at its bandwidth.

        Raises InputError for a number of GPUs that was not measured.
        """
        if gpus not in self.allreduce_us:
            known = ", ".join(map(str, self.allreduce_us))
            raise InputError(f"tensor parallel size {gpus}: no all-reduce was measured for it (known: 1, {known})")
        times, sizes = self.allreduce_us[gpus], self.allreduce_bytes
        beyond = np.maximum(message_bytes / sizes[-1], 1.0)
        return np.interp(message_bytes, sizes, times) * beyond


def at_datasheet(measured: Efficiency) -> Efficiency:
    """Kernels that reach the datasheet's rates at every shape and take no time to start; all-reduces that always run at
    the bandwidth of the largest measured."""

    def ones(rows: Rows | None) -> Rows | None:
        return None if rows is None else replace(rows, values=np.ones_like(rows.values))

    def free(rows: Rows | None) -> Rows | None:  # fixed_us, item_us, mbu, sd
        return None if rows is None else replace(rows, values=np.tile([0.0, 0.0, 1.0, 0.1], (len(rows.values), 1)))

    prefill, decode = ones(measured.prefill_attention_rows), free(measured.decode_attention_rows)
    assert prefill is not None
    assert decode is not None
    sizes = measured.allreduce_bytes
    return replace(
        measured,
        gemm=replace(measured.gemm, slowdown={d: np.ones_like(s) for d, s in measured.gemm.slowdown.items()}),
        moe=ones(measured.moe),
        prefill_attention_rows=prefill,
        decode_attention_rows=decode,
        latent_prefill_rows=ones(measured.latent_prefill_rows),
        latent_decode_rows=free(measured.latent_decode_rows),
        allreduce_us={gpus: times[-1] * sizes / sizes[-1] for gpus, times in measured.allreduce_us.items()},
        source="datasheet",
    )


def _grouped(sizes: Floats) -> Floats:
    """(rows, [heads, kv_heads, head_dim]) -> (rows, [heads a KV head, kv_heads, head_dim])."""
    return np.column_stack((sizes[:, 0] / sizes[:, 1], sizes[:, 1], sizes[:, 2]))


def read_rows(path: Path, sizes: Sequence[str], first: str, values: Sequence[str] | None = None) -> Rows:
    """A file of `bench_data`: `# key: value` lines, a header, rows.

    `first` is the column of data types ("" = none), `values` those after the sizes (None: any, all of a kind like
    `m16`). Raises InputError naming file, line and column.
    """
    about: dict[str, str] = {}
    header: list[str] = []
    dtypes: list[str] = []
    table: list[list[float]] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("#"):
            key, _, value = line[1:].partition(":")
            about[key.strip()] = value.strip()
            continue
        cells = line.split(",")
        if not header:
            header = cells
            expected = [*([first] if first else []), *sizes]
            if header[: len(expected)] != expected or (values is not None and header[len(expected) :] != [*values]):
                raise InputError(f"{path}:{number}: expected the columns {','.join([*expected, *(values or ['...'])])}")
            continue
        if len(cells) != len(header):
            raise InputError(f"{path}:{number}: {len(cells)} cells under {len(header)} columns")
        row: list[float] = []
        for column, cell in zip(header[1 if first else 0 :], cells[1 if first else 0 :], strict=True):
            try:
                value = float(cell) if cell else math.nan
            except ValueError:
                value = -1.0
            if not (math.isnan(value) and column not in sizes) and not 0 <= value < 1e12:
                raise InputError(f"{path}:{number}: {column}: expected a number of at least 0, found {cell!r}")
            row.append(value)
        dtypes.append(cells[0] if first else "")
        table.append(row)
    if not table:
        raise InputError(f"{path}: no rows")
    numbers = np.array(table)
    return Rows(str(path), about, tuple(dtypes), numbers[:, : len(sizes)], numbers[:, len(sizes) :])


def _knots(path: Path, prefix: str) -> Floats:
    """The numbers in column names like m1, m16, ..."""
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            return np.array([float(name[1:]) for name in line.split(",") if name[:1] == prefix and name[1:].isdigit()])
    return np.array([])


def _gemm_table(path: Path, gpu: Gpu) -> GemmTable:
    """The products as a full grid: what was not measured is as its nearest neighbour, and time never falls in size."""
    rows, tokens = read_rows(path, ("n", "k"), "dtype"), _knots(path, "m")
    n, k = np.unique(rows.sizes[:, 0]), np.unique(rows.sizes[:, 1])
    slowdown: dict[str, Floats] = {}
    for dtype in dict.fromkeys(rows.dtype):
        mine = np.array([found == dtype for found in rows.dtype])
        logs = np.log2(rows.sizes[mine])
        grid = np.empty((len(n), len(k), len(tokens)))
        for i, j in np.ndindex(len(n), len(k)):
            at = int(np.argmin(np.abs(logs - np.log2([n[i], k[j]])).sum(axis=1)))
            grid[i, j] = 1 / rows.values[mine][at]
        rate = gpu.flops_per_us.get(dtype, gpu.flops_per_us[STANDS_IN])
        weight_bytes = 1.0 if dtype.startswith(("fp8", "int8")) else 2.0
        ideal = (
            n[:, None, None]
            * k[None, :, None]
            * np.maximum(2 * tokens / rate, weight_bytes / gpu.bandwidth_bytes_per_us)
        )
        time = ideal * grid
        for axis in range(3):
            time = np.maximum.accumulate(time, axis=axis)
        slowdown[dtype] = time / ideal
    return GemmTable(tokens, n, k, slowdown, rows.sd, rows.about.get("source", rows.path))


def read_efficiency(folder: Path, gpu: Gpu) -> Efficiency:
    """The tables in `folder`. Raises InputError where one is missing or a number is impossible."""
    for name in ("gemm", "prefill_attention", "decode_attention"):
        if not (folder / f"{name}.csv").is_file():
            raise InputError(f"{folder / name}.csv: no measured kernel efficiencies for {gpu.name}: `roofml bench`")
    attention = ("heads", "kv_heads", "head_dim")
    fitted = ("fixed_us", "item_us", "mbu", "sd")

    def optional(name: str, read: Callable[[Path], Rows]) -> Rows | None:
        return read(folder / name) if (folder / name).is_file() else None

    reduce = optional("allreduce.csv", lambda path: read_rows(path, ("gpus", "bytes"), "", ("time_us",)))
    sizes, by_gpus = np.zeros(0), dict[int, Floats]()
    if reduce is not None:
        sizes = np.unique(reduce.sizes[:, 1])
        for gpus in np.unique(reduce.sizes[:, 0]):
            mine = reduce.sizes[:, 0] == gpus
            by_gpus[int(gpus)] = np.interp(sizes, reduce.sizes[mine, 1], np.maximum.accumulate(reduce.values[mine, 0]))
    shape = ("experts", "top_k", "hidden", "inter")
    moe = optional("moe.csv", lambda path: read_rows(path, shape, "dtype"))
    gemm = _gemm_table(folder / "gemm.csv", gpu)
    return Efficiency(
        gemm=gemm,
        moe=moe,
        moe_tokens=_knots(folder / "moe.csv", "m") if moe is not None else np.zeros(0),
        prefill_attention_rows=read_rows(folder / "prefill_attention.csv", attention, "dtype"),
        decode_attention_rows=read_rows(folder / "decode_attention.csv", attention, "kv_dtype", fitted),
        latent_prefill_rows=optional("mla_prefill.csv", lambda path: read_rows(path, ("heads",), "dtype")),
        latent_decode_rows=optional("mla_decode.csv", lambda path: read_rows(path, ("heads",), "kv_dtype", fitted)),
        allreduce_bytes=sizes,
        allreduce_us=by_gpus,
        allreduce_sd=reduce.sd if reduce is not None else 0.0,
        source=gemm.source,
    )


def load_efficiency(gpu: Gpu) -> Efficiency:
    """The measured kernels of `gpu`. Raises InputError where none are shipped or a number is impossible."""
    return read_efficiency(data_folder("bench_data") / gpu.name.lower(), gpu)
