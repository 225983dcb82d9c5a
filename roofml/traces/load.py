"""Load: how hard a run drove its server (requests in flight, waiting, capacity), from the client's times alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.raw import RawRun
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats

PARTS = 5
"""Parts of the sending time that are compared: fifths."""
FEWEST = 50
"""Fewest requests by which a trend is judged."""


@dataclass(frozen=True, eq=False)
class Load:
    """Means over fifths of the time in which requests were sent. Arrays have shape (5,), times are in µs."""

    in_flight: Floats
    arrivals_per_s: Floats
    completions_per_s: Floats
    ttft_us: Floats
    """Median TTFT of the requests sent in each fifth; NaN if none was sent."""
    e2e_us: Floats
    """Median E2E of the requests sent in each fifth; NaN if none was sent."""
    peak_in_flight: int
    share_beyond_batch: float
    """Share of requests that found `batch_slots` or more requests before them."""
    batch_slots: int
    """Most requests the server can run at once: `max_num_seqs`, or fewer if their KV does not fit."""
    utilisation: float
    """Busiest fifth's arrivals over the throughput extrapolated to a full batch; NaN if the data cannot tell."""


def measure_load(raw: RawRun, run: Run, late: Bools) -> Load:
    """The load of a run. Requests that never had a chunk are left out, but those that were given up `late` were there.

    Of these the time they waited in vain stands for both TTFT and E2E: they would have been longer.
    """
    there = np.isfinite(raw.e2e_us) | late
    e2e_us = np.where(late, raw.failed_after_us, raw.e2e_us)
    ttft_us = np.where(late & ~np.isfinite(raw.ttft_us), raw.failed_after_us, raw.ttft_us)
    send, done = raw.send_us[there], raw.send_us[there] + e2e_us[there]
    span = max(float(send[-1] - send[0]), 1.0)
    edges = send[0] + span * np.arange(PARTS + 1) / PARTS
    part = np.clip(np.searchsorted(edges, send, side="right") - 1, 0, PARTS - 1)
    # Each request contributes the time it spends inside each fifth: Little's law without a step function.
    inside = np.clip(np.minimum(done[:, None], edges[1:]) - np.maximum(send[:, None], edges[:-1]), 0, None)
    per_second = 1e6 * PARTS / span
    before = np.arange(len(send)) - np.searchsorted(np.sort(done), send, side="right")
    slots = batch_slots(run)
    busiest = float(np.histogram(send, edges)[0].max()) * PARTS / span
    return Load(
        in_flight=inside.sum(axis=0) * PARTS / span,
        arrivals_per_s=np.histogram(send, edges)[0].astype(np.float64) * per_second,
        completions_per_s=np.histogram(done, edges)[0].astype(np.float64) * per_second,
        ttft_us=np.array([_median(ttft_us[there][part == fifth]) for fifth in range(PARTS)]),
        e2e_us=np.array([_median(e2e_us[there][part == fifth]) for fifth in range(PARTS)]),
        peak_in_flight=int(before.max()) + 1,
        share_beyond_batch=float((before >= slots).mean()),
        batch_slots=slots,
        utilisation=_utilisation(
            (e2e_us - ttft_us)[there & ~late], before[~late[there]].astype(np.float64), slots, busiest
        ),
    )


