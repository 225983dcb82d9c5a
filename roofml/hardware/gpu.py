"""Gpu: the numbers of a datasheet, from `hardware/<gpu>.yaml`. Nothing here is fitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.gpu_names import name_key, nearest_names
from roofml.util.names import is_name, shown
from roofml.util.outside_text import for_file_name
from roofml.util.package_data import data_folder
from roofml.util.yaml_io import read_mapping

DTYPES = ("bfloat16", "float16", "tf32", "fp8", "int8", "fp4", "int4")
"""Data types a sheet may give rates for. fp4 is for 4-bit weights and activations, int4 likewise."""

FASTEST_PCIE = 64e3
"""bytes/µs, one direction."""
TYPICAL = "typical"
"""`kernels_of` a GPU without a measured relative: typical shares of its datasheet."""
IN_KIND, ACROSS = "in kind", "across generations or kinds of memory"
KERNEL_STEPS = {"in kind": IN_KIND, "across": ACROSS}
TYPICAL_REPORTED_SHARE = 0.99
"""Share of a sheet's memory that the driver reports, for sheets without that number: 0.988 to 0.999 with HBM."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. Rates are dense (no sparsity) and per GPU; 1 TFLOP/s = 1e6 FLOP/µs, 1 TB/s = 1e6 bytes/µs."""

    name: str
    flops_per_us: dict[str, float]
    """Peak dense matrix rate by data type, FLOP/µs."""
    bandwidth_bytes_per_us: float
    """Peak memory bandwidth, bytes/µs."""
    memory_bytes: int
    interconnect_bytes_per_us: float
    """Peak bandwidth to the other GPUs of the node, one direction, bytes/µs."""
    sm_count: int
    source: str
    reported_memory_bytes: int = 0
    """Bytes the driver reports to a process: ECC and reserved pages take the rest of the sheet's. 0 = not known."""
    kernels_of: str = ""
    """The GPU whose measured kernels stand for its own where it has none, or TYPICAL; empty: nothing does."""
    kernels_step: str = ""
    """How far that is: IN_KIND or ACROSS."""

    @property
    def over_pcie(self) -> bool:
        """Whether GPUs reach each other over PCIe: its fastest, of 16 lanes of version 5, is slower than any NVLink."""
        return self.interconnect_bytes_per_us <= FASTEST_PCIE

    @property
    def process_memory_bytes(self) -> int:
        """Bytes of memory that a process sees, of which engines take a share: as reported, else 99 % of the sheet's."""
        return self.reported_memory_bytes or round(TYPICAL_REPORTED_SHARE * self.memory_bytes)

    @property
    def sheet_sha256(self) -> str:
        """Digest of the sheet's numbers: two GPUs of one name may have different ones."""
        numbers = {
            "flops_per_us": dict(sorted(self.flops_per_us.items())),
            "bandwidth_bytes_per_us": self.bandwidth_bytes_per_us,
            "memory_bytes": self.memory_bytes,
            "interconnect_bytes_per_us": self.interconnect_bytes_per_us,
            "sm_count": self.sm_count,
            "reported_memory_bytes": self.reported_memory_bytes,
        }
        return digest(json.dumps(numbers, sort_keys=True))

    def computes_in(self, dtype: str) -> str:
        """The type in which a product of FP8 or FP4 weights is computed: the weights are unpacked to bfloat16 where
        the GPU has no rate for theirs, as vLLM does (Marlin)."""
        return "bfloat16" if dtype in {"fp8", "fp4"} and dtype not in self.flops_per_us else dtype

    def flops_rate(self, dtype: str) -> float:
        """Peak dense matrix rate in `dtype`, FLOP/µs. Raises InputError naming the number the sheet lacks."""
        if dtype not in self.flops_per_us:
            dtypes = ", ".join(self.flops_per_us)
            raise InputError(f"{self.name}: tflops.{dtype} is missing from its sheet (it has {dtypes})")
        return self.flops_per_us[dtype]


