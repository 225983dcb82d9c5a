"""Derive: measured kernel latencies -> the compact tables of `bench_data/<gpu>/`. Needs pandas.

The tables hold ratios of ideal to measured time at a few sizes, and for decode attention the three numbers of a
straight line; `roofml/hardware/read_kernels.py` reads them. The measurements are one table a kernel, with the columns
of NVIDIA's aiconfigurator and times in ms. Every family of kernels is a module here with a tuple `FAMILIES`
(`family.Family`): a new one is a module, a line in `MODULES` and its test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import GemmTable
from roofml.hardware.load_kernels import load_efficiency
from roofml.hardware.read_kernels import gemm_table
from roofml.microbench.derive import allreduce, attention, blocks, gemm, hyper_connections, latent, moe, recurrent
from roofml.microbench.derive.family import Derived, Family
from roofml.util.outside_text import for_line

MODULES = (gemm, moe, attention, latent, allreduce, recurrent, blocks, hyper_connections)
FAMILIES: tuple[Family, ...] = tuple(family for module in MODULES for family in module.FAMILIES)
COLUMNS: dict[str, tuple[str, ...]] = {family.kernel: family.columns for family in FAMILIES}
"""Kernel -> the columns that its measurements need, latency in ms. Further columns are read where they are there: the
sliding window (`window_size`), and of all-reduces whether they ran inside a CUDA graph (`backend`). Of several kernels
for one shape the fastest counts, as an engine's own tuning would choose."""
NEEDED = tuple(family.kernel for family in FAMILIES if family.needed)
"""Kernels without which a GPU's tables do not serve every usual model."""


def engine_of(table: Any) -> dict[str, str]:
    """The line of a table's head that names the engine, where the measurements do: `vllm 0.25.0`."""
    if not {"framework", "version"} <= set(table):
        return {}
    pairs = table[["framework", "version"]].drop_duplicates().itertuples(index=False)
    return {"engine": " and ".join(sorted(f"{framework} {version}".lower() for framework, version in pairs))}


def _products(texts: Mapping[str, str], gpu: Gpu) -> GemmTable:
    """The GPU's matrix products: those derived just now, or its shipped ones where none were measured."""
    if "gemm.csv" not in texts:
        return load_efficiency(gpu).gemm
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gemm.csv"
        path.write_text(texts["gemm.csv"], encoding="utf-8")
        return gemm_table(path, gpu)


def derive(measured: Mapping[str, Any], gpu: Gpu, about: Mapping[str, str]) -> dict[str, str]:
    """File name -> text of every table that `measured` (kernel -> pandas table with its `COLUMNS`) has data for.

    `about` is provenance that every file gets: source, engine, licence, date.
    """
    texts: dict[str, str] = {}
    for family in FAMILIES:
        if family.kernel not in measured:
            continue
        given = [measured[family.kernel], gpu]
        if family.with_products:
            given.append(_products(texts, gpu))
        derived: Derived = cast("Any", family.lines_of)(*given)
        if len(derived.lines) < 2:
            continue
        engine = engine_of(measured[family.kernel])
        header = {
            "kernel": family.file, "gpu": gpu.name, **about, **engine, **derived.about, "sd": f"{derived.sd:.2g}",
        }  # fmt: skip
        texts[f"{family.file}.csv"] = (
            "".join(f"# {key}: {for_line(value)}\n" for key, value in header.items()) + "\n".join(derived.lines) + "\n"
        )
    return texts
