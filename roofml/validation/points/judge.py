"""Judging answers to points: errors by cell (source, GPU and model) and over all, and how many intervals hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.util.display import Shown, Table
from roofml.validation.points.answer import Answer
from roofml.validation.report import Metric

GOOD = "good"
"""Quality of a point that counts; the others stand apart."""
COMPARED = {"tpot": ("tpot_mean", "tpot_median"), "ttft": ("ttft_mean", "ttft_median"), "e2e": ("e2e_mean",)}
"""Kind of latency -> its metrics, the first that was measured is compared."""


@dataclass(frozen=True)
class JudgedPoint:
    """One point with what was measured beside what is predicted."""

    answer: Answer
    metrics: Mapping[str, Metric]
    """Those that were measured."""

    @property
    def good(self) -> bool:
        """Whether it counts among those that a figure is over."""
        return self.answer.point.quality == GOOD

    def compared(self, kind: str) -> Metric | None:
        """The metric of a kind of latency that is compared: the mean, if that was measured."""
        return next((self.metrics[name] for name in COMPARED[kind] if name in self.metrics), None)

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --points --json` prints it. Metrics that were not measured have `measured_us` null."""
        point = self.answer.point
        metrics = {
            name: self.metrics[name].to_dict()
            if name in self.metrics
            else {
                "measured_us": None,
                "predicted_us": prediction.value,
                "error_pct": None,
                **({} if (ends := prediction.interval_90) is None else {"interval_90_us": list(ends)}),
            }
            for name, prediction in self.answer.metrics.items()
        }
        return {
            "id": point.id,
            "source": point.source,
            "gpu": point.gpu,
            "model": point.model,
            "quality": point.quality,
            "answered": self.answer.answered,
            "refusal": self.answer.refusal,
            "reasons": list(self.answer.reasons),
            "metrics": metrics,
        }


def judged(answer: Answer) -> JudgedPoint:
    """An answer beside its point's measurements."""
    measured = answer.point.measured
    return JudgedPoint(
        answer,
        {
            name: Metric(measured[name], prediction)
            for name, prediction in answer.metrics.items()
            if measured.get(name, 0.0) > 0
        },
    )


@dataclass(frozen=True)
class Figures:
    """Errors over some points, %; NaN of what none has."""

    points: int
    answered: int
    tpot: float
    """Mean |error|."""
    ttft: float
    e2e: float
    tpot_median: float
    """Median |error| of a point."""
    ttft_median: float
    e2e_median: float
    bias: float
    """Median signed error of TPOT, of E2E where no TPOT was measured."""
    covered: Mapping[str, float]
    """Kind -> share of measurements inside their 90 % interval."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without what nothing is known of."""
        named = {
            "tpot_mean_abs_error_pct": self.tpot,
            "ttft_mean_abs_error_pct": self.ttft,
            "e2e_mean_abs_error_pct": self.e2e,
            "tpot_median_abs_error_pct": self.tpot_median,
            "ttft_median_abs_error_pct": self.ttft_median,
            "e2e_median_abs_error_pct": self.e2e_median,
            "median_error_pct": self.bias,
            **{f"{kind}_inside_interval_90_pct": 100 * share for kind, share in self.covered.items()},
        }
        figures = {name: value for name, value in named.items() if np.isfinite(value)}
        return {"points": self.points, "answered": self.answered, **figures}


def figures_of(points: Sequence[JudgedPoint]) -> Figures:
    """The figures over these points."""
    errors: dict[str, list[float]] = {}
    covered: dict[str, list[bool]] = {}
    for point in points:
        for kind in COMPARED:
            metric = point.compared(kind)
            if metric is not None:
                errors.setdefault(kind, []).append(metric.error_pct)
                covered.setdefault(kind, []).append(metric.covered)
    absolute = {kind: np.abs(values) for kind, values in errors.items()}

    def of(function: Any, kind: str) -> float:
        return float(function(absolute[kind])) if kind in absolute else float("nan")

    signed = errors.get("tpot") or errors.get("e2e") or [float("nan")]
    return Figures(
        points=len(points),
        answered=sum(point.answer.answered for point in points),
        tpot=of(np.mean, "tpot"),
        ttft=of(np.mean, "ttft"),
        e2e=of(np.mean, "e2e"),
        tpot_median=of(np.median, "tpot"),
        ttft_median=of(np.median, "ttft"),
        e2e_median=of(np.median, "e2e"),
        bias=float(np.median(signed)),
        covered={kind: float(np.mean(values)) for kind, values in covered.items()},
    )


