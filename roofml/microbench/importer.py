"""Importer: measured kernel latencies from the package aiconfigurator-core, or from the user's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive import COLUMNS, NEEDED, derive
from roofml.util.errors import InputError, because
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_folder, is_there, open_file
from roofml.util.writing import write_files

SYSTEMS = {
    "A100-SXM": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "GB200": "gb200",
    "L40S": "l40s",
}
"""GPU -> name of its system in the package."""
MOST = 1e12
"""Largest size, count or time, ms, that a measurement may have."""
INSTALL = "pip install 'roofml[aiconfigurator]'"


def package_data() -> tuple[Path, str]:
    """Folder of the measurements in the installed aiconfigurator-core, and its version.

    Raises InputError if it is not installed.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        package = distribution("aiconfigurator-core")
    except PackageNotFoundError:
        raise InputError(f"aiconfigurator-core is not installed: {INSTALL}, or give --from FOLDER") from None
    return Path(str(package.locate_file("aiconfigurator_core"))) / "systems" / "data", package.version


def package_versions(gpu: Gpu, data: Path) -> dict[str, list[str]]:
    """Kernel -> the versions of vLLM it was measured with on `gpu`, oldest first."""
    folder = data / SYSTEMS.get(gpu.name, "-")
    if not folder.is_dir():
        names = ", ".join(name for name, system in SYSTEMS.items() if (data / system).is_dir())
        raise InputError(f"{gpu.name}: aiconfigurator-core has no measurements of it (it has {names})")
    versions: dict[str, list[str]] = {}
    for kernel in COLUMNS:
        measured = {path.parent.name for path in folder.glob(f"*/vllm/*/{kernel}_perf.parquet")}
        if measured:
            versions[kernel] = sorted(measured, key=_version)
    return versions


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in text.split("."))


def import_package(gpu: Gpu, engine: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Measurements of `gpu` from the package (kernel -> table), and their provenance.

    Every kernel is that of `engine`, a version of vLLM, or of the newest version if None. Raises InputError for a
    version or a kernel that the package does not hold.
    """
    data, version = package_data()
    available = package_versions(gpu, data)
    folder = data / SYSTEMS[gpu.name]
    measured: dict[str, Any] = {}
    engines: set[str] = set()
    for kernel in COLUMNS:
        versions = available.get(kernel, [])
        chosen = engine if engine is not None else (versions[-1] if versions else None)
        if chosen is None or chosen not in versions:
            if kernel not in NEEDED:
                continue
            raise InputError(f"{gpu.name}: no {kernel} of vLLM {chosen} (it has {', '.join(versions) or 'none'})")
        (path,) = folder.glob(f"*/vllm/{chosen}/{kernel}_perf.parquet")
        measured[kernel] = read_table(path, kernel)
        engines.add(chosen)
    return measured, {
        "source": f"NVIDIA aiconfigurator-core {version}, {folder.name}",
        "engine": f"vllm {' and '.join(sorted(engines, key=_version))}",
        "licence": "Apache-2.0",
    }


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


def read_table(path: Path, kernel: str) -> Any:
    """A table of measurements as a pandas DataFrame. Raises InputError naming what is missing or impossible."""
    try:
        import pandas as pd
    except ImportError:
        raise InputError("reading measurements needs pandas and pyarrow: pip install 'roofml[bench]'") from None
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        try:
            table: Any = pd.read_parquet(file) if path.suffix == ".parquet" else pd.read_csv(file)
        except Exception as error:  # of pandas or of what it reads with, each of its own kind
            raise InputError(f"{path}: cannot be read as {path.suffix[1:]}: {for_line(str(error))[:300]}") from None
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
