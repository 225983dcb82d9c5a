"""Reading `bench_data/<gpu>/*.csv`: one table a kernel, each row a shape with ideal over measured time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from roofml.hardware.gpu import Gpu, packaged_gpu
from roofml.hardware.kernel_tables import STANDS_IN, GemmTable, Rows
from roofml.hardware.kernels import Efficiency
from roofml.util.arrays import Floats
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.files import data_folder


def read_rows(path: Path, sizes: Sequence[str], first: str, values: Sequence[str] | None = None) -> Rows:
    """A file of `bench_data`: `# key: value` lines, a header, rows.

    `first` names the column of data types ("": there is none), `values` the columns after the sizes (None: any columns,
    such as `m16`). Raises InputError naming file, line and column.
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
    """The products as a full grid: an unmeasured shape is as efficient as the nearest; time never falls with size."""
    rows, tokens = read_rows(path, ("n", "k"), "dtype"), _knots(path, "m")
    n, k = np.unique(rows.sizes[:, 0]), np.unique(rows.sizes[:, 1])
    slowdown: dict[str, Floats] = {}
    for dtype in dict.fromkeys(rows.dtype):
        of_dtype = np.array(rows.dtype) == dtype
        logs = np.log2(rows.sizes[of_dtype])
        grid = np.empty((len(n), len(k), len(tokens)))
        for i, j in np.ndindex(len(n), len(k)):
            nearest = int(np.argmin(np.abs(logs - np.log2([n[i], k[j]])).sum(axis=1)))
            grid[i, j] = 1 / rows.values[of_dtype][nearest]
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
    """The tables in `folder`. Raises InputError if a table is missing or a number is impossible."""
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
            rows = reduce.sizes[:, 0] == gpus
            by_gpus[int(gpus)] = np.interp(sizes, reduce.sizes[rows, 1], np.maximum.accumulate(reduce.values[rows, 0]))
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
        source=gemm.source,
    )


def tables_folder(gpu: Gpu) -> Path:
    """Folder of the measured kernels of `gpu`. Raises InputError for another sheet under the name of a packaged GPU.

    Tables hold shares of a datasheet's rates: with the rates of another sheet they would give other times.
    """
    packaged = packaged_gpu(gpu.name)
    if packaged is not None and packaged.sheet_sha256 != gpu.sheet_sha256:
        raise InputError(
            f"{gpu.name}: this sheet's numbers are not those of hardware/{packaged.name}.yaml, for which kernels were "
            "measured: give it another name, and its own tables by `roofml bench`"
        )
    return data_folder("bench_data") / gpu.name.lower()


def load_efficiency(gpu: Gpu) -> Efficiency:
    """The measured kernels of `gpu`. Raises InputError if none are shipped or a number is impossible."""
    return read_efficiency(tables_folder(gpu), gpu)


def tables_sha256(folder: Path) -> str:
    """Digest of the kernel tables in `folder`: names and content, independent of line ends."""
    parts: list[str] = []
    for path in sorted(folder.glob("*.csv")):
        parts += [path.name, "\n".join(path.read_text("utf-8").splitlines())]
    return digest(*parts)
