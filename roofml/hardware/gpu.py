"""Gpu: the numbers of a datasheet, from `hardware/<gpu>.yaml`. Nothing here is fitted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.files import data_folder
from roofml.util.yaml_io import read_mapping

DTYPES = ("bfloat16", "float16", "tf32", "fp8", "int8", "fp4", "int4")
"""Data types a sheet may give rates for. fp4 is for 4-bit weights and activations, int4 likewise."""

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

    def flops_rate(self, dtype: str) -> float:
        """Peak dense matrix rate in `dtype`, FLOP/µs. Raises InputError naming the number the sheet lacks."""
        if dtype not in self.flops_per_us:
            dtypes = ", ".join(self.flops_per_us)
            raise InputError(f"{self.name}: tflops.{dtype} is missing from its sheet (it has {dtypes})")
        return self.flops_per_us[dtype]


def load_gpu(gpu: str) -> Gpu:
    """The GPU named `gpu` (a name or alias in `hardware/`, any case) or described by the YAML file at that path.

    Raises InputError for an unknown name (listing the known ones) and for a missing or impossible number.
    """
    path = Path(gpu)
    if path.suffix in {".yaml", ".yml"}:
        return _read_gpu(path)
    names: list[str] = []
    for entry in sorted(data_folder("hardware").glob("*.yaml")):
        candidate = _read_gpu(entry)
        aliases = read_mapping(entry).get("aliases", [])
        if gpu.lower() in {candidate.name.lower(), entry.stem.lower(), *(str(alias).lower() for alias in aliases)}:
            return candidate
        names.append(candidate.name)
    raise InputError(f"gpu {gpu!r}: not in hardware/ (known: {', '.join(names)}) and not a YAML file")


def packaged_gpu(name: str) -> Gpu | None:
    """The GPU whose sheet is `hardware/<name>.yaml`; None if there is no such sheet."""
    path = data_folder("hardware") / f"{name}.yaml"
    return _read_gpu(path) if path.is_file() else None


FIELDS = {
    "name",
    "aliases",
    "tflops",
    "bandwidth_tb_per_s",
    "memory_gib",
    "reported_memory_gib",
    "interconnect_gb_per_s",
    "sm_count",
    "source",
}


def _read_gpu(path: Path) -> Gpu:
    sheet = read_mapping(path)
    unknown = set(sheet) - FIELDS
    if unknown:
        raise InputError(f"{path}: unknown field {sorted(unknown)[0]!r}, expected {', '.join(sorted(FIELDS))}")

    def number(field: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise InputError(f"{path}: {field}: expected a positive number, found {value!r}")
        return float(value)

    tflops = sheet.get("tflops")
    if not isinstance(tflops, dict) or "bfloat16" not in tflops:
        raise InputError(f"{path}: tflops: expected a mapping of data types to dense TFLOP/s, with bfloat16")
    for dtype in tflops:  # pyright: ignore[reportUnknownVariableType]
        if dtype not in DTYPES:
            raise InputError(f"{path}: tflops: unknown data type {dtype!r}, expected {', '.join(DTYPES)}")
    memory = number("memory_gib", sheet.get("memory_gib"))
    reported = 0.0
    if sheet.get("reported_memory_gib") is not None:
        reported = number("reported_memory_gib", sheet["reported_memory_gib"])
        if reported > memory:
            raise InputError(f"{path}: reported_memory_gib: {reported:g} exceeds memory_gib {memory:g}")
    return Gpu(
        name=str(sheet.get("name", path.stem)),
        flops_per_us={str(k): 1e6 * number(f"tflops.{k}", v) for k, v in tflops.items()},  # pyright: ignore
        bandwidth_bytes_per_us=1e6 * number("bandwidth_tb_per_s", sheet.get("bandwidth_tb_per_s")),
        memory_bytes=round(2**30 * memory),
        interconnect_bytes_per_us=1e3 * number("interconnect_gb_per_s", sheet.get("interconnect_gb_per_s")),
        sm_count=round(number("sm_count", sheet.get("sm_count"))),
        source=str(sheet.get("source", "")),
        reported_memory_bytes=round(2**30 * reported),
    )
