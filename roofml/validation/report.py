"""Report: how far a prediction of one run is from what was measured, and the summary over runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from roofml.calibration.drawn_replays import DrawnReplays
from roofml.calibration.prediction import REQUESTS, Prediction
from roofml.calibration.scatter import scatter
from roofml.engine.latency_model import Kind, Latencies, judged_us, paired_us
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats
from roofml.validation.statistics import interval_figures

METRICS = ("e2e_mean", "ttft_mean", "tpot_mean", "e2e_p99", "ttft_p99", "tpot_p99")


@dataclass(frozen=True)
class Metric:
    """One figure of a run, measured and predicted, µs."""

    measured_us: float
    prediction: Prediction
    """With an interval, but of a method that has none."""

    @property
    def predicted_us(self) -> float:
        """The predicted value."""
        return self.prediction.value

    @property
    def interval_us(self) -> tuple[float, float] | None:
        """Where the prediction says the measurement lies with 90 % probability."""
        return self.prediction.interval_90

    @property
    def covered(self) -> bool:
        """Whether the interval contains the measurement; False without one."""
        interval = self.interval_us
        return interval is not None and interval[0] <= self.measured_us <= interval[1]

    @property
    def z(self) -> float:
        """How many standard deviations the measurement lies above the prediction."""
        return self.prediction.z(self.measured_us)

    @property
    def half_width_pct(self) -> float:
        """Half the interval's width, in logarithms, %; 0 without one."""
        low, high = self.interval_us or (1.0, 1.0)
        return 50 * float(np.log(high / low))

    @property
    def error_pct(self) -> float:
        """Signed: 100·(predicted/measured - 1)."""
        return 100 * (self.predicted_us / self.measured_us - 1)

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        interval = self.interval_us
        return {
            "measured_us": self.measured_us,
            "predicted_us": self.predicted_us,
            "error_pct": self.error_pct,
            **({} if interval is None else {"interval_90_us": list(interval)}),
        }


@dataclass(frozen=True)
class RunReport:
    """Errors of one run on the requests judged."""

    run: str
    model: str
    gpu: str
    tp: int
    requests: int
    """Requests judged."""
    saturated: bool
    metrics: Mapping[str, Metric]
    request_e2e_mape_pct: float
    """Mean over requests of |predicted/measured - 1| of E2E, %; NaN where none completed in both worlds."""
    completed: tuple[int, int] | None = None
    """Requests that completed, measured and predicted, where the client gives some up."""

    def to_dict(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        return {
            "run": self.run,
            "model": self.model,
            "gpu": self.gpu,
            "tp": self.tp,
            "requests": self.requests,
            "saturated": self.saturated,
            **self._completed(),
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "request_e2e_mape_pct": self.request_e2e_mape_pct if math.isfinite(self.request_e2e_mape_pct) else None,
        }

    def _completed(self) -> dict[str, Any]:
        if self.completed is None:
            return {}
        measured, predicted = self.completed
        return {"completed": {"measured": measured, "predicted": predicted}}


def report(judged: Selection, predicted: Latencies, spread: DrawnReplays | None = None) -> RunReport:
    """Compare a replay with its run over the selected requests.

    With `spread`, replays for draws of all that is uncertain, every figure gets its 90 % interval. Where the client
    gives up, each figure is over the requests that completed in its own world.
    """
    run = judged.run
    metrics: dict[str, Metric] = {}
    drawn = [] if spread is None else spread.each(lambda served: _figures(judged, served))
    measured_us, predicted_us = _figures(judged, run), _figures(judged, predicted)
    for name in METRICS:
        if measured_us.get(name, 0.0) <= 0 or name not in predicted_us:
            continue  # TPOT is 0 where answers came in one piece: nothing to compare with
        prediction = Prediction(predicted_us[name])
        if spread is not None:
            requests = scatter(name, judged_us(judged, predicted, _kind(name)))
            of_draws = [figures.get(name) for figures in drawn]
            prediction = spread.predicted(name, prediction.value, of_draws, {REQUESTS: requests})
        metrics[name] = Metric(measured_us[name], prediction)
    measured, simulated = paired_us(judged, predicted, "e2e")
    gives_up = judged.late is not None or len(simulated) < len(judged)
    return RunReport(
        run=run.name,
        model=run.server.model,
        gpu=run.server.gpu or "",
        tp=run.server.tensor_parallel,
        requests=len(judged),
        saturated=run.saturated,
        metrics=metrics,
        request_e2e_mape_pct=100 * float(np.mean(np.abs(simulated / measured - 1))) if len(measured) else float("nan"),
        completed=(len(judged), len(judged_us(judged, predicted, "e2e"))) if gives_up else None,
    )


def _kind(metric: str) -> Kind:
    return cast("Kind", metric.split("_")[0])


def _figures(judged: Selection, latencies: Latencies) -> dict[str, float]:
    """Metric -> µs, of those that any of the selected requests has."""
    found: dict[str, float] = {}
    for name in METRICS:
        times = judged_us(judged, latencies, _kind(name))
        if len(times):
            found[name] = float(np.mean(times)) if name.endswith("mean") else _p99(times)
    return found


def _p99(values: Floats) -> float:
    return float(np.percentile(values, 99))


def intervals_of(metrics: Sequence[Metric]) -> dict[str, float]:
    """Whether the intervals of some figures mean what they say (`statistics.interval_figures`)."""
    rows = np.array([(metric.z, metric.half_width_pct, float(metric.covered)) for metric in metrics], np.float64)
    return interval_figures(*rows.T)


def summary(reports: Sequence[RunReport]) -> dict[str, Any]:
    """Mean and largest absolute error over runs, by metric, %; empty without runs."""
    if not reports:
        return {}
    result: dict[str, Any] = {}
    for name in METRICS:
        metrics = [r.metrics[name] for r in reports if name in r.metrics]
        if metrics:
            errors = [abs(metric.error_pct) for metric in metrics]
            result[name] = {"mean_abs_error_pct": float(np.mean(errors)), "max_abs_error_pct": max(errors)}
            if all(metric.interval_us for metric in metrics):
                result[name] |= intervals_of(metrics)
    single = [r.request_e2e_mape_pct for r in reports if math.isfinite(r.request_e2e_mape_pct)]
    if single:
        result["request_e2e_mape"] = {"mean_abs_error_pct": float(np.mean(single)), "max_abs_error_pct": max(single)}
    return result
