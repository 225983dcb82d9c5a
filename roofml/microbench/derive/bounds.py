"""What no kernel can be: rows and formats of a campaign that are left out of a table, with the reason.

Campaigns go wrong: a kernel that was not run, one timed with its launch by the CPU, a fallback that no server uses.
Each bound here follows from the datasheet or from the campaign's other rows. What no bound shows stands in
`known_bad.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from roofml.util.arrays import Floats

FASTER = 1.15
"""A kernel above this multiple of a datasheet's rate was not run as said."""
CACHED_BYTES = 256e6
"""Weights of more bytes than any cache holds twice; smaller ones, measured again and again, may come from it."""
FROM_CACHE = 8.0
"""A cache is at most so much faster than the memory."""
LOW, HIGH = 0.1, 0.5
"""Shares of the roofline: a row below the first whose neighbours reach the second failed."""
NOISE = 1.1
"""A size at least twice as large that is faster by more than this shows that the smaller one failed. (Sizes nearer may
fall: a tile more is another kernel.)"""
SLOWER = 1.1
"""A format of narrower weights that takes longer than bfloat16 by this factor, in the median of products bound by
arithmetic, is a kernel that no server would choose; of weights that are unpacked it is `SLOWER_UNPACKED`."""
SLOWER_UNPACKED = 2.0
MANY_ROWS = 1024
"""Products of at least so many rows are bound by arithmetic."""
LAUNCHED_BY_CPU = 10.0
"""A format whose smallest product takes so many times bfloat16's was timed outside of a CUDA graph."""


@dataclass
class LeftOut:
    """Rows that a table does without: reason -> how many."""

    reasons: Counter[str] = field(default_factory=Counter[str])

    def count(self, reason: str, rows: int) -> None:
        """Note `rows` left out for `reason`."""
        if rows:
            self.reasons[reason] += rows

    def about(self) -> dict[str, str]:
        """The line of a table's head; empty where nothing was left out."""
        said = "; ".join(f"{rows} {reason}" for reason, rows in sorted(self.reasons.items()))
        return {"left out": said} if said else {}


def possible(
    sizes: Floats, times: Floats, compute: Floats, reading: Floats, read_bytes: Floats, left_out: LeftOut
) -> Floats:
    """Times (sizes,) of ascending `sizes` with NaN for those that no kernel takes; all in µs, bytes in `read_bytes`.

    `compute` and `reading` are the least times of the datasheet for arithmetic and for reading `read_bytes`.
    """
    cached = np.where(read_bytes > CACHED_BYTES, 1.0, FROM_CACHE)
    bound = np.maximum(compute, reading / cached)
    good = np.where(times * FASTER < bound, np.nan, times)
    left_out.count("faster than the datasheet", int(np.isnan(good).sum()))
    share = np.maximum(compute, reading) / good
    beside = np.fmin(np.r_[np.inf, share[:-1]], np.r_[share[1:], np.inf])
    failed = (share < LOW) & (beside >= HIGH) & np.isfinite(beside)
    good = np.where(failed, np.nan, good)
    left_out.count("below a tenth of the roofline between others", int(failed.sum()))
    later = np.r_[np.fmin.accumulate(good[::-1])[::-1], np.inf]
    twice = later[np.searchsorted(sizes, 2 * sizes)]
    fallen = good > NOISE * twice
    left_out.count("slower than a size twice as large", int(fallen.sum()))
    return np.where(fallen, np.nan, good)


def unusable(large: Floats, least: float, wide_least: float, unpacked: bool) -> str:
    """Why a format's whole table is left out, or nothing.

    `large` are its times over bfloat16's at products of at least `MANY_ROWS` rows, `least` and `wide_least` the times
    of the smallest products, ms.
    """
    slower = SLOWER_UNPACKED if unpacked else SLOWER
    if large.size and float(np.median(large)) > slower:
        return f"slower than bfloat16 ({np.median(large):.2f} times at {MANY_ROWS} rows and more)"
    if least > LAUNCHED_BY_CPU * wide_least:
        return f"timed outside of a CUDA graph (no product below {1e3 * least:.0f} µs)"
    return ""