def load_gpu(gpu: str) -> Gpu:
    """The GPU named `gpu` (a name or alias in `hardware/`, as anyone writes it) or of the YAML file at that path.

    Raises InputError for an unknown name (with the nearest ones) and for a missing or impossible number.
    """
    path = Path(gpu)
    if path.suffix in {".yaml", ".yml"}:
        return _gpu(read_mapping(path), path)
    for entry in _entries():  # most are called as their file is, and the other sheets need no reading
        if entry.stem.lower() == gpu.lower():
            return _sheet(entry).gpu
    sheets = _packaged()
    written = [sheet for sheet in sheets if gpu.lower() in sheet.names]
    key = name_key(gpu)
    alike = [sheet for sheet in sheets if key and any(name_key(name) == key for name in sheet.names)]
    if written or alike:
        return (written or alike)[0].gpu
    known = ", ".join(sheet.gpu.name for sheet in sheets)
    near = nearest_names(gpu, (name for sheet in sheets for name in sheet.names))
    raise InputError(f"gpu {shown(gpu)}: not in hardware/{near} (known: {known}) and not a YAML file")


class Sheet(NamedTuple):
    """One sheet of `hardware/`."""

    gpu: Gpu
    names: tuple[str, ...]
    """Its name, its file's and its aliases, in lower case."""


@cache
def _entries() -> tuple[Path, ...]:
    """The files of `hardware/`, in order."""
    return tuple(sorted(data_folder("hardware").glob("*.yaml")))


@cache
def _sheet(entry: Path) -> Sheet:
    """What a file of `hardware/` says."""
    sheet = read_mapping(entry)
    gpu = _gpu(sheet, entry)
    names = dict.fromkeys((gpu.name.lower(), entry.stem.lower(), *_aliases(sheet, entry)))
    return Sheet(gpu, tuple(names))


def _packaged() -> tuple[Sheet, ...]:
    """All sheets of `hardware/`, in the order of their files."""
    return tuple(map(_sheet, _entries()))


def packaged_gpu(name: str) -> Gpu | None:
    """The GPU of `hardware/` with this name, or with one that stands for the same folder; None if there is none."""
    folder = for_file_name(name)
    return next((_sheet(entry).gpu for entry in _entries() if for_file_name(entry.stem) == folder), None)


@dataclass(frozen=True)
class Plausible:
    """What a number of a sheet can be: far from any GPU there is, but not a number in another unit."""

    smallest: float
    largest: float
    unit: str


RATE = Plausible(1, 200_000, "dense TFLOP/s")
"""An L4 has 121 in bfloat16, a B200 9,000 in fp4."""
PLAUSIBLE = {
    "bandwidth_tb_per_s": Plausible(0.05, 100, "TB/s"),
    "memory_gib": Plausible(1, 4096, "GiB"),
    "reported_memory_gib": Plausible(1, 4096, "GiB"),
    "interconnect_gb_per_s": Plausible(0.5, 10_000, "GB/s, one direction"),
    "sm_count": Plausible(1, 10_000, "streaming multiprocessors"),
}
"""An L4 has 0.3 TB/s, 24 GiB, 32 GB/s and 58 multiprocessors, a B200 8 TB/s, 180 GiB and 900 GB/s."""
FIELDS = {"name", "aliases", "tflops", *PLAUSIBLE, "kernels_of", "kernels_step", "source"}
LONGEST_NAME = 64
LONGEST_SOURCE = 1000
MOST_ALIASES = 50


