"""Running sums over a schedule's steps, of their times and of what these owe to each parameter. Compiled.

What a request waits for and takes are steps without a gap, so each is the difference of two of these sums.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables, StepComponents, components
from roofml.latency.formula import growth
from roofml.latency.launches import no_shorter_than_launches
from roofml.latency.parameters import STEP_COUNT, StepParameters
from roofml.latency.slopes import step_slopes
from roofml.util.arrays import Floats, Ints
from roofml.util.jit_cache import called_by_compiled, compiled, digest_argument

STALLS = 2
"""Kinds of stalls of a cold start: rows of `Schedule.cold`."""
WIDTH = 1 + STEP_COUNT + STALLS
"""Columns of the sums: times, then derivatives by the parameters of steps and by those of stalls."""


class Columns(NamedTuple):
    """What the times of steps depend on, each (steps,)."""

    parts: tuple[Floats, ...]
    """`StepComponents`."""
    new_tokens: Floats
    requests: Floats
    mixed: Floats


class Server(NamedTuple):
    """What they depend on besides: the names are those of `ComponentTables`."""

    layers: float
    launches_us: float
    captured: int


def columns_of(steps: StepSums, tables: ComponentTables) -> Columns:
    """The columns of some steps."""
    parts = tuple(np.array(part, np.float64) for part in components(tables, steps))
    new_tokens, requests, mixed = (
        np.array(column, np.float64) for column in (steps.new_tokens, steps.requests, steps.mixed)
    )
    return Columns(parts, new_tokens, requests, mixed)


def sums_of(columns: Columns, cold: Floats, tables: ComponentTables, step: StepParameters, cold_us: Floats) -> Floats:
    """(steps + 1, `WIDTH`) sums over the steps before each; `cold` (2, steps) and `cold_us` (2,) say who stalls."""
    step = StepParameters(*map(float, step))
    return np.asarray(_sums(columns, cold, _server(tables), step, cold_us, _compiled_in()), np.float64)


def climbs_of(columns: Columns, place: Ints, count: int, tables: ComponentTables, step: StepParameters) -> Floats:
    """(steps + 1, count) sums over the steps before each of the times' derivatives by stairs.

    `place` (steps,) is the stair's column of each step, or -1.
    """
    step = StepParameters(*map(float, step))
    return np.asarray(_climbs(columns, place, count, _server(tables), step, _compiled_in()), np.float64)


def _server(tables: ComponentTables) -> Server:
    return Server(float(tables.layers), float(tables.launches_us), int(tables.captured))


def _compiled_in() -> NDArray[Any]:
    """The files whose code is compiled in, for the compiler's cache."""
    room = Path(__file__).parents[1] / "latency"
    return digest_argument(*(room / f"{name}.py" for name in ("components", "formula", "launches", "slopes")))


@called_by_compiled
def _at(columns: Any, i: Any, server: Any, step: Any) -> Any:
    """Time of a step, whether the parameters decide it, and its derivatives by them."""
    parts, new_tokens = columns.parts, columns.new_tokens[i]
    of_step = StepComponents(
        parts[0][i],
        parts[1][i],
        parts[2][i],
        parts[3][i],
        parts[4][i],
        parts[5][i],
        parts[6][i],
        parts[7][i],
        parts[8][i],
        parts[9][i],
    )
    time, slopes = step_slopes(of_step, new_tokens, columns.requests[i], columns.mixed[i], server.layers, step)
    at_least = no_shorter_than_launches(time, new_tokens, server)
    return at_least, not at_least > time, slopes


@compiled(nogil=True)
def _sums(columns: Any, cold: Any, server: Any, step: Any, cold_us: Any, sources: Any) -> Any:
    count = len(columns.requests)
    total = np.zeros((count + 1, WIDTH))
    for i in range(count):
        time, decided, slopes = _at(columns, i, server, step)
        total[i + 1] = total[i]
        total[i + 1, 0] += time + (cold_us[0] * cold[0, i] + cold_us[1] * cold[1, i])
        if decided:
            for k in range(STEP_COUNT):
                total[i + 1, 1 + k] += slopes[k]
        for k in range(STALLS):
            total[i + 1, 1 + STEP_COUNT + k] += cold[k, i]
    return total


@compiled(nogil=True)
def _climbs(columns: Any, place: Any, places: Any, server: Any, step: Any, sources: Any) -> Any:
    count = len(columns.requests)
    total = np.zeros((count + 1, places))
    for i in range(count):
        total[i + 1] = total[i]
        if place[i] >= 0:
            _, decided, slopes = _at(columns, i, server, step)
            if decided:
                slower = growth(columns.new_tokens[i], step)
                of_weights = (step.weights + slower) * slopes.weights
                total[i + 1, place[i]] += of_weights + (step.expert_weights + slower) * slopes.expert_weights
    return total
