"""A family of kernels: what its measurements must hold, and how they become one file of `bench_data/<gpu>/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_tables import GemmTable


@dataclass(frozen=True)
class Derived:
    """One file of `bench_data`, derived."""

    lines: list[str]
    """Header first, then a row each."""
    sd: float
    """Relative standard deviation of what is interpolated between the rows."""
    about: dict[str, str] = field(default_factory=dict[str, str])
    """Further lines for the file's head, such as what was left out and why."""


@dataclass(frozen=True)
class Family:
    """One file of `bench_data`, and the kernel whose measurements it is derived from."""

    file: str
    """Without its ending."""
    kernel: str
    """The measurements are `<kernel>_perf.parquet` or `.csv`."""
    columns: tuple[str, ...]
    """Columns that they must have: numbers above 0, but for data types, names and `step`."""
    lines_of: Callable[[Any, Gpu], Derived] | Callable[[Any, Gpu, GemmTable], Derived]
    """From the table of all measurements (pandas; `latency` in ms), the GPU and, `with_products`, its products."""
    with_products: bool = False
    """Whether `lines_of` takes the GPU's matrix products, as the same import derives them: blocks include some."""
    needed: bool = False
    """Whether a GPU's tables do not serve every usual model without it."""
