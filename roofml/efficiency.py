"""Efficiency: what fraction of a datasheet's rates kernels reach, measured, from `bench_data/<gpu>/efficiency.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from roofml.errors import InputError
from roofml.files import data_folder
from roofml.gpu import Gpu
from roofml.yamlfile import read_mapping

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Efficiency:
    """Ideal over measured time of kernels, dimensionless; all-reduces as their measured time, µs."""

    gemm: float
    """MFU of GEMMs of thousands of tokens. One number: where fewer tokens reach less, arithmetic hides behind the
    weights, and a curve that rises would make a token of a larger step cheaper than itself in two smaller ones."""
    moe: float
    """The same for a fused mixture of experts, of a shape that the engine has tuned."""
    weights: float
    """MBU of a GEMM of one token, which does nothing but read its weights."""
    moe_weights: float
    """MBU of a fused mixture of experts that a step of 64 tokens streams through."""
    prefill_attention: float
    """MFU of causal prefill attention."""
    decode_attention: float
    """MBU of decode attention reading its KV cache, a kernel measured alone."""
    decode_attention_grouped: float
    """MBU that decode attention with grouped queries reaches in serving, with contexts spread over a batch."""
    allreduce_bytes: Floats
    """(sizes,) message sizes at which all-reduces were measured, bytes, ascending."""
    allreduce_us: dict[int, Floats]
    """GPUs -> (sizes,) measured time, µs."""
    source: str

    def allreduce_us_at(self, gpus: int, message_bytes: Floats) -> Floats:
        """Time of one all-reduce, µs: interpolated in bytes, beyond the largest at its bandwidth.

        Raises InputError for a number of GPUs that was not measured.
        """
        if gpus not in self.allreduce_us:
            known = ", ".join(map(str, self.allreduce_us))
            raise InputError(f"tensor parallel size {gpus}: no all-reduce was measured for it (known: 1, {known})")
        times, sizes = self.allreduce_us[gpus], self.allreduce_bytes
        beyond = np.maximum(message_bytes / sizes[-1], 1.0)
        return np.interp(message_bytes, sizes, times) * beyond


def load_efficiency(gpu: Gpu) -> Efficiency:
    """The measured efficiencies of `gpu`. Raises InputError where none are shipped or a number is impossible."""
    path = data_folder("bench_data") / gpu.name.lower() / "efficiency.yaml"
    if not path.is_file():
        raise InputError(f"{path}: no measured kernel efficiencies for {gpu.name}")
    table = read_mapping(path)

    def positive(field: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise InputError(f"{path}: {field}: expected a positive number, found {value!r}")
        return float(value)

    def curve(field: str, values: object, length: int | None) -> Floats:
        numbers = [positive(field, value) for value in cast("list[Any]", values)] if isinstance(values, list) else []
        if len(numbers) < 2 or length not in {None, len(numbers)}:
            raise InputError(f"{path}: {field}: expected a list of {length or 'at least 2'} numbers")
        return np.array(numbers)

    def gpus(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 2:
            raise InputError(f"{path}: allreduce_us: {value!r}: expected a number of GPUs of at least 2")
        return value

    sizes = curve("allreduce_bytes", table.get("allreduce_bytes"), None)
    times = table.get("allreduce_us")
    if not isinstance(times, dict) or np.any(np.diff(sizes) <= 0):
        raise InputError(f"{path}: expected ascending allreduce_bytes and allreduce_us by number of GPUs")
    return Efficiency(
        gemm=positive("gemm", table.get("gemm")),
        moe=positive("moe", table.get("moe")),
        weights=positive("weights", table.get("weights")),
        moe_weights=positive("moe_weights", table.get("moe_weights")),
        prefill_attention=positive("prefill_attention", table.get("prefill_attention")),
        decode_attention=positive("decode_attention", table.get("decode_attention")),
        decode_attention_grouped=positive("decode_attention_grouped", table.get("decode_attention_grouped")),
        allreduce_bytes=sizes,
        allreduce_us={
            gpus(n): curve(f"allreduce_us.{n}", t, len(sizes)) for n, t in cast("dict[Any, Any]", times).items()
        },
        source=str(table.get("source", "")),
    )
