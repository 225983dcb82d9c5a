"""Reading `bench_data/<gpu>/modules/*.csv`, and another GPU's where one has none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from roofml.hardware.gpu import Gpu, packaged_gpu
from roofml.hardware.kernel_tables import Rows
from roofml.hardware.modules import Modules
from roofml.hardware.read_kernels import read_rows
from roofml.util.package_data import data_folder
from roofml.util.reading import is_there

DECODE = ("fixed_us", "item_us", "mbu", "index_mbu", "sd")
PREFILL = ("fixed_us", "token_us", "mfu", "index_mfu", "sd")
RECURRENT = ("fixed_us", "mbu", "stream_us", "head_us", "norm", "conv_us", "sd")
BLOCKS = ("mla", "dsa", "csa", "hca")
COLUMNS: Mapping[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    **{f"{name}_decode": (("heads",), "kv_dtype", DECODE) for name in BLOCKS},
    **{f"{name}_prefill": (("heads",), "kv_dtype", PREFILL) for name in BLOCKS},
    **dict.fromkeys(("gdn", "kda"), (("heads",), "phase", RECURRENT)),
    "mhc": (("hidden", "tokens"), "", ("time_us",)),
}
"""File -> sizes, the column before them, and values."""


def read_modules(folder: Path, gpu: Gpu) -> Modules:
    """The tables in `folder`/modules, and what other packaged GPUs have of those that are not there.

    Raises InputError for a table that cannot be read.
    """
    own: dict[str, Rows] = {}
    others: dict[str, tuple[Rows, Gpu]] = {}
    for name in COLUMNS:
        path = folder / "modules" / f"{name}.csv"
        if is_there(path):
            own[name] = _read(path, name)
            continue
        nearest = _most_alike(name, gpu)
        if nearest is not None:
            others[name] = (_read(nearest[0], name), nearest[1])
    return Modules(own, others, gpu)


def _read(path: Path, name: str) -> Rows:
    sizes, first, values = COLUMNS[name]
    return read_rows(path, sizes, first, values)


def _most_alike(name: str, gpu: Gpu) -> tuple[Path, Gpu] | None:
    """The packaged table of the GPU whose bandwidth and rate are nearest."""
    found: list[tuple[float, str, Path, Gpu]] = []
    for path in sorted(data_folder("bench_data").glob(f"*/modules/{name}.csv")):
        there = packaged_gpu(path.parents[1].name)
        if there is not None:
            bandwidth = there.bandwidth_bytes_per_us / gpu.bandwidth_bytes_per_us
            rate = there.flops_rate("bfloat16") / gpu.flops_rate("bfloat16")
            found.append((abs(math.log(bandwidth)) + abs(math.log(rate)), there.name, path, there))
    return min(found)[2:] if found else None
