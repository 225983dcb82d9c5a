"""Campaigns that are known to be wrong: rows that are left out of every table, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roofml.microbench.derive.bounds import LeftOut

Version = tuple[int, ...]


@dataclass(frozen=True)
class Bad:
    """Rows of one kernel that are not used."""

    kernel: str
    since: Version
    until: Version
    """First and last version of vLLM whose rows they are."""
    reason: str
    format: str = ""
    """The column of formats has this value; "": any."""
    device: str = ""
    """A part of the device's name; "": any."""


BAD = (
    Bad("gemm", (0, 12), (0, 14, 99), "of FP8 kernels of 0.12-0.14, slower than BF16's", "fp8"),
    Bad("gemm", (0, 12), (0, 14, 99), "of FP8 kernels of 0.12-0.14, slower than BF16's", "fp8_block"),
    Bad("gemm", (0, 22), (0, 24, 99), "of block-FP8 products timed outside of a CUDA graph", "fp8_block"),
    Bad("gemm", (0, 27), (0, 27, 99), "of block-FP8 products timed outside of a CUDA graph", "fp8_block"),
    Bad("context_attention", (0, 16), (0, 22, 99), "of attention whose writing of the cache was not timed"),
    Bad("generation_attention", (0, 16), (0, 22, 99), "of attention whose writing of the cache was not timed"),
    Bad("moe", (0, 24), (99,), "of an FP8 mixture's kernel that no server uses", "fp8", "H100"),
    Bad("moe", (0, 24), (99,), "of an FP8 mixture's kernel that no server uses", "fp8", "H200"),
    Bad("moe", (0, 19), (0, 19, 99), "of INT4 mixtures of 0.19, slower than BF16's", "int4_wo"),
    Bad("moe", (0, 19), (0, 19, 99), "of MXFP4 mixtures of 0.19 on B200, a fallback", "w4a16_mxfp4", "B200"),
)
"""Found by comparing versions of a campaign and by the bounds of `bounds.py`, November 2026."""

FORMAT_COLUMNS = {"gemm": "gemm_dtype", "moe": "moe_dtype"}


def version_of(text: str) -> Version:
    """`0.24.0` -> (0, 24, 0); what is no number ends it."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isascii() or not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def without_known_bad(table: Any, kernel: str, left_out: LeftOut) -> Any:
    """The rows of a campaign's table (pandas) that are not known to be wrong.

    Tables that do not say their version and device, such as one's own, keep all.
    """
    if not {"version", "device"} <= set(table):
        return table
    for bad in BAD:
        if bad.kernel != kernel:
            continue
        versions = {text for text in table.version.unique() if bad.since <= version_of(str(text)) <= bad.until}
        wrong = table.version.isin(versions) & table.device.str.contains(bad.device, regex=False)
        if bad.format:
            wrong &= table[FORMAT_COLUMNS[kernel]] == bad.format
        left_out.count(bad.reason, int(wrong.sum()))
        table = table[~wrong]
    return table
