"""Knowledge: what a calibration has seen of a load's server, and what is uncertain of it beside the parameters.

The sources are those of the fit's own objective, so that an interval says what the fit believes. How much wider
intervals must be to mean what they say is learned from runs of other models (`SQUARES`): each public run was predicted
by calibrations that knew as much of it, and of every kind of figure the root mean square of its standardized errors was
taken (`benchmarks/interval_coverage.py`; docs/intervals.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from roofml.calibration.objective import DECODE_DISCREPANCY, TTFT_DISCREPANCY
from roofml.calibration.prediction import FIRST_TOKEN, FORMULA, OVERLOAD, RANGE, SERVER, TAIL
from roofml.calibration.scatter import level_of
from roofml.calibration.seen_range import excesses
from roofml.calibration.solver import PACE_SD
from roofml.latency.batch import StepSums

Knowledge = Literal["server", "model", "nothing"]
"""server: it was fitted itself, and other requests of it are asked for; model: other servers of its kind were fitted;
nothing: no trace of the model was."""

Family = Literal["decode", "decode tail", "ttft", "ttft tail"]

OVERLOAD_SD = 0.1
"""Relative, of step times at overload: servers slow down by 0 to 28 %, no cause is proven (docs/engine.md)."""
TAIL_SD: Mapping[Family, float] = {"decode tail": 0.01, "ttft tail": 0.08}
"""Relative: how far a 99th percentile lies from its replay beside what means do. It is made of a few steps, of pauses
of the host and of cold starts, and not of all that happened (docs/intervals.md)."""
RANGE_SD = 0.03
"""Relative, of a step with e times the requests, context or new tokens of any that a fit has seen."""
STEP_SD = 0.01
"""Relative: how far a step's time lies from the formula that is right on average over a load's (docs/intervals.md)."""


def pace_sources(
    knowledge: Knowledge, saturated: bool, steps: StepSums, valid: Mapping[str, tuple[int, int]]
) -> dict[str, float]:
    """Why all of a load's `steps` may take longer than the parameters say: source -> variance of the logarithm."""
    sources = {FORMULA: DECODE_DISCREPANCY**2}
    if knowledge != "server":
        sources[SERVER] = PACE_SD**2
        if saturated:
            sources[OVERLOAD] = OVERLOAD_SD**2
    beyond = RANGE_SD * float(np.mean(excesses(steps, valid)))
    return {**sources, RANGE: beyond**2} if beyond > 0 else sources


def beside(metric: str) -> dict[str, float]:
    """What else is uncertain of a figure of a load, by its kind: source -> variance of the logarithm."""
    family = family_of(metric)
    sources = {FIRST_TOKEN: TTFT_DISCREPANCY**2} if family.startswith("ttft") else {}
    return {**sources, TAIL: TAIL_SD[family] ** 2} if family in TAIL_SD else sources


def step_sources(steps: StepSums, valid: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Why one step may take longer than the parameters say, on any server: source -> variance of the logarithm."""
    sources = {FORMULA: STEP_SD**2, SERVER: PACE_SD**2}
    beyond = RANGE_SD * float(np.mean(excesses(steps, valid)))
    return {**sources, RANGE: beyond**2} if beyond > 0 else sources


def family_of(metric: str) -> Family:
    """Which kind of figure a metric is: of tokens after the first or of the first, in the middle or in the tail."""
    first, level = metric.startswith("ttft"), level_of(metric)
    if level is not None and level > 0.5:
        return "ttft tail" if first else "decode tail"
    return "ttft" if first else "decode"


MODELS_JUDGED = (
    ("codellama-34b-instruct-hf", 3),
    ("llama-2-70b-hf", 2),
    ("llama-2-7b-hf", 3),
    ("mixtral-8x7b-v0.1", 2),
)
"""Models of those runs, and how many each has."""
SQUARES: Mapping[tuple[Knowledge, Family], tuple[float, float, float, float]] = {
    ("server", "decode"): (1.32, 0.32, 1.64, 1.53),
    ("server", "decode tail"): (1.62, 0.75, 1.65, 4.21),
    ("server", "ttft"): (0.55, 0.42, 1.36, 8.56),
    ("server", "ttft tail"): (1.66, 0.14, 11.74, 0.74),
    ("model", "decode"): (4.19, 2.38, 2.3, 1.67),
    ("model", "decode tail"): (0.72, 3.3, 2.26, 0.25),
    ("model", "ttft"): (0.64, 1.33, 0.45, 0.44),
    ("model", "ttft tail"): (2.7, 1.8, 11.3, 0.51),
    ("nothing", "decode"): (0.07, 1.49, 0.1, 0.02),
    ("nothing", "decode tail"): (0.51, 1.64, 0.14, 0.01),
    ("nothing", "ttft"): (0.06, 1.21, 1.6, 0.03),
    ("nothing", "ttft tail"): (2.31, 1.89, 3.72, 0.0),
}
"""By model, the sum over its runs of the mean square of standardized errors, before any stretch."""
LEARNED_ON = "H100"
"""The GPU of those runs: on another, what is believed without a trace has not been judged by runs."""
IMAGINED = 2.0
"""Weight of a stretch of 1, in runs, against those that were measured."""


def stretch(knowledge: Knowledge, metric: str, model: str) -> float:
    """How much wider the interval of a metric must be, learned from runs of other models than `model`."""
    learned = zip(MODELS_JUDGED, SQUARES[knowledge, family_of(metric)], strict=True)
    others = [(square, runs) for (name, runs), square in learned if name != model.lower()]
    total = IMAGINED + sum(square for square, _ in others)
    return float(np.sqrt(total / (IMAGINED + sum(runs for _, runs in others))))
