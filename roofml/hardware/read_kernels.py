"""Reading `bench_data/<gpu>/*.csv`: one table a kernel, each row a shape with ideal over measured time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from roofml.hardware.formats import FORMATS
from roofml.hardware.gpu import Gpu, packaged_gpu
from roofml.hardware.ideal import ideal_us
from roofml.hardware.kernel_drift import ShapeRatios, release_number
from roofml.hardware.kernel_tables import STANDS_IN, GemmTable, Rows, rising
from roofml.hardware.kernels import Efficiency
from roofml.util.arrays import Floats
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_file_name
from roofml.util.package_data import data_folder
from roofml.util.reading import is_there, read_text

MOST_ROWS = 20_000
"""Of one table; the longest shipped one has 967."""
LARGEST = 1e12
"""No size, and no time in µs, is larger."""
MOST_CELLS = 10_000
"""Pairs of n and k in the grid of products, which is full; the largest shipped one has 484."""
MOST_SHARE = 10.0
"""Of a datasheet's rate; beyond 1.15 the datasheet is wrong."""
ABOVE_0 = ("mbu", "mfu", "index_mbu", "index_mfu", "norm", "time_us", "ratio")
"""Columns that something is divided by, or a time that nothing can take."""
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
MOST_SD = 10.0
"""Of a table's relative standard deviation."""


def read_rows(path: Path, sizes: Sequence[str], first: str, values: Sequence[str] | None = None) -> Rows:
    """A file of `bench_data`: `# key: value` lines, a header, rows.

    `first` names the column of data types ("": there is none), `values` the columns after the sizes (None: columns that
    end in a number, such as `m16`, of shares that a kernel reaches). Raises InputError naming file, line and column.
    """
    about, header, lines = _parts(path)
    expected = [*([first] if first else []), *sizes]
    shares = values is None
    if header.cells[: len(expected)] != expected or not _follow(header.cells[len(expected) :], values):
        columns = ",".join([*expected, *(values or ["..."])])
        raise InputError(f"{path}:{header.number}: expected the columns {columns}")
    if len(lines) > MOST_ROWS:
        raise InputError(f"{path}: {len(lines)} rows, expected at most {MOST_ROWS}")
    dtypes: list[str] = []
    table: list[list[float]] = []
    seen: dict[tuple[str, ...], int] = {}
    for number, cells in lines:
        if len(cells) != len(header.cells):
            raise InputError(f"{path}:{number}: {len(cells)} cells under {len(header.cells)} columns")
        if first and not re.fullmatch(r"[A-Za-z0-9_.-]{1,30}", cells[0]):
            raise InputError(f"{path}:{number}: {first}: expected a data type, found {shown(cells[0])}")
        row = [
            _cell(cell, f"{path}:{number}: {column}", column, sizes, missing=shares)
            for column, cell in zip(header.cells[1 if first else 0 :], cells[1 if first else 0 :], strict=True)
        ]
        if shares and all(math.isnan(value) for value in row[len(sizes) :]):
            raise InputError(f"{path}:{number}: expected a number in one of the columns after the sizes")
        shape = (cells[0] if first else "", *map(repr, row[: len(sizes)]))
        if shape in seen:
            raise InputError(f"{path}:{number}: the same shape stands on line {seen[shape]}")
        seen[shape] = number
        dtypes.append(shape[0])
        table.append(row)
    if not table:
        raise InputError(f"{path}: no rows")
    numbers = np.array(table)
    return Rows(str(path), about, tuple(dtypes), numbers[:, : len(sizes)], numbers[:, len(sizes) :])


class Line(NamedTuple):
    """One line of a table."""

    number: int
    cells: list[str]


def _parts(path: Path) -> tuple[dict[str, str], Line, list[Line]]:
    """What the lines at the top say, the header, and the rows."""
    about: dict[str, str] = {}
    lines: list[Line] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.startswith("#"):
            key, _, value = line[1:].partition(":")
            about[key.strip()] = value.strip()
        else:
            lines.append(Line(number, line.split(",")))
    if not lines:
        raise InputError(f"{path}: no header")
    if "sd" in about:
        _number(about["sd"], f"{path}: sd", largest=MOST_SD)
    return about, lines[0], lines[1:]


def _follow(columns: Sequence[str], values: Sequence[str] | None) -> bool:
    """Whether these columns may follow the sizes: the `values`, or names of one letter and rising numbers."""
    if values is not None:
        return [*columns] == [*values]
    numbers = [int(name[1:]) for name in columns if re.fullmatch(r"[a-z][1-9][0-9]{0,8}", name)]
    return 0 < len(numbers) == len(columns) and numbers == sorted(set(numbers))


