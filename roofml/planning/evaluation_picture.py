"""A picture of an evaluation: what is predicted against what was measured, and how far off that is, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roofml.planning.picture import BLUE, DARK, GREEN, new_figure, save_figure
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.validation.evaluation import Evaluation
from roofml.validation.points.judge import PointsEvaluation
from roofml.validation.report import Metric

FAR_OFF = 100.0
"""%: where errors are larger, those beyond are drawn by their logarithm, so that the others can be told apart."""
KINDS = {"ttft": BLUE, "tpot": GREEN, "e2e": DARK}
"""Latency -> its colour."""


def plot_evaluation(evaluation: Evaluation | PointsEvaluation, path: Path) -> None:
    """Draw mean latencies of runs, or of points; the suffix of `path` gives the format.

    Raises InputError where nothing was measured that was predicted, and where it cannot be drawn or written.
    """
    found = {kind: metrics for kind in KINDS if (metrics := _means(evaluation, kind))}
    if not found:
        raise InputError(f"--plot {path}: no mean latency was measured and predicted: nothing to draw")
    figure = new_figure(path, 9, 4.2)
    against, errors = figure.subplots(1, 2)
    for kind, metrics in found.items():
        measured, predicted, low, high = (1e-3 * np.array(row) for row in zip(*map(_ends, metrics), strict=True))
        style = {"fmt": "o", "markersize": 4, "elinewidth": 0.8, "color": KINDS[kind], "label": f"mean {kind.upper()}"}
        style["alpha"] = 1.0 if len(metrics) < 50 else 0.5
        against.errorbar(measured, predicted, np.array([predicted - low, high - predicted]), **style)
        off = 100 * (predicted / measured - 1)
        bars = 100 * np.array([predicted - low, high - predicted]) / measured
        errors.errorbar(measured, off, bars, **style)
    ends = [1e-3 * end for metrics in found.values() for metric in metrics for end in _ends(metric)[:2]]
    against.plot([min(ends), max(ends)], [min(ends), max(ends)], color="grey", linewidth=0.8, linestyle="--")
    against.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms")
    errors.axhline(0, color="grey", linewidth=0.8, linestyle="--")
    errors.set(xscale="log", xlabel="measured, ms", ylabel="error of the prediction, %")
    if max(abs(metric.error_pct) for metrics in found.values() for metric in metrics) > FAR_OFF:
        errors.set_yscale("symlog", linthresh=FAR_OFF)
    for axes in (against, errors):
        axes.grid(visible=True, alpha=0.2)
    against.legend(fontsize=8)
    figure.suptitle(for_line(_title(evaluation))[:110], fontsize=10)
    save_figure(figure, path)


def _means(evaluation: Evaluation | PointsEvaluation, kind: str) -> Sequence[Metric]:
    """The mean latency of every run, or of every good point."""
    if isinstance(evaluation, PointsEvaluation):
        points = evaluation.good or evaluation.points
        return [metric for point in points if (metric := point.compared(kind)) is not None]
    return [run.metrics[f"{kind}_mean"] for run in evaluation.runs if f"{kind}_mean" in run.metrics]


def _ends(metric: Metric) -> tuple[float, float, float, float]:
    """(measured, predicted, the ends of its interval), µs; the prediction itself where it has none."""
    low, high = metric.interval_us or (metric.predicted_us, metric.predicted_us)
    return metric.measured_us, metric.predicted_us, min(low, metric.predicted_us), max(high, metric.predicted_us)


def _title(evaluation: Evaluation | PointsEvaluation) -> str:
    if isinstance(evaluation, PointsEvaluation):
        return f"{len(evaluation.good or evaluation.points)} points, bars: 90 % intervals"
    names = evaluation.runs[0].run if len(evaluation.runs) == 1 else f"{len(evaluation.runs)} runs"
    return f"{names}, {evaluation.protocol}, bars: 90 % intervals"
