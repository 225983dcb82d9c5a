"""A picture of what a verdict of `drift` rests on: decode residuals over time and over batch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from roofml.planning.drift import Drift
from roofml.planning.residuals import Residuals
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.writing import check_writable, write_file

DOT, LINE, CALIBRATED = "#8fa3b5", "#c0392b", "#34495e"
BINS = 12
FEWEST_IN_BIN = 5
SHOWN_PCT = (0.5, 99.5)
"""Percentiles of the residuals that the picture reaches to."""


def plot_drift(drift: Drift, path: Path) -> None:
    """Draw decode residuals over time and over batch; the suffix of `path` gives the format.

    Raises InputError where matplotlib (extra `plot`) is missing or cannot write that format, and for a verdict that
    rests on no residuals: nothing was compared.
    """
    check_writable(path)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a picture needs matplotlib: pip install 'roofml[plot]'") from None
    if drift.evidence is None:
        raise InputError(f"{path}: nothing to draw: {drift.run} was not compared ({drift.verdict})")
    residuals, found = drift.evidence.residuals, drift.evidence.found
    decode = residuals.decode
    off_pct = 100 * np.expm1(decode.residual)
    middle_s = 0.5e-6 * (decode.begin_us + decode.end_us)
    batch = _mean_batch(residuals)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    over_time, over_batch = figure.subplots(1, 2, sharey=True)
    for axes, place in ((over_time, middle_s), (over_batch, batch)):
        axes.scatter(place, off_pct, s=4, color=DOT, alpha=0.35, linewidths=0, rasterized=True)
        axes.axhline(0.0, color=CALIBRATED, linewidth=1, label="calibrated")
        axes.grid(visible=True, alpha=0.2)
    edges = found.cells.edges_us / 1e6
    _means(over_time, middle_s, off_pct, edges)
    _means(over_batch, batch, off_pct, np.quantile(batch, np.linspace(0, 1, BINS + 1)))
    change = found.change
    if change is not None and change.since_us is not None:
        over_time.axvline(change.since_us / 1e6, color=LINE, linestyle="--", linewidth=1, label="changed here")
    low, high = np.percentile(off_pct, SHOWN_PCT)
    room = 0.15 * (max(high, 0.0) - min(low, 0.0)) + 0.5
    over_time.set(
        xlabel="time, s", ylabel="decode time over calibrated, %", ylim=(min(low, 0) - room, max(high, 0) + room)
    )
    over_batch.set(xlabel="requests in a step, mean")
    over_time.legend(fontsize=8, loc="best")
    value = "" if drift.value_pct is None else f" {drift.value_pct:+.2f} %"
    named = "" if drift.component is None else f" ({drift.component})"
    figure.suptitle(f"{for_line(drift.run)}: {drift.verdict}{named}{value}", fontsize=10)
    picture = io.BytesIO()
    kind = path.suffix.removeprefix(".") or "png"
    try:
        figure.savefig(picture, format=kind, dpi=110, metadata={"Software": None} if kind == "png" else None)
    except ValueError as error:
        raise InputError(f"{path}: cannot draw: {str(error).splitlines()[0]}") from None
    write_file(path, picture.getvalue())


def _mean_batch(residuals: Residuals) -> Floats:
    """(rows,) requests in a step, in the mean over the steps of each request."""
    schedule, request = residuals.schedule, residuals.decode.request
    total = np.concatenate(([0.0], np.cumsum(schedule.steps.requests)))
    first, last = schedule.first_step[request], schedule.last_step[request]
    return (total[last + 1] - total[first + 1]) / np.maximum(last - first, 1)


def _means(axes: Any, place: Floats, off_pct: Floats, edges: Floats) -> None:
    """Draw the mean residual between each two edges that have enough of them."""
    which = np.clip(np.searchsorted(edges, place, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(which, minlength=len(edges) - 1)
    some = count >= FEWEST_IN_BIN
    where, mean = (np.bincount(which, values, len(edges) - 1)[some] / count[some] for values in (place, off_pct))
    axes.plot(where, mean, color=LINE, linewidth=1.5, marker="o", markersize=3, label="mean")
