"""The objective of a request-level fit: latencies as smooth functions of the parameters, for a frozen schedule.

- Residuals are relative to the prediction, so that a 10 ms and a 100 s request weigh alike and the mean is unbiased;
  outliers are weighted down.
- Requests of one run share what the formula gets wrong about it, so their number is not their information: the mean of
  a run is never trusted further than `DECODE_DISCREPANCY` and `TTFT_DISCREPANCY`.
- Requests that a cold start touches (`engine.cold_start`) count by their mean E2E alone: who falls into which stall is
  chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np

from roofml.calibration.running_sums import Columns, climbs_of, columns_of, sums_of
from roofml.engine.replay import Schedule
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables, StepComponents, components
from roofml.latency.formula import growth, step_time
from roofml.latency.launches import no_shorter_than_launches
from roofml.latency.parameters import STEP_COUNT, StepParameters
from roofml.latency.stairs import SIZES, stair_of
from roofml.util.arrays import Bools, Floats, Ints

DECODE_DISCREPANCY = 0.003
"""Relative error of a run's mean decode time that no number of requests removes: servers on one host, clocks, heat."""
TTFT_DISCREPANCY = 0.015
"""The same for TTFT."""
COLD_DISCREPANCY = 0.15
"""The same for what stalls add to the E2E of the requests that a cold start touches: who meets which is chance."""
COLD_REST = 0.03
"""The same for the rest of their E2E: a first second has more that is slow than stalls."""
OUTLIER = 8.0
"""A residual beyond this many robust standard deviations loses weight: a pause of the host is no step."""
STEP_PADDING, FEW_STEPS = 65536, 8192
"""Steps are padded to multiples of the first, so that JAX compiles once and not for every schedule; short runs to the
second, for a catalogue has thousands of them."""
COLD = 2
"""Parameters of a cold start, the last ones."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """The schedule of one run as the fit sees it. Requests are those fitted."""

    columns: Columns
    """What the times of the steps depend on."""
    tables: ComponentTables
    first: Ints
    """(requests,) step of the first token."""
    last: Ints
    """(requests,) step of the last token."""
    entered: Ints
    """(requests,) first step that started after the request was queued."""
    in_flight: Floats
    """(requests,) fraction of the step in flight on arrival that was still to run: half of it, on average. When in a
    step a request arrived the replay cannot know, and its guess in place of the mean would bias the fit: residuals
    relative to a guess weigh the short guesses."""
    guessed_us: Floats
    """(requests,) by how much longer the replay has it wait for that step than the mean."""
    running: Floats
    """(requests,) requests running on arrival."""
    cold: Floats
    """(2, steps) of `Schedule`."""
    stair: Ints
    """(steps,) of `latency.stairs.stair_of`."""
    latest: dict[bytes, Latencies] = field(default_factory=dict[bytes, "Latencies"])
    """Parameter values that were asked for last, and the answer."""


def step_columns(steps: StepSums, tables: ComponentTables) -> tuple[Floats, ...]:
    """Components, new tokens, requests and whether mixed, each (padded steps,): what `times_and_gradients` takes."""
    return padded((*components(tables, steps), steps.new_tokens, steps.requests, steps.mixed))


def padded(columns: Sequence[Floats]) -> tuple[Floats, ...]:
    """Columns (steps,) with as many zeros behind as make a length that JAX has compiled for."""
    count = len(columns[-1])
    length = FEW_STEPS if count <= FEW_STEPS else -(-count // STEP_PADDING) * STEP_PADDING
    return tuple(np.concatenate((column, np.zeros(length - count)), dtype=np.float64) for column in columns)


def freeze(schedule: Schedule, tables: ComponentTables, fitted: Bools) -> Frozen:
    """What stays fixed in a round: which steps each of the `fitted` requests waits for and takes."""
    queued = schedule.queued_us[fitted]
    entered = np.searchsorted(schedule.step_start_us, queued - 1e-6)
    before = np.maximum(entered - 1, 0)
    left = schedule.step_start_us[before] + schedule.step_time_us[before] - queued
    # How much of a stall of a second was left the replay does know.
    stalled = schedule.cold[:, before].any(axis=0)
    share = np.where(stalled, left / schedule.step_time_us[before], 0.5)
    waits = (entered > 0) & (left > 0)
    # What came after the last request that is fitted is in no sum.
    used = int(schedule.last_step[fitted].max(initial=-1)) + 1
    columns = columns_of(schedule.steps.at(slice(0, used)), tables)
    return Frozen(
        columns=columns,
        tables=tables,
        first=schedule.first_step[fitted],
        last=schedule.last_step[fitted],
        entered=entered,
        in_flight=np.where(waits, share, 0.0),
        guessed_us=np.where(waits, left - share * schedule.step_time_us[before], 0.0),
        running=schedule.running_at_arrival[fitted].astype(np.float64),
        cold=schedule.cold[:, :used].astype(np.float64),
        stair=stair_of(columns.new_tokens),
    )


@cache
def _compiled(norm: float | None) -> Callable[..., Any]:
    """JAX function: step columns, layers and step parameters -> step times and their derivatives by each parameter."""
    import jax

    def times(values: Any, columns: Any, layers: Any) -> Any:
        *parts, new_tokens, requests, mixed = columns
        return step_time(StepComponents(*parts), new_tokens, requests, mixed, layers, StepParameters(*values), norm)

    def both(values: Any, columns: Any, layers: Any) -> Any:
        def along(tangent: Any) -> Any:
            return jax.jvp(lambda v: times(v, columns, layers), (values,), (tuple(tangent),))  # pyright: ignore

        # All derivatives in one pass: a pass for each would take ten times as long to compile.
        return jax.vmap(along, out_axes=(None, 0))(np.eye(STEP_COUNT))

    return jax.jit(both)


@cache
def _cpu() -> Any:
    """The processor as JAX's device, also where a notebook's shell asks for a GPU: here it would only be slower.

    Where JAX_PLATFORMS names nothing that this machine has, JAX cannot start at all, and is told of the processor. None
    where it has started without one: then it computes on what there is.
    """
    import jax

    try:
        return cast("Any", jax.devices("cpu"))[0]
    except (RuntimeError, AssertionError):  # the second is what JAX says of a CUDA that is not there
        pass
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        jax.config.update("jax_platforms", "cpu")
        return cast("Any", jax.devices("cpu"))[0]
    return None


def times_and_gradients(values: Floats, columns: Sequence[Floats], tables: ComponentTables) -> tuple[Floats, Floats]:
    """Step times (steps,) and their derivatives (step parameters, steps) by the parameters themselves, in float64."""
    import jax

    with jax.enable_x64(True), jax.default_device(_cpu()):
        pair = _compiled(tables.norm)(tuple(map(float, values)), tuple(columns), tables.layers)
        times, gradients = map(np.asarray, pair)
    at_least = no_shorter_than_launches(times, columns[-3], tables)
    return at_least, np.where(at_least > times, 0.0, gradients)


Latencies = tuple[Floats, Floats, Floats, Floats]
"""Decode times and TTFTs (requests,), and their derivatives (requests, parameters)."""


def latencies_and_gradients(values: Floats, frozen: Frozen) -> Latencies:
    """`Latencies` for a frozen schedule. What was asked for last is remembered."""
    asked = values.tobytes()
    if asked not in frozen.latest:
        frozen.latest.clear()
        frozen.latest[asked] = _latencies_and_gradients(values, frozen)
    return frozen.latest[asked]


def _latencies_and_gradients(values: Floats, frozen: Frozen) -> Latencies:
    queueing, per_running, delay = values[STEP_COUNT:-COLD]
    step = StepParameters(*values[:STEP_COUNT])
    if frozen.tables.norm is None:
        total = sums_of(frozen.columns, frozen.cold, frozen.tables, step, values[-COLD:])
    else:
        times, gradients = _of_a_norm(frozen, values)
        total = _running(np.column_stack((times + values[-COLD:] @ frozen.cold, *gradients, *frozen.cold)))
    decode, ttft = _differences(total, frozen)
    ttft[:, 0] += queueing + per_running * frozen.running + delay
    outside = np.column_stack((np.ones_like(frozen.running), frozen.running, np.ones_like(frozen.running)))
    by_steps, cold = slice(1, STEP_COUNT + 1), slice(STEP_COUNT + 1, None)
    return (
        decode[:, 0],
        ttft[:, 0],
        np.column_stack((decode[:, by_steps], np.zeros_like(outside), decode[:, cold])),
        np.column_stack((ttft[:, by_steps], outside, ttft[:, cold])),
    )


def _of_a_norm(frozen: Frozen, values: Floats) -> tuple[Floats, Floats]:
    """Times (steps,) and derivatives (step parameters, steps) by JAX, where a norm stands in the place of the blend."""
    parts, *others = frozen.columns
    times, gradients = times_and_gradients(values[:STEP_COUNT], padded((*parts, *others)), frozen.tables)
    used = len(frozen.columns.requests)
    return times[:used], gradients[:, :used]


def _running(rows: Floats) -> Floats:
    """(steps + 1, columns) sums of the (steps, columns) before each step."""
    return np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)))


def _differences(total: Floats, frozen: Frozen) -> tuple[Floats, Floats]:
    """(requests, columns) of decode times, and of TTFTs, from sums over the steps before each, (steps + 1, columns)."""
    before = np.maximum(frozen.entered - 1, 0)
    first = total[frozen.first + 1]
    wait = frozen.in_flight[:, None] * (total[before + 1] - total[before])
    return total[frozen.last + 1] - first, first - total[frozen.entered] + wait


def stairs_and_gradients(values: Floats, frozen: Frozen, places: Ints) -> tuple[Floats, Floats]:
    """Derivatives (requests, places) of decode times and TTFTs by the stairs at these `places` in `stairs.SIZES`."""
    column = np.full(len(SIZES) + 1, -1)
    column[places] = np.arange(len(places))
    step, place = StepParameters(*values[:STEP_COUNT]), column[frozen.stair]
    if frozen.tables.norm is None:
        return _differences(climbs_of(frozen.columns, place, len(places), frozen.tables, step), frozen)
    slowdown, (_, gradients) = growth(frozen.columns.new_tokens, step), _of_a_norm(frozen, values)
    climb = (step.weights + slowdown) * gradients[StepParameters._fields.index("weights")]
    climb = climb + (step.expert_weights + slowdown) * gradients[StepParameters._fields.index("expert_weights")]
    return _differences(_running(np.where(place[:, None] == np.arange(len(places)), climb[:, None], 0.0)), frozen)


def residual_weights(measured: Floats, predicted: Floats, discrepancy: float) -> Floats:
    """Weight of each residual (µs): relative, outliers down, and no run's mean surer than `discrepancy`."""
    relative = measured / predicted - 1
    sd = 1.4826 * float(np.median(np.abs(relative))) + 1e-9
    mean_variance = max(discrepancy**2, sd**2 / len(relative))
    outliers = 1 / np.maximum(1, np.abs(relative) / (OUTLIER * sd)) ** 2
    return np.sqrt(outliers / (mean_variance * len(relative))) / predicted


