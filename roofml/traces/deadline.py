"""Deadlines: after how long a client gives a request up, as the failures of a run show it, or as the user says.

Under overload a load generator's client closes a request that has no answer in time. Until then it stands in the
server's queue, or holds a seat and KV blocks; then vLLM drops it. Requests that were given up all end the same time
after they were sent, which nothing else makes them do, and no answer takes longer.
"""

from __future__ import annotations

import math

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.raw import RawRun
from roofml.util.arrays import Bools

FEWEST = 5
"""Fewest failures that can show a deadline."""
SPREAD_US, SPREAD = 1.5e6, 0.01
"""Width of the band in which they end: clients look at the clock once a second, or are busy."""
MOST_OTHERS = 0.2
"""Largest share of failures, of those whose end is known, that end otherwise."""
SHORTEST_US = 1e6


def given_up(raw: RawRun, deadline_s: float | None) -> tuple[float, Bools, list[Finding]]:
    """(deadline, µs; requests that were given up; findings). An infinite deadline: nobody gives up.

    The deadline is the user's, or the middle of the band in which failed requests ended.
    """
    nobody = np.zeros(len(raw), np.bool_)
    ends = raw.failed_after_us
    failed = ~raw.ok & np.isfinite(ends)
    if deadline_s is not None:
        deadline = deadline_s * 1e6
        late: Bools = failed & (ends >= deadline) if math.isfinite(deadline) else nobody
        return deadline, late, [_finding(raw, deadline, late, "as --deadline says")] if late.any() else []
    if int(failed.sum()) < FEWEST:
        return math.inf, nobody, []
    begin = float(np.median(ends[failed]))
    width = max(SPREAD_US, SPREAD * begin)
    band: Bools = failed & (np.abs(ends - begin) <= width / 2)
    longest = float(np.nanmax(np.where(raw.ok, raw.e2e_us, 0.0), initial=0.0))
    if begin < SHORTEST_US or band.sum() < max(FEWEST, (1 - MOST_OTHERS) * failed.sum()) or longest > ends[band].max():
        return math.inf, nobody, []
    deadline = float(np.median(ends[band]))
    first, last = ends[band].min() / 1e6, ends[band].max() / 1e6
    return (
        deadline,
        band,
        [_finding(raw, deadline, band, f"they ended {first:.2f} to {last:.2f} s after they were sent")],
    )


def _finding(raw: RawRun, deadline: float, late: Bools, reason: str) -> Finding:
    number = int(late.sum())
    return Finding(
        "client-deadline",
        "corrected",
        f"The client gave {number} of {len(raw)} requests up after {deadline / 1e6:.1f} s ({reason}).",
        {"given_up": number, "requests": len(raw), "deadline_us": deadline},
        "They take part in the replay, where a request leaves the queue, or its seat and blocks, at that time. Nothing "
        "else is read off them.",
    )
