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


MODELS = ("codellama-34b-instruct-hf", "llama-2-70b-hf", "llama-2-7b-hf", "mixtral-8x7b-v0.1")
"""Models of those runs."""
JUDGED: Mapping[Knowledge, tuple[int, int, int, int]] = {
    "server": (5, 3, 5, 4),
    "model": (3, 2, 3, 2),
    "nothing": (3, 2, 3, 2),
}
"""How many predictions there were of each model: of a server that was fitted, those of later and of busier requests."""
SQUARES: Mapping[tuple[Knowledge, Family], tuple[float, float, float, float]] = {
    ("server", "decode"): (0.19, 0.94, 0.68, 1.57),
    ("server", "decode tail"): (2.48, 1.23, 0.78, 0.98),
    ("server", "ttft"): (1.44, 0.76, 0.93, 2.47),
    ("server", "ttft tail"): (3.98, 0.71, 2.61, 0.13),
    ("model", "decode"): (3.63, 1.59, 1.6, 0.26),
    ("model", "decode tail"): (0.75, 3.28, 1.87, 0.4),
    ("model", "ttft"): (0.41, 1.95, 0.73, 0.04),
    ("model", "ttft tail"): (2.59, 2.65, 10.43, 0.88),
    ("nothing", "decode"): (0.11, 1.36, 0.15, 0.01),
    ("nothing", "decode tail"): (0.44, 1.31, 0.22, 0.01),
    ("nothing", "ttft"): (0.29, 1.3, 1.17, 0.02),
    ("nothing", "ttft tail"): (2.31, 1.43, 3.69, 0.01),
}
"""By model, the sum over those predictions of the mean square of standardized errors, before any stretch."""
LEARNED_ON = "H100"
"""The GPU of those runs: on another, what is believed without a trace has not been judged by runs."""
IMAGINED = 2.0
"""Weight of a stretch of 1, in runs, against those that were measured."""


def stretch(knowledge: Knowledge, metric: str, model: str) -> float:
    """How much wider the interval of a metric must be, learned from runs of other models than `model`."""
    learned = zip(MODELS, JUDGED[knowledge], SQUARES[knowledge, family_of(metric)], strict=True)
    others = [(square, runs) for name, runs, square in learned if name != model.lower()]
    total = IMAGINED + sum(square for square, _ in others)
    return float(np.sqrt(total / (IMAGINED + sum(runs for _, runs in others))))