def latency_weights(values: Floats, frozen: Frozen, measured: tuple[Floats, Floats]) -> tuple[Floats, Floats, Floats]:
    """Weights (requests,) of the residuals (µs) of decode times, TTFTs and E2Es: the first two, or the last of a
    request that a cold start touched."""
    decode, ttft = measured
    decode_now, ttft_now, decode_by, ttft_by = latencies_and_gradients(values, frozen)
    stalls = (decode_by + ttft_by)[:, -COLD:]
    cold = stalls.any(axis=1)
    several = ~cold & (decode_now > 0) & (decode > 0)  # an answer of one token, or of one chunk, has no decode time
    of_decode, of_ttft, of_e2e = np.zeros((3, len(decode)))
    for weights, which, truth, now, discrepancy in (
        (of_decode, several, decode, decode_now, DECODE_DISCREPANCY),
        (of_ttft, ~cold, ttft, ttft_now, TTFT_DISCREPANCY),
    ):
        if which.any():
            weights[which] = residual_weights(truth[which], now[which], discrepancy)
    if cold.any():
        stall_us = float((stalls @ values[-COLD:])[cold].mean())
        rest_us = float((decode_now + ttft_now)[cold].mean()) - stall_us
        sd_us = float(np.hypot(COLD_DISCREPANCY * stall_us, COLD_REST * rest_us))
        of_e2e[cold] = 1 / (sd_us * cold.sum() ** 0.5)
    return of_decode, of_ttft, of_e2e
