"""The pictures of a report: plain traces and layouts of plotly.js, made of what other rooms compute."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay
from roofml.latency.batch import Batch
from roofml.report.blocks import Figure
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.outside_text import for_line
from roofml.validation.report import RunReport

COLOURS = ("#2f7fc1", "#e07b39", "#3fa66b", "#b05fb8", "#c9a227", "#d0575d", "#5aa7b8", "#8a8f99", "#9c7a54", "#6f7fd8")
"""Told apart on light and on dark paper."""
MEANS = (("e2e_mean", "E2E"), ("ttft_mean", "TTFT"), ("tpot_mean", "TPOT"))
BINS, FEWEST_IN_BIN = 40, 10
DRAWN_PARTS = 6
"""Parts of a step that have a colour of their own."""


def accuracy(reports: Sequence[RunReport]) -> Figure:
    """Errors of mean E2E, TTFT and TPOT of each run, %, with the predictions' 90 % intervals where there are any.

    Runs at overload are left out, unless all are: intervals of theirs are wider than all others' errors together.
    """
    normal = [(number, run) for number, run in enumerate(reports, 1) if not run.saturated]
    shown = normal or list(enumerate(reports, 1))
    traces: list[dict[str, Any]] = []
    for place, (metric, name) in enumerate(MEANS):
        rows = [(number, run) for number, run in shown if metric in run.metrics]
        found = [run.metrics[metric] for _, run in rows]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [round(each.error_pct, 3) for each in found],
                "y": [number + 0.2 * (place - 1) for number, _ in rows],
                "text": [_plain(run.run) for _, run in rows],
                "hovertemplate": "%{text}<br>" + name + " %{x:+.2f} %<extra></extra>",
                "marker": {"color": COLOURS[place], "size": 8},
            }
        )
        if any(each.interval_us for each in found):
            ends = [each.interval_us or (each.predicted_us, each.predicted_us) for each in found]
            over = [(each.predicted_us, each.measured_us, *end) for each, end in zip(found, ends, strict=True)]
            traces[-1]["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [round(100 * (high - said) / truth, 3) for said, truth, _, high in over],
                "arrayminus": [round(100 * (said - low) / truth, 3) for said, truth, low, _ in over],
                "color": COLOURS[place],
            }
    ticks = [number for number, _ in shown]
    beside = "" if len(shown) == len(reports) else " Runs at overload stand in the table alone."
    return Figure(
        "How far the means of each run are predicted off, by the number of the run among those measured: to the right, "
        f"too slow. Bars, if any, are 90 % intervals.{beside}",
        traces,
        {
            "xaxis": {"title": {"text": "error, %"}, "zeroline": True},
            "yaxis": {"title": {"text": "run"}, "tickvals": ticks, "autorange": "reversed"},
        },
    )


def components(calibration: Calibration, context: int, most: int) -> Figure:
    """The parts of a step of decodes with so much context, ms, over the number of decodes."""
    sizes = [2**power for power in range(12) if 2**power < most] + [most]
    parts: dict[str, list[float]] = {}
    totals: list[float] = []
    for place, size in enumerate(sizes):
        step = calibration.step_time(Batch(decode=[(context, size)]))
        shown = {name: part.corrected_us for name, part in step.components.items()}
        shown |= {f"overhead: {name}": value for name, value in step.overheads_us.items()}
        for name, value in shown.items():
            parts.setdefault(name, [0.0] * len(sizes))[place] = value
        totals.append(step.total_us)
    drawn = _largest(parts)
    labels = [str(size) for size in sizes]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": name,
            "x": labels,
            "y": [round(value / 1e3, 4) for value in values],
            "marker": {"color": COLOURS[place % len(COLOURS)]},
            "hovertemplate": name + " %{y:.3~g} ms<extra></extra>",
        }
        for place, (name, values) in enumerate(drawn.items())
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "step",
            "x": labels,
            "y": [round(value / 1e3, 4) for value in totals],
            "line": {"color": COLOURS[7], "width": 2},
            "hovertemplate": "step of %{x}: %{y:.4~g} ms<extra></extra>",
        }
    )
    return Figure(
        f"Parts of a step of decodes with {context} tokens of context each. Compute and memory overlap, so the parts "
        "sum to more than the step.",
        traces,
        {
            "barmode": "stack",
            "xaxis": {"title": {"text": "requests in the step"}, "type": "category"},
            "yaxis": {"title": {"text": "ms"}, "rangemode": "tozero"},
        },
    )


def _largest(parts: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """The parts that are largest where they are, in their order, and all others together."""
    kept = sorted(parts, key=lambda name: -max(parts[name]))[:DRAWN_PARTS]
    rest = [sum(values, 0.0) for values in zip(*(v for name, v in parts.items() if name not in kept), strict=True)]
    drawn = {name: values for name, values in parts.items() if name in kept}
    return {**drawn, "all others": rest} if rest else drawn


def residuals(judged: Selection, served: Replay) -> Figure:
    """Predicted over measured E2E, TTFT and TPOT of a run's requests, %, in the mean over stretches of its time."""
    run = judged.run
    tokens = np.maximum(run.output_tokens - 1, 1)
    pairs = {
        "E2E": (run.e2e_us, served.e2e_us),
        "TTFT": (run.ttft_us, served.ttft_us),
        "TPOT": ((run.e2e_us - run.ttft_us) / tokens, (served.e2e_us - served.ttft_us) / tokens),
    }
    traces: list[dict[str, Any]] = []
    for place, (name, (truth, said)) in enumerate(pairs.items()):
        chosen = judged.requests & np.isfinite(truth) & np.isfinite(said) & (truth > 0)
        if name == "TPOT":
            chosen &= run.output_tokens > 1
        times, off, count = _stretches(run.arrival_us / 1e6, truth, said, chosen)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [round(float(t), 2) for t in times],
                "y": [round(float(o), 3) for o in off],
                "text": [str(int(c)) for c in count],
                "line": {"color": COLOURS[place], "width": 1.5},
                "marker": {"size": 4},
                "hovertemplate": name + " %{y:+.2f} % at %{x:.0f} s, %{text} requests<extra></extra>",
            }
        )
    return Figure(
        f"{run.name}: mean of what was predicted over the mean of what was measured, by when a request was sent.",
        traces,
        {"xaxis": {"title": {"text": "s"}}, "yaxis": {"title": {"text": "error, %"}, "zeroline": True}},
    )