def _cell(text: str, where: str, column: str, sizes: Sequence[str], *, missing: bool) -> float:
    """The number in a cell. Sizes are whole; only a share of what a kernel reaches may be `missing`: not measured."""
    if column in sizes:
        value = _number(text, where, above_0=True)
        if value != round(value):
            raise InputError(f"{where}: expected a whole number, found {shown(text)}")
        return value
    if missing and not text:
        return math.nan
    return _number(text, where, above_0=missing or column in ABOVE_0, largest=MOST_SHARE if missing else LARGEST)


def _number(text: str, where: str, *, above_0: bool = False, largest: float = LARGEST) -> float:
    value = float(text) if NUMBER.fullmatch(text) else -1.0
    if not 0 <= value <= largest or (above_0 and value == 0):
        least = "above 0" if above_0 else "of at least 0"
        most = "" if largest == LARGEST else f" and at most {largest:g}"
        raise InputError(f"{where}: expected a number {least}{most}, found {shown(text)}")
    return value


def _knots(rows: Rows, path: Path) -> Floats:
    """The M in columns m1, m16, ...: of a table in which every shape was measured at each."""
    _, header, _ = _parts(path)
    columns = header.cells[-rows.values.shape[1] :]
    if any(name[0] != "m" for name in columns):
        raise InputError(f"{path}:{header.number}: expected columns m1, m16, ... after the sizes")
    if np.isnan(rows.values).any():
        raise InputError(f"{path}: a number is missing")
    return np.array([float(name[1:]) for name in columns])


def gemm_table(path: Path, gpu: Gpu) -> GemmTable:
    """The products as a full grid: an unmeasured shape is as efficient as the nearest; time never falls with size."""
    rows = _with_stand_in(read_rows(path, ("n", "k"), "dtype"))
    tokens = _knots(rows, path)
    n, k = np.unique(rows.sizes[:, 0]), np.unique(rows.sizes[:, 1])
    if min(len(n), len(k)) < 2 or len(n) * len(k) > MOST_CELLS:
        raise InputError(f"{path}: {len(n)} n and {len(k)} k, expected at least two of each and {MOST_CELLS} pairs")
    slowdown: dict[str, Floats] = {}
    element_us: dict[str, Floats] = {}
    for dtype in dict.fromkeys(rows.dtype):
        of_dtype = np.array(rows.dtype) == dtype
        logs = np.log2(rows.sizes[of_dtype])
        grid = np.empty((len(n), len(k), len(tokens)))
        for i, j in np.ndindex(len(n), len(k)):
            nearest = int(np.argmin(np.abs(logs - np.log2([n[i], k[j]])).sum(axis=1)))
            grid[i, j] = 1 / rows.values[of_dtype][nearest]
        if dtype not in FORMATS:
            raise InputError(f"{path}: unknown kernel format {shown(dtype)}, expected {', '.join(FORMATS)}")
        element_us[dtype] = ideal_us(gpu, dtype, tokens, 1.0, 1.0)
        ideal = n[:, None, None] * k[None, :, None] * element_us[dtype]
        slowdown[dtype] = rising(ideal * grid) / ideal
    source = rows.about.get("source", rows.path)
    return GemmTable(tokens, n, k, slowdown, rows.sd, source, element_us=element_us)


def _with_stand_in(rows: Rows) -> Rows:
    """The rows. Raises InputError where those of the type are missing that stands in for what was not measured."""
    if STANDS_IN not in rows.dtype:
        raise InputError(f"{rows.path}: no row of {STANDS_IN}, which stands in for other data types")
    return rows


