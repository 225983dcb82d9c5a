"""Importer: measured kernel latencies from the package aiconfigurator-core, or from the user's own files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive import COLUMNS, NEEDED, derive
from roofml.microbench.derive.known_bad import version_of
from roofml.microbench.drift import (
    COMPARISONS,
    decode_drift_lines,
    drift_lines,
    drift_text,
    gemm_drift_lines,
    moe_drift_lines,
)
from roofml.microbench.packages import SYSTEMS, Package, campaign_of, newest, tables_of
from roofml.util.errors import InputError, because
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_folder, is_there, open_file
from roofml.util.writing import write_files

MOST = 1e12
"""Largest size, count or time, ms, that a measurement may have."""


def import_package(gpu: Gpu, engine: str | None, held_by: Sequence[Package]) -> tuple[dict[str, Any], dict[str, str]]:
    """Measurements of `gpu` from packages (kernel -> table), and their provenance.

    Every kernel is that of the newest version up to `engine`, a version of vLLM, or up to the GPU's campaign if None.
    Raises InputError where the packages hold none so old of a kernel that every GPU needs.
    """
    available = tables_of(gpu, held_by, list(COLUMNS))
    until = campaign_of(gpu) if engine is None else (*version_of(engine), *(99,) * (3 - len(version_of(engine))))
    measured: dict[str, Any] = {}
    sources: set[str] = set()
    for kernel in COLUMNS:
        held = newest(available.get(kernel, []), until)
        if held is None:
            if kernel in NEEDED:
                versions = ", ".join(table.version for table in available.get(kernel, [])) or "none"
                raise InputError(
                    f"{gpu.name}: no {kernel} of vLLM {'.'.join(map(str, until))} or older (it has {versions})"
                )
            continue
        measured[kernel] = read_table(held.path, kernel)
        sources.add(f"{held.package.name} {held.package.version}")
    return measured, {
        "source": f"NVIDIA {' and '.join(sorted(sources))}, {SYSTEMS[gpu.name]}",
        "engine": "vllm",
        "licence": "Apache-2.0",
    }


def write_drift(
    gpu: Gpu, held_by: Sequence[Package], folders: Sequence[Path], about: Mapping[str, str], folder: Path
) -> dict[str, int]:
    """Write drift.csv and those of single shapes into `folder`: other versions against the campaign.

    Returns file name -> rows; no file is written where no other version was measured.
    """
    base, provenance = import_package(gpu, None, held_by)
    available = tables_of(gpu, held_by, list(COMPARISONS))
    versions = sorted({held.version for tables in available.values() for held in tables}, key=version_of)
    others: list[dict[str, Any]] = [
        {
            kernel: read_table(held.path, kernel)
            for kernel, tables in available.items()
            for held in tables
            if held.version == version
        }
        for version in versions
    ]
    others += [import_folder(path, "", "", needed=())[0] for path in folders]
    derived = {
        "drift": drift_lines,
        "gemm_drift": gemm_drift_lines,
        "moe_drift": moe_drift_lines,
        "decode_drift": decode_drift_lines,
    }
    tables = {name: lines_of(base, others, gpu) for name, lines_of in derived.items()}
    sources = [provenance["source"], *(f"{path.resolve().name} of NVIDIA aiconfigurator" for path in folders)]
    about = {**about, "source": "; ".join(sources), "licence": provenance["licence"]}
    texts = {
        folder / f"{name}.csv": drift_text(name, lines, gpu, about) for name, lines in tables.items() if len(lines) > 1
    }
    if texts:
        make_folder(folder)
        write_files(texts)
    return {path.name: len(tables[path.stem]) - 1 for path in texts}


def import_folder(
    folder: Path, source: str, licence: str, needed: Sequence[str] = NEEDED
) -> tuple[dict[str, Any], dict[str, str]]:
    """Measurements from files `<kernel>_perf.parquet` or `<kernel>_perf.csv` in `folder`, with `derive.COLUMNS`.

    Their columns `framework` and `version`, if they have them, name the engine.

    Raises InputError for a missing file or column.
    """
    if not is_folder(folder):
        raise InputError(f"{folder}: not a folder")
    measured: dict[str, Any] = {}
    for kernel in COLUMNS:
        paths = [path for ending in ("parquet", "csv") if is_there(path := folder / f"{kernel}_perf.{ending}")]
        if paths:
            measured[kernel] = read_table(paths[0], kernel)
        elif kernel in needed:
            raise InputError(f"{folder}: expected {kernel}_perf.parquet or {kernel}_perf.csv")
    engines = {
        f"{row.framework} {row.version}".lower()
        for table in measured.values()
        if {"framework", "version"} <= set(table)
        for row in table[["framework", "version"]].drop_duplicates().itertuples()
    }
    return measured, {"source": source, "engine": " and ".join(sorted(engines)) or "not said", "licence": licence}


def read_table(path: Path | zipfile.Path, kernel: str) -> Any:
    """A table of measurements as a pandas DataFrame. Raises InputError naming what is missing or impossible."""
    try:
        import pandas as pd
    except ImportError:
        raise InputError("reading measurements needs pandas: pip install 'roofml[bench]'") from None
    with open_file(path, MOST_BYTES_OF_A_TABLE) if isinstance(path, Path) else path.open("rb") as file:
        try:
            parquet = path.name.endswith(".parquet")
            table: Any = pd.read_parquet(io.BytesIO(file.read())) if parquet else pd.read_csv(file)
        except Exception as error:  # of pandas or of what it reads with, each of its own kind
            kind = path.name.rpartition(".")[2]
            raise InputError(f"{path}: cannot be read as {kind}: {for_line(str(error))[:300]}") from None
    for column in COLUMNS[kernel]:
        if column not in table:
            raise InputError(f"{path}: {column}: missing column")
        if not column.endswith("dtype") and column != "distribution":
            if not pd.api.types.is_numeric_dtype(table[column]):
                raise InputError(f"{path}: {column}: expected numbers")
            least = 0 if column == "step" else 1e-9
            if not ((table[column] >= least) & (table[column] <= MOST)).all():
                raise InputError(f"{path}: {column}: expected positive numbers only, up to {MOST:g}")
    if len(table) == 0:
        raise InputError(f"{path}: no rows")
    return table


def make_folder(folder: Path) -> None:
    """Make a folder for outputs, if it is not there. Raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be made a folder: {because(error)}") from None


def write_tables(measured: Mapping[str, Any], gpu: Gpu, about: Mapping[str, str], folder: Path) -> dict[str, int]:
    """Derive and write every table into `folder`; file name -> rows. Nothing is written if one cannot be derived."""
    texts = derive(measured, gpu, about)
    for parent in {(folder / name).parent for name in texts}:
        make_folder(parent)
    write_files({folder / name: text for name, text in texts.items()})
    return {name: sum(not line.startswith("#") for line in text.splitlines()) - 1 for name, text in texts.items()}