def _gpu(sheet: Mapping[str, object], path: Path) -> Gpu:
    """The GPU of a sheet. Raises InputError naming the file and the field that is wrong."""
    unknown = set(sheet) - FIELDS
    if unknown:
        raise InputError(f"{path}: unknown field {shown(sorted(unknown)[0])}, expected {', '.join(sorted(FIELDS))}")
    _aliases(sheet, path)
    memory, reported = _number(sheet, "memory_gib", path), 0.0
    if sheet.get("reported_memory_gib") is not None:
        reported = _number(sheet, "reported_memory_gib", path)
        if reported > memory:
            raise InputError(f"{path}: reported_memory_gib: {reported:g} exceeds memory_gib {memory:g}")
    source = sheet.get("source", "")
    if not isinstance(source, str) or (source and not is_name(source, LONGEST_SOURCE)):
        raise InputError(f"{path}: source: expected one line of printable characters, found {shown(source)}")
    kernels_of, step = sheet.get("kernels_of", ""), str(sheet.get("kernels_step", ""))
    if not isinstance(kernels_of, str) or (kernels_of and not is_name(kernels_of, LONGEST_NAME)):
        raise InputError(f"{path}: kernels_of: expected the name of a GPU or {TYPICAL}, found {shown(kernels_of)}")
    if (step in KERNEL_STEPS) != (kernels_of not in ("", TYPICAL)) or (step and step not in KERNEL_STEPS):
        expected = " or ".join(KERNEL_STEPS)
        raise InputError(f"{path}: kernels_step: expected {expected} beside a kernels_of, found {shown(step)}")
    multiprocessors = _number(sheet, "sm_count", path)
    if multiprocessors != round(multiprocessors):
        raise InputError(f"{path}: sm_count: expected a whole number, found {multiprocessors:g}")
    return Gpu(
        name=_name(sheet.get("name", path.stem), "name", path),
        flops_per_us=_rates(sheet, path),
        bandwidth_bytes_per_us=1e6 * _number(sheet, "bandwidth_tb_per_s", path),
        memory_bytes=round(2**30 * memory),
        interconnect_bytes_per_us=1e3 * _number(sheet, "interconnect_gb_per_s", path),
        sm_count=round(multiprocessors),
        source=source,
        reported_memory_bytes=round(2**30 * reported),
        kernels_of=kernels_of,
        kernels_step=KERNEL_STEPS.get(step, ""),
    )


def _number(sheet: Mapping[str, object], field: str, path: Path) -> float:
    return _plausible(sheet.get(field), field, PLAUSIBLE[field], path)


def _plausible(value: object, field: str, expected: Plausible, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{path}: {field}: expected a positive number, found {shown(value)}")
    if not expected.smallest <= value <= expected.largest:
        between = f"between {expected.smallest:g} and {expected.largest:g} {expected.unit}"
        raise InputError(f"{path}: {field}: expected {between}, found {shown(value)}")
    return float(value)


def _rates(sheet: Mapping[str, object], path: Path) -> dict[str, float]:
    """Data type -> FLOP/µs."""
    given = sheet.get("tflops")
    if not isinstance(given, dict) or "bfloat16" not in given:
        raise InputError(f"{path}: tflops: expected a mapping of data types to dense TFLOP/s, with bfloat16")
    rates = cast("dict[object, object]", given)
    for dtype in rates:
        if dtype not in DTYPES:
            raise InputError(f"{path}: tflops: unknown data type {shown(dtype)}, expected {', '.join(DTYPES)}")
    return {str(dtype): 1e6 * _plausible(rate, f"tflops.{dtype}", RATE, path) for dtype, rate in rates.items()}


def _name(value: object, field: str, path: Path) -> str:
    """A name that can stand in a file's name and in a line of text."""
    if isinstance(value, str) and is_name(value, LONGEST_NAME) and not set("/\\:") & set(value):
        plain = value == value.strip() and not value.startswith((".", "-"))
        if plain:
            return value
    raise InputError(
        f"{path}: {field}: expected a name of at most {LONGEST_NAME} printable characters without / \\ : and not "
        f"beginning with a dot or dash, found {shown(value)}"
    )


def _aliases(sheet: Mapping[str, object], path: Path) -> list[str]:
    """Other names, in lower case; YAML reads that of an RTX 4090 as a number."""
    given = sheet.get("aliases", [])
    found = shown(given)
    if not isinstance(given, list) or len(cast("list[object]", given)) > MOST_ALIASES:
        raise InputError(f"{path}: aliases: expected a list of at most {MOST_ALIASES} names, found {found}")
    aliases: list[str] = []
    for number, alias in enumerate(cast("list[object]", given)):
        whole = isinstance(alias, int) and not isinstance(alias, bool) and abs(alias) < 10**LONGEST_NAME
        aliases.append(_name(str(alias) if whole else alias, f"aliases.{number}", path).lower())
    return aliases