@dataclass(frozen=True)
class Curve:
    """Latencies over load: what a plan looks at. Lists of one length."""

    levels: Sequence[float]
    unit: str
    """Of the levels: requests/s or clients."""
    latencies_us: Mapping[str, Sequence[float]]
    """Name, as `p95 TTFT` -> µs at each level."""
    limits_us: Mapping[str, float]
    """Name -> the SLO's limit, µs."""
    knee: Prediction | None = None
    """The largest level that is held."""


def curve(of: Curve) -> Figure:
    """Latencies over load, the SLOs' limits, and the knee with its 90 % interval."""
    traces: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    for place, (name, values) in enumerate(of.latencies_us.items()):
        colour = COLOURS[place % len(COLOURS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [float(f"{level:.6g}") for level in of.levels],
                "y": [float(f"{value / 1e3:.6g}") for value in values],
                "line": {"color": colour},
                "hovertemplate": name + " %{y:.4~g} ms at %{x:.4~g} " + of.unit + "<extra></extra>",
            }
        )
        if name in of.limits_us:
            limit = of.limits_us[name] / 1e3
            shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit,
                           "line": {"color": colour}})  # fmt: skip
    if of.knee is not None:
        value = of.knee.value
        low, high = of.knee.interval_90 or (value, value)
        shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": value, "x1": value})
        shapes.append({"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": low, "x1": high, "opacity": 0.15,
                       "fillcolor": COLOURS[7], "line": {"width": 0}})  # fmt: skip
    told = "Latency over load."
    if of.limits_us:
        told += " Dashed across: the limit of an SLO, in the colour of its latency."
    if of.knee is not None:
        told += " Dashed upwards: the most that one server holds, with its 90 % interval."
    every = [value / 1e3 for values in of.latencies_us.values() for value in values]
    every += [limit / 1e3 for limit in of.limits_us.values()]
    clients = of.unit == "clients"
    ticks = {"tickvals": list(of.levels), "type": "log"} if clients else {"rangemode": "tozero"}
    return Figure(
        told,
        traces,
        {
            "shapes": shapes,
            "xaxis": {"title": {"text": of.unit}, **ticks},
            "yaxis": {"title": {"text": "ms"}, "type": "log", "tickvals": _decades(min(every), max(every))},
        },
    )


def _plain(text: str) -> str:
    """A text from outside for plotly, which takes some of HTML's tags for its own."""
    return html.escape(for_line(text), quote=False)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between two numbers, and the next beyond."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [float(f"{digit * 10.0**power:g}") for power in powers for digit in (1, 2, 5)]


def speeds(points: Sequence[tuple[float, float, str, bool]]) -> Figure:
    """Throughput of a GPU against the speed of a user, both in tokens/s, with a name and whether the SLOs hold."""
    traces: list[dict[str, Any]] = []
    for place, (holds, name) in enumerate(((True, "within the SLOs"), (False, "beyond them"))):
        own = sorted(point[:3] for point in points if point[3] is holds)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [float(f"{speed:.6g}") for speed, _, _ in own],
                "y": [float(f"{made:.6g}") for _, made, _ in own],
                "text": [_plain(level) for _, _, level in own],
                "line": {"color": COLOURS[place]},
                "hovertemplate": "%{text}: %{y:.4~g} tokens/s of a GPU, %{x:.3~g} of a user<extra></extra>",
            }
        )
    return Figure(
        "What a GPU makes against how fast each user gets it (1 / mean TPOT), at the levels above.",
        traces,
        {
            "xaxis": {"title": {"text": "tokens/s of a user"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "tokens/s of a GPU"}, "rangemode": "tozero"},
        },
    )


def _stretches(times: Floats, truth: Floats, said: Floats, chosen: Bools) -> tuple[Floats, Floats, Ints]:
    """Middle, error in % and number of requests of each stretch of time that has enough."""
    times, truth, said = times[chosen], truth[chosen], said[chosen]
    if not len(times):
        return np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
    edges = np.linspace(float(times.min()), float(times.max()) + 1e-9, BINS + 1)
    which = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, BINS - 1)
    count = np.bincount(which, minlength=BINS)
    some = count >= min(FEWEST_IN_BIN, count.max())
    sums = [np.bincount(which, values, BINS)[some] for values in (times, said, truth)]
    return sums[0] / count[some], 100 * (sums[1] / sums[2] - 1), count[some]
