"""Packages: NVIDIA's kernel measurements as PyPI has them, installed, or as a wheel or unpacked folder.

`aiconfigurator-core` and its successor `aisimulate` hold `systems/data/<system>/<family>/<engine>/<version>/
<kernel>_perf.parquet`, Apache-2.0.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from roofml.hardware.gpu import Gpu
from roofml.microbench.derive.known_bad import Version, version_of
from roofml.util.errors import InputError, because

SYSTEMS = {
    "A100-SXM": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "L40S": "l40s",
    "RTX-PRO-6000-Server": "rtx_pro_6000_server",
}
"""GPU -> name of its system in the packages."""
ROOTS = {"aiconfigurator-core": "aiconfigurator_core", "aisimulate": "aisimulate_core"}
"""Package -> its folder with `systems/data`; of a version that both hold, the later package here is taken."""
INSTALL = "pip install 'roofml[aiconfigurator]', or give --package WHEEL (pip download --no-deps aiconfigurator-core)"
CAMPAIGN: dict[str, Version] = {"A100-SXM": (0, 14, 99), "L40S": (0, 24, 99), "RTX-PRO-6000-Server": (0, 24, 99)}
"""GPU -> the newest version of vLLM whose campaign is taken; kernels it lacks are those of the version before it. One
campaign, so that kernels fit together; other versions are told by `drift.csv`."""
NEWEST_CAMPAIGN: Version = (0, 25, 99)
"""That of every other GPU. Later campaigns measured products and all-reduces only."""


@dataclass(frozen=True)
class Package:
    """One package's measurements."""

    name: str
    version: str
    data: Path | zipfile.Path
    """Folder with a folder for each system."""


def packages(wheels: Sequence[Path] = ()) -> list[Package]:
    """The given packages, else those that are installed. Raises InputError where there is none."""
    if wheels:
        return [_given(path) for path in wheels]
    found: list[Package] = []
    for name, root in ROOTS.items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found.append(Package(name, installed.version, Path(str(installed.locate_file(root))) / "systems" / "data"))
    found = [package for package in found if package.data.is_dir()]
    if not found:
        raise InputError(f"aiconfigurator-core is not installed: {INSTALL}, or give --from FOLDER")
    return found


def _given(path: Path) -> Package:
    """The package of a wheel or of the folder that it was unpacked to."""
    try:
        root = path if path.is_dir() else zipfile.Path(path)
        names = {entry.name for entry in root.iterdir()}
    except zipfile.BadZipFile:
        raise InputError(f"{path}: is no wheel") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a wheel: {because(error)}") from None
    for name, folder in ROOTS.items():
        if folder in names:
            about = re.compile(rf"{name.replace('-', '_')}-(.+)\.dist-info")
            version = next((found[1] for entry in sorted(names) if (found := about.fullmatch(entry))), "unknown")
            return Package(name, version, root / folder / "systems" / "data")
    raise InputError(f"{path}: expected a wheel of {' or '.join(ROOTS)}, or the folder of one")


@dataclass(frozen=True)
class Held:
    """One table of measurements in a package."""

    package: Package
    version: str
    path: Path | zipfile.Path


def tables_of(gpu: Gpu, held_by: Sequence[Package], kernels: Sequence[str]) -> dict[str, list[Held]]:
    """Kernel -> its tables of vLLM on `gpu`, oldest version first; one a version, the last package's.

    Raises InputError for a GPU that no package knows.
    """
    folders = [
        (package, package.data / SYSTEMS[gpu.name])
        for package in held_by
        if gpu.name in SYSTEMS and (package.data / SYSTEMS[gpu.name]).is_dir()
    ]
    if not folders:
        names = ", ".join(
            name for name, system in SYSTEMS.items() if any((package.data / system).is_dir() for package in held_by)
        )
        said = " and ".join(package.name for package in held_by)
        raise InputError(f"{gpu.name}: {said} has no measurements of it (it has {names})")
    found: dict[str, dict[str, Held]] = {}
    wanted = {f"{kernel}_perf.parquet": kernel for kernel in kernels}
    for package, folder in folders:
        for family in folder.iterdir():
            engine = family / "vllm"
            for version in engine.iterdir() if engine.is_dir() else ():
                for file in version.iterdir() if version.is_dir() else ():
                    if file.name in wanted:
                        of_kernel = found.setdefault(wanted[file.name], {})
                        of_kernel[version.name] = Held(package, version.name, file)
    return {
        kernel: [found[kernel][name] for name in sorted(found[kernel], key=version_of)]
        for kernel in kernels
        if kernel in found
    }


def newest(tables: Sequence[Held], until: Version) -> Held | None:
    """The newest of these tables up to a version, else the oldest later one; of released versions only."""
    released = [held for held in tables if "dev" not in held.version]
    early = [held for held in released if version_of(held.version) <= until]
    return early[-1] if early else next(iter(released), None)


def campaign_of(gpu: Gpu) -> Version:
    """The newest version whose measurements `roofml bench import` takes of a GPU."""
    return CAMPAIGN.get(gpu.name, NEWEST_CAMPAIGN)