def batch_slots(run: Run) -> int:
    """Most requests that run at once: `max_num_seqs`, or as many as the KV pool holds at their mean full length."""
    block = run.server.block_size
    blocks = -(-(run.prompt_tokens + run.output_tokens) // block)
    sharing = (run.prefix_group >= 0) & run.server.prefix_caching
    shared = np.where(sharing, run.prefix_tokens // block, 0)
    _, first = np.unique(run.prefix_group, return_index=True)
    free = run.server.num_gpu_blocks - int(shared[first].sum())
    # Idle shared prompts are evicted before anything is preempted, so the pool is judged both ways.
    fits = max(free / max(float((blocks - shared).mean()), 1.0), run.server.num_gpu_blocks / float(blocks.mean()))
    return max(1, min(run.server.max_num_seqs, int(fits)))


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _utilisation(service: Floats, before: Floats, slots: int, rate: float) -> float:
    """Arrival `rate` (per µs) over capacity. Service time (µs) is fitted by a line in the number before a request.

    It is a line because step time is a line in the size of the batch.
    """
    spread = before - before.mean()
    if len(service) < FEWEST or not (spread**2).sum() > 0:
        return float("nan")
    slope = max(0.0, float((spread * service).sum() / (spread**2).sum()))
    full = float(service.mean()) + slope * (slots - float(before.mean()))
    return float(rate * full / slots) if full > 0 else float("nan")


def is_saturated(load: Load, requests: int) -> bool:
    """Whether requests came faster than they were served, so that the queue grew until the end of the sending.

    Three signs must agree: the last fifth has more in flight than the first by over 5 % of all requests, its
    TTFT has grown since the middle of the run, and waiting has become a fifth of E2E or more.
    """
    if requests < FEWEST or not np.isfinite(load.ttft_us[[0, PARTS // 2, -1]]).all():
        return False
    growth = (load.in_flight[-1] - load.in_flight[0]) / requests
    waiting = load.ttft_us[-1] - np.nanmin(load.ttft_us)
    return bool(growth > 0.05 and load.ttft_us[-1] > 1.3 * load.ttft_us[PARTS // 2] and waiting > 0.2 * load.e2e_us[-1])


def load_findings(raw: RawRun, load: Load, saturated: bool) -> list[Finding]:
    """Findings about what the load of a run means for a fit on it."""
    no_limit = {"max_num_seqs", "num_gpu_blocks"} <= set(raw.server.missing)
    places = "" if no_limit else f" for {load.batch_slots} places in a batch"
    evidence = {
        "in_flight_by_fifth": [round(float(value), 1) for value in load.in_flight],
        "arrivals_per_s_by_fifth": [round(float(value), 3) for value in load.arrivals_per_s],
        "completions_per_s_by_fifth": [round(float(value), 3) for value in load.completions_per_s],
        "ttft_median_us_by_fifth": [_plain(value) for value in load.ttft_us],
        "peak_in_flight": load.peak_in_flight,
        "max_num_seqs": None if "max_num_seqs" in raw.server.missing else raw.server.max_num_seqs,
        "batch_slots": None if no_limit else load.batch_slots,
        "share_beyond_batch": load.share_beyond_batch,
        "utilisation": _plain(load.utilisation),
    }
    if saturated:
        return [
            Finding(
                "saturated",
                "warning",
                f"Requests came at {load.arrivals_per_s[-1]:.1f}/s and left at {load.completions_per_s[-1]:.1f}/s: "
                f"{load.in_flight[-1]:.0f} in flight at the end{places}, and the "
                f"median TTFT grew from {load.ttft_us[0] / 1e6:.1f} s to {load.ttft_us[-1] / 1e6:.1f} s.",
                evidence,
                "Predict this run, do not tune on it alone: its E2E is mostly queue, which multiplies small errors "
                f"of the step time. For a fit record one below {0.8 * load.completions_per_s.max():.1f} requests/s.",
            )
        ]
    crowded = load.peak_in_flight > load.batch_slots
    if crowded or load.utilisation > 0.85:
        wait = f"{100 * load.share_beyond_batch:.1f} % of requests found the batch full"
        # Past 100 % the straight line has been stretched too far to print a number.
        used = f", {100 * load.utilisation:.0f} % of estimated capacity" if load.utilisation < 1 else ""
        return [
            Finding(
                "near-capacity",
                "warning",
                f"Up to {load.peak_in_flight} requests were in flight for {load.batch_slots} places in a batch{used}; "
                f"{wait}.",
                evidence,
                "Good to fit on, but judge it apart: near capacity 1 % of step time can be tens of percent of waiting.",
            )
        ]
    return []


def _plain(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