def cells_of(points: Iterable[JudgedPoint]) -> dict[tuple[str, str, str], list[JudgedPoint]]:
    """Points by cell, in the order of the file."""
    cells: dict[tuple[str, str, str], list[JudgedPoint]] = {}
    for point in points:
        cells.setdefault(point.answer.point.cell, []).append(point)
    return cells


def mean_of_cells(points: Sequence[JudgedPoint], kind: str) -> float:
    """Mean over cells of the mean |error| of their points, %; NaN without any."""
    errors: list[float] = []
    for cell in cells_of(points).values():
        own = [abs(metric.error_pct) for point in cell if (metric := point.compared(kind)) is not None]
        if own:
            errors.append(float(np.mean(own)))
    return float(np.mean(errors)) if errors else float("nan")


@dataclass(frozen=True, eq=False, repr=False)
class PointsEvaluation(Shown):
    """Answers to measured points, judged. Points of doubtful quality and of old engines stand apart."""

    points: Sequence[JudgedPoint]
    caption: str

    @property
    def good(self) -> list[JudgedPoint]:
        """Points that count."""
        return [point for point in self.points if point.good]

    @property
    def apart(self) -> list[JudgedPoint]:
        """Those of old engines and of doubtful quality."""
        return [point for point in self.points if not point.good]

    def tables(self) -> list[Table]:
        """Errors by cell, of good points first; then why points were not answered."""
        shown = [
            _table(title, points, caption)
            for title, points, caption in (
                ("good points", self.good, self.caption),
                ("old engines and doubtful points", self.apart, ""),
            )
            if points
        ]
        refusals: dict[str, int] = {}
        for point in self.points:
            if point.answer.refusal is not None:
                refusals[point.answer.refusal] = refusals.get(point.answer.refusal, 0) + 1
        if refusals:
            rows = [[str(count), reason] for reason, count in sorted(refusals.items(), key=lambda item: -item[1])]
            shown.append(Table("not answered", ["points", "why"], rows))
        return shown

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `roofml evaluate --points`."""
        groups = {"good": self.good, "apart": self.apart}
        return {
            "points": [point.to_dict() for point in self.points],
            "summary": {
                "answered_pct": _share(self.points),
                **{name: _summary(points) for name, points in groups.items()},
                "cells": [
                    {"source": source, "gpu": gpu, "model": model, **figures_of(points).to_dict()}
                    for (source, gpu, model), points in cells_of(self.points).items()
                ],
            },
        }


def _share(points: Sequence[JudgedPoint]) -> float | None:
    return 100 * sum(point.answer.answered for point in points) / len(points) if points else None


def _summary(points: Sequence[JudgedPoint]) -> dict[str, Any]:
    cells = {f"{kind}_mean_of_cells_pct": mean_of_cells(points, kind) for kind in COMPARED}
    return {**figures_of(points).to_dict(), **{name: value for name, value in cells.items() if np.isfinite(value)}}


COLUMNS = ("source", "GPU", "model", "points", "TPOT", "TTFT", "E2E", "bias", "inside")


def _table(title: str, points: Sequence[JudgedPoint], caption: str) -> Table:
    rows = [_row(source, gpu, model, figures_of(cell)) for (source, gpu, model), cell in cells_of(points).items()]
    overall = figures_of(points)
    rows.append(
        ["mean of cells", "", "", "", *(_pct(mean_of_cells(points, kind)) for kind in ("tpot", "ttft", "e2e")), "", ""]
    )
    medians = (overall.tpot_median, overall.ttft_median, overall.e2e_median)
    counted = f"{overall.answered}/{overall.points}"
    rows.append(["median point", "", "", counted, *map(_pct, medians), _pct(overall.bias), _inside(overall)])
    return Table(title, list(COLUMNS), rows, caption)


def _row(source: str, gpu: str, model: str, figures: Figures) -> list[str]:
    errors = (figures.tpot, figures.ttft, figures.e2e, figures.bias)
    counted = f"{figures.answered}/{figures.points}"
    return [source, gpu, model.split("/")[-1], counted, *map(_pct, errors), _inside(figures)]


def _inside(figures: Figures) -> str:
    return " ".join(f"{kind} {100 * share:.0f}" for kind, share in figures.covered.items())


def _pct(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "-"
