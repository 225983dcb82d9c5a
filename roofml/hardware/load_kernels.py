"""The kernels of a GPU: its own tables, else a relative's, else typical shares of its datasheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from roofml.hardware.gpu import TYPICAL, Gpu, load_gpu
from roofml.hardware.kernels import Efficiency
from roofml.hardware.neighbour import carried_over
from roofml.hardware.read_kernels import read_efficiency, tables_folder, tables_sha256
from roofml.hardware.read_modules import read_modules
from roofml.hardware.typical import typical_kernels
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.reading import is_there

LONGEST_CHAIN = 4
"""Relatives of relatives."""
_read: dict[Path, tuple[Gpu, str, Efficiency]] = {}
"""Folder -> the GPU and the digest of the tables that were read there last, and what they hold: who fits hundreds of
deployments reads them once."""


class Kernels(NamedTuple):
    """The kernels of a GPU, and the digest of what they come from."""

    efficiency: Efficiency
    sha256: str


def load_kernels(gpu: Gpu) -> Kernels:
    """The measured kernels of `gpu`, or those that stand for them, which `Efficiency.variances` says.

    Raises InputError if there are none and its sheet names no `kernels_of`, and if a number is impossible.
    """
    found = _kernels(gpu, LONGEST_CHAIN)
    return found._replace(efficiency=replace(found.efficiency, modules=read_modules(tables_folder(gpu), gpu)))


def load_efficiency(gpu: Gpu) -> Efficiency:
    """`load_kernels` without the digest."""
    return load_kernels(gpu).efficiency


def _kernels(gpu: Gpu, chain: int) -> Kernels:
    folder = tables_folder(gpu)
    if _measured(folder) or not gpu.kernels_of:
        return _own(folder, gpu)
    if gpu.kernels_of == TYPICAL:
        return Kernels(typical_kernels(gpu), digest(TYPICAL, gpu.sheet_sha256))
    if chain == 0:
        raise InputError(f"{gpu.name}: kernels_of: more than {LONGEST_CHAIN} GPUs that stand for each other")
    relative = load_gpu(gpu.kernels_of)
    theirs = _kernels(relative, chain - 1)
    carried = carried_over(theirs.efficiency, gpu, relative, gpu.kernels_step)
    return Kernels(carried, digest(theirs.sha256, relative.sheet_sha256, gpu.sheet_sha256, gpu.kernels_step))


def _own(folder: Path, gpu: Gpu) -> Kernels:
    """The tables of a folder; read again where they or the GPU's sheet are not those that were read last."""
    sha256 = tables_sha256(folder)
    last = _read.get(folder)
    if last is None or last[1] != sha256 or last[0] != gpu:
        last = _read[folder] = (gpu, sha256, read_efficiency(folder, gpu))
    return Kernels(last[2], sha256)


def _measured(folder: Path) -> bool:
    return is_there(folder / "gemm.csv")