def read_efficiency(folder: Path, gpu: Gpu) -> Efficiency:
    """The tables in `folder`. Raises InputError if a table is missing or a number is impossible."""
    for name in ("gemm", "prefill_attention", "decode_attention"):
        if not is_there(folder / f"{name}.csv"):
            raise InputError(f"{folder / name}.csv: no measured kernel efficiencies for {gpu.name}: `roofml bench`")
    attention = ("heads", "kv_heads", "head_dim")
    fitted = ("fixed_us", "item_us", "mbu", "sd")

    def read(name: str, sizes: Sequence[str], first: str, values: Sequence[str] | None = None) -> Rows:
        return _with_stand_in(read_rows(folder / name, sizes, first, values))

    sizes, by_gpus = _allreduce(folder / "allreduce.csv")
    moe, latent = folder / "moe.csv", [is_there(folder / f"mla_{name}.csv") for name in ("prefill", "decode")]
    experts = read("moe.csv", ("experts", "top_k", "hidden", "inter"), "dtype") if is_there(moe) else None
    gemm = gemm_table(folder / "gemm.csv", gpu)

    def read_if_there(name: str, sizes: Sequence[str], first: str, values: Sequence[str] | None = None) -> Rows | None:
        return read_rows(folder / name, sizes, first, values) if is_there(folder / name) else None

    ranks = read_if_there("moe_ep.csv", ("experts", "top_k", "hidden", "inter", "ranks"), "dtype")
    return Efficiency(
        gemm=gemm,
        moe=experts,
        moe_tokens=np.zeros(0) if experts is None else _knots(experts, moe),
        prefill_attention_rows=read("prefill_attention.csv", attention, "dtype"),
        decode_attention_rows=read("decode_attention.csv", attention, "kv_dtype", fitted),
        latent_prefill_rows=read("mla_prefill.csv", ("heads",), "dtype") if latent[0] else None,
        latent_decode_rows=read("mla_decode.csv", ("heads",), "kv_dtype", fitted) if latent[1] else None,
        allreduce_bytes=sizes,
        allreduce_us=by_gpus,
        source=gemm.source,
        prefill_window_rows=read_if_there("prefill_window.csv", (*attention, "window"), "dtype"),
        decode_window_rows=read_if_there("decode_window.csv", (*attention, "window"), "kv_dtype", fitted),
        ranks_rows=ranks,
        ranks_tokens=np.zeros(0) if ranks is None else _knots(ranks, folder / "moe_ep.csv"),
        drift_rows=read_if_there("drift.csv", ("release", "size"), "table", ("ratio", "sd")),
        moe_drift=_shape_ratios(folder / "moe_drift.csv", ("experts", "top_k", "hidden", "inter")),
        gemm_drift=_shape_ratios(folder / "gemm_drift.csv", ("n", "k")),
        decode_drift_rows=read_if_there("decode_drift.csv", ("release", *attention), "kv_dtype", fitted),
        releases=_releases(folder),
    )


def _shape_ratios(path: Path, shape: Sequence[str]) -> ShapeRatios | None:
    """The ratios of single shapes at other releases; None without the file."""
    if not is_there(path):
        return None
    rows = read_rows(path, ("release", *shape), "dtype")
    ratios = {
        (dtype, *map(int, sizes)): values
        for dtype, sizes, values in zip(rows.dtype, rows.sizes, rows.values, strict=True)
    }
    return ShapeRatios(_knots(rows, path), ratios)


def _releases(folder: Path) -> dict[str, int]:
    """Table -> the release of vLLM that its head names; those that name none, or several, are left out."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.csv")):
        about, _, _ = _parts(path)
        named = re.fullmatch(r"vllm (\d{1,3})\.(\d{1,3})\.(\d{1,3})", about.get("engine", ""))
        if named:
            found[path.stem] = release_number((int(named[1]), int(named[2]), int(named[3])))
    return found


def _allreduce(path: Path) -> tuple[Floats, dict[int, Floats]]:
    """(sizes,) messages in bytes, and GPUs -> (sizes,) time, µs; nothing without the file."""
    if not is_there(path):
        return np.zeros(0), {}
    rows = read_rows(path, ("gpus", "bytes"), "", ("time_us",))
    sizes, by_gpus = np.unique(rows.sizes[:, 1]), dict[int, Floats]()
    for gpus in np.unique(rows.sizes[:, 0]):
        of_gpus = rows.sizes[:, 0] == gpus
        order = np.argsort(rows.sizes[of_gpus, 1])
        measured, time = rows.sizes[of_gpus, 1][order], rows.values[of_gpus, 0][order]
        by_gpus[int(gpus)] = np.interp(sizes, measured, np.maximum.accumulate(time))
    return sizes, by_gpus


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
    return data_folder("bench_data") / for_file_name(gpu.name)


def tables_sha256(folder: Path) -> str:
    """Digest of the kernel tables in `folder`: names and content, independent of line ends."""
    parts: list[str] = []
    for path in sorted(folder.glob("*.csv")):
        parts += [path.name, "\n".join(read_text(path).splitlines())]
    return digest(*parts)
