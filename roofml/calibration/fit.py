"""Request-level fit: the parameters physics leaves open, from the latencies that a client measured.

Replay a run, freeze the schedule, and a request's decode time is the sum of its steps' times and its TTFT the sum of
the steps it waits for: both are smooth in the parameters. So a round is a damped least-squares problem with exact
derivatives (JAX), and rounds repeat until the schedule stops moving.

- Residuals are relative to the prediction, so that a 10 ms and a 100 s request weigh alike and the mean is unbiased;
  outliers are weighted down.
- Requests of one run share what the formula gets wrong about it, so their number is not their information: the mean of
  a run is never trusted further than `DECODE_DISCREPANCY` and `TTFT_DISCREPANCY`.
- Requests that a cold start touches (`coldstart`) count by their mean E2E alone: who falls into which stall is chance.
- Each round's schedule is replayed at the measured load: step times are scaled, for the schedule alone, so that mean
  decode time is the measured one. Near capacity a percent of step time is a multiple of queueing, and a wrong first
  guess would otherwise fit a queue that never was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
from scipy.optimize import lsq_linear  # pyright: ignore[reportUnknownVariableType]

from roofml.calibration.prior import PACKAGE, Prior
from roofml.engine.replay import Schedule, replay
from roofml.latency.batch import StepTable
from roofml.latency.components import ComponentTables, components
from roofml.latency.formula import StepParameters, scaled, step_time
from roofml.latency.parameters import (
    LOGARITHMIC,
    LOWER,
    NAMES,
    UPPER,
    from_coordinates,
    split,
    to_coordinates,
)
from roofml.traces.run import Bools, Floats, Ints, Run
from roofml.util.errors import InputError

DECODE_DISCREPANCY = 0.003
"""Relative error of a run's mean decode time that no number of requests removes: servers on one host, clocks, heat."""
TTFT_DISCREPANCY = 0.015
"""The same for TTFT."""
PACE_SD = 0.007
"""Servers of one model and GPU differ: one run takes this much longer for the same steps than another, relatively. In
the public runs the in-sample means of a model's runs scatter by 0.2 to 1 % at equal batch and context."""
COLD_DISCREPANCY = 0.15
"""The same for what stalls add to the E2E of the requests that a cold start touches: who meets which is chance."""
COLD_REST = 0.03
"""The same for the rest of their E2E: a first second has more that is slow than stalls."""
OUTLIER = 8.0
"""Past this many robust standard deviations a residual loses weight, in the end all: a pause of the host is no step."""
SETTLED = 0.05
"""A fit has settled when no parameter moves by more than this share of its prior's standard deviation in a round."""
STEP_PADDING = 65536
"""Steps are padded to multiples of this, so that JAX compiles once and not for every schedule."""
STEPS = len(StepParameters._fields)
COLD = 2
"""Parameters of a cold start, the last ones."""


@dataclass(frozen=True)
class Fit:
    """What a fit found. Arrays are in the order of `params.PARAMETERS`."""

    values: Floats
    """(parameters,)"""
    covariance: Floats
    """(parameters, parameters), of the logarithm for corrections and of the value for the others."""
    prior: Prior
    """What was believed before."""
    requests: int
    """Requests whose latencies were used."""
    rounds: int
    converged: bool
    """False: the schedule still moved in the last round; more requests or a smaller load settle it."""
    misfit: float
    """Norm of the weighted residuals of the last round, priors included: what the fit makes small."""
    paces: dict[str, float]
    """Run -> its server's step times over those of the parameters: near 1, what sets this server apart from others of
    its kind. A run that was not fitted has none, and 1 is to be expected of it, give or take `PACE_SD`."""
    valid: dict[str, tuple[int, int]]
    """Smallest and largest batch, mean context and new tokens of the steps seen."""

    @property
    def sd(self) -> Floats:
        """(parameters,) standard deviations: relative for corrections, in the parameter's unit for the others."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def not_identified(self) -> tuple[str, ...]:
        """Parameters of which the prior knew more than the data added: more than half the prior's variance is left."""
        left = self.sd**2 / self.prior.sd**2
        return tuple(name for name, share in zip(NAMES, left, strict=True) if share > 0.5)

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Lower and upper ends of each parameter's interval, shape (parameters,), cut at its bounds."""
        from scipy.stats import norm

        reach = float(norm.ppf(0.5 + level / 2)) * self.sd
        x = to_coordinates(self.values)
        return from_coordinates(np.maximum(x - reach, LOWER)), from_coordinates(np.minimum(x + reach, UPPER))


class Block(Protocol):
    """What something besides requests measured, as rows of the least-squares problem, frozen for a round."""

    @property
    def run(self) -> int:
        """Place of the run among those fitted whose server was measured."""
        ...

    def rows(self, values: Floats) -> Floats:
        """(rows, 1 + parameters + 1): derivatives of the weighted residuals by the logarithm of the server's pace and
        by the parameters, and the residuals."""
        ...


More = Callable[[Sequence[Schedule], Floats], Sequence[Block]]


@dataclass(frozen=True)
class _Frozen:
    """The schedule of one run as the fit sees it. Steps are padded; requests are those fitted."""

    steps: tuple[Floats, ...]
    """Components, new tokens, requests and whether mixed, each (padded steps,)."""
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
    running: Floats
    """(requests,) requests running on arrival."""
    cold: Floats
    """(2, padded steps) of `Schedule`."""


def step_columns(steps: StepTable, tables: ComponentTables) -> tuple[Floats, ...]:
    """Components, new tokens, requests and whether mixed, each (padded steps,): what `times_and_gradients` takes."""
    count = len(steps)
    padded = -(-count // STEP_PADDING) * STEP_PADDING
    columns = [
        *components(tables, steps).T,
        steps.prefill_tokens + steps.decode_tokens,
        steps.requests,
        1.0 * (steps.prefill_tokens > 0),
    ]
    return tuple(np.concatenate((column, np.zeros(padded - count)), dtype=np.float64) for column in columns)


def freeze(schedule: Schedule, tables: ComponentTables, fitted: Bools) -> _Frozen:
    """What stays fixed in a round: which steps each of the `fitted` requests waits for and takes."""
    queued = schedule.queued_us[fitted]
    entered = np.searchsorted(schedule.step_start_us, queued - 1e-6)
    before = np.maximum(entered - 1, 0)
    left = schedule.step_start_us[before] + schedule.step_time_us[before] - queued
    # How much of a stall of a second was left the replay does know.
    stalled = schedule.cold[:, before].any(axis=0)
    share = np.where(stalled, left / schedule.step_time_us[before], 0.5)
    steps = step_columns(schedule.steps, tables)
    return _Frozen(
        steps=steps,
        tables=tables,
        first=schedule.first_step[fitted],
        last=schedule.last_step[fitted],
        entered=entered,
        in_flight=np.where((entered > 0) & (left > 0), share, 0.0),
        running=schedule.running_at_arrival[fitted].astype(np.float64),
        cold=np.pad(schedule.cold, ((0, 0), (0, len(steps[0]) - len(schedule.steps)))),
    )


@cache
def _compiled(norm: float | None) -> Callable[..., Any]:
    """JAX function: step columns, layers and step parameters -> step times and their derivatives by each parameter."""
    import jax

    def times(values: Any, columns: Any, layers: Any) -> Any:
        *parts, new_tokens, requests, mixed = columns
        return step_time(tuple(parts), new_tokens, requests, mixed, layers, StepParameters(*values), norm)

    def both(values: Any, columns: Any, layers: Any) -> Any:
        def along(tangent: Any) -> Any:
            return jax.jvp(lambda v: times(v, columns, layers), (values,), (tuple(tangent),))  # pyright: ignore

        return [along(tangent) for tangent in np.eye(STEPS)]

    return jax.jit(both)


def times_and_gradients(values: Floats, columns: Sequence[Floats], tables: ComponentTables) -> tuple[Floats, Floats]:
    """Step times (steps,) and their derivatives (step parameters, steps) by the parameters themselves, in float64."""
    import jax

    with jax.enable_x64(True):
        pairs = _compiled(tables.norm)(tuple(map(float, values)), tuple(columns), tables.layers)
        return np.asarray(pairs[0][0]), np.stack([np.asarray(gradient) for _, gradient in pairs])


def latencies_and_gradients(values: Floats, frozen: _Frozen) -> tuple[Floats, Floats, Floats, Floats]:
    """Decode times and TTFTs (requests,), and their derivatives (requests, parameters), for a frozen schedule."""
    times, gradients = times_and_gradients(values[:STEPS], frozen.steps, frozen.tables)
    queueing, per_running, delay = values[STEPS:-COLD]
    rows = np.vstack((times + values[-COLD:] @ frozen.cold, gradients, frozen.cold))
    total = np.concatenate((np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)), axis=1)
    decode = total[:, frozen.last + 1] - total[:, frozen.first + 1]
    wait = frozen.in_flight * rows[:, np.maximum(frozen.entered - 1, 0)]
    ttft = total[:, frozen.first + 1] - total[:, frozen.entered] + wait
    ttft[0] += queueing + per_running * frozen.running + delay
    outside = np.stack((np.ones_like(frozen.running), frozen.running, np.ones_like(frozen.running)))
    by_steps = slice(1, STEPS + 1)
    return (
        decode[0],
        ttft[0],
        np.vstack((decode[by_steps], np.zeros_like(outside), decode[STEPS + 1 :])).T,
        np.vstack((ttft[by_steps], outside, ttft[STEPS + 1 :])).T,
    )


def at_measured_load(run: Run, tables: ComponentTables, values: Floats, fitted: Bools) -> Schedule:
    """The schedule of a replay whose step times are scaled until mean decode time is the measured one."""
    step, request = split(values)
    decode_us = run.e2e_us - run.ttft_us
    with np.errstate(invalid="ignore"):  # an answer that came in one piece has no decode time
        decodes = fitted & (run.output_tokens > 1) & (decode_us > 0)
    if not decodes.any():
        return replay(run, tables, step, request).schedule
    target = float(np.log(np.mean(decode_us[decodes])))
    low, high, scale, last = np.log(0.05), np.log(20.0), 0.0, (0.0, 0.0)
    for attempt in range(16):
        result = replay(run, tables, scaled(step, float(np.exp(scale))), request)
        miss = float(np.log(np.mean((result.e2e_us - result.ttft_us)[decodes]))) - target
        if abs(miss) < 1e-3:
            break
        low, high = (low, scale) if miss > 0 else (scale, high)
        slope = (miss - last[1]) / (scale - last[0]) if attempt else 2.0
        last = (scale, miss)
        guess = scale - miss / max(slope, 1.0)
        scale = guess if low < guess < high else 0.5 * (low + high)
    return result.schedule  # pyright: ignore[reportPossiblyUnboundVariable]


def residual_weights(measured: Floats, predicted: Floats, discrepancy: float) -> Floats:
    """Weight of each residual (µs): relative, outliers down, and no run's mean surer than `discrepancy`."""
    relative = measured / predicted - 1
    sd = 1.4826 * float(np.median(np.abs(relative))) + 1e-9
    mean_variance = max(discrepancy**2, sd**2 / len(relative))
    outliers = 1 / np.maximum(1, np.abs(relative) / (OUTLIER * sd)) ** 2
    return np.sqrt(outliers / (mean_variance * len(relative))) / predicted


def all_weights(values: Floats, frozen: _Frozen, measured: tuple[Floats, Floats]) -> tuple[Floats, Floats, Floats]:
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


def fit(
    runs: Sequence[Run],
    tables: ComponentTables | list[ComponentTables],
    train_fraction: float = 1.0,
    rounds: int = 10,
    on_round: Callable[[int, int], None] | None = None,
    prior: Prior = PACKAGE,
    chosen: Sequence[Bools] | None = None,
    more: More | None = None,
    start: Floats | None = None,
) -> Fit:
    """Fit every parameter to the first `train_fraction` of each run's requests, or to those `chosen` (requests,).

    The runs must be of one model, GPU and tensor parallel size, those `tables` were made for; or there are tables for
    each, and one set of parameters has to serve them all. `on_round(i, rounds)` is called before each round. It starts
    from the parameter values `start` (parameters,), by default from the prior's. `more` makes blocks of what besides
    requests was measured, from the round's schedules (one a run) and values; with it no request has to be left. Raises
    InputError when nothing is left to fit.
    """
    if not 0 < train_fraction <= 1:
        raise InputError(f"train fraction {train_fraction}: expected more than 0 and at most 1")
    if chosen is None:
        chosen = [np.arange(len(run)) < train_fraction * len(run) for run in runs]
    fitted = [run.ok & mask for run, mask in zip(runs, chosen, strict=True)]
    requests = sum(int(mask.sum()) for mask in fitted)
    if requests == 0 and more is None:
        raise InputError("no successful request to fit")
    each = [tables] * len(runs) if isinstance(tables, ComponentTables) else tables
    if more is None:
        kept = [(r, m, t) for r, m, t in zip(runs, fitted, each, strict=True) if m.any()]
        runs, fitted, each = ([k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept])
    x = prior.mean if start is None else np.clip(to_coordinates(start), LOWER, UPPER)
    normal, misfit = np.linalg.inv(prior.covariance), np.inf
    converged, done, valid, paces = False, 0, {}, {}
    for done in range(1, rounds + 1):
        if on_round is not None:
            on_round(done, rounds)
        schedules = [
            at_measured_load(run, of_run, from_coordinates(x), mask)
            for run, of_run, mask in zip(runs, each, fitted, strict=True)
        ]
        before, valid = x, _seen(schedules)
        blocks: Sequence[Block] = () if more is None else more(schedules, from_coordinates(x))
        problem = Problem.of(runs, fitted, schedules, each, x, prior, blocks)
        x, normal, misfit = solve(problem, x)
        paces = {run.name: pace for run, pace in zip(runs, problem.paces(x), strict=True)}
        if done > rounds // 2:  # a schedule that flips back and forth settles between
            x = 0.5 * (x + before)
        if float(np.max(np.abs(x - before) / prior.sd)) < SETTLED:
            converged = True
            break
    return Fit(
        values=from_coordinates(x),
        covariance=np.asarray(np.linalg.inv(normal), np.float64),
        prior=prior,
        requests=requests,
        rounds=done,
        converged=converged,
        misfit=misfit,
        paces=paces,
        valid=valid,
    )


@dataclass(frozen=True)
class Problem:
    """One round's least-squares problem: the frozen schedules, and what the requests in them measured."""

    frozen: list[_Frozen]
    measured: list[tuple[Floats, Floats]]
    """Decode times and TTFTs (requests,)."""
    weights: list[tuple[Floats, Floats, Floats]]
    """As `all_weights` has them."""
    place: list[int]
    """Of the run that each is of."""
    runs: int
    prior: Prior
    blocks: Sequence[Block]

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        fitted: Sequence[Bools],
        schedules: Sequence[Schedule],
        tables: Sequence[ComponentTables],
        x: Floats,
        prior: Prior,
        blocks: Sequence[Block] = (),
    ) -> Problem:
        """The problem of the requests `fitted` (requests,) of each run, weighted for coordinates near `x`."""
        place = [i for i, mask in enumerate(fitted) if mask.any()]
        frozen = [freeze(schedules[i], tables[i], fitted[i]) for i in place]
        measured = [((runs[i].e2e_us - runs[i].ttft_us)[fitted[i]], runs[i].ttft_us[fitted[i]]) for i in place]
        weights = [all_weights(from_coordinates(x), *one) for one in zip(frozen, measured, strict=True)]
        return cls(frozen, measured, weights, place, len(runs), prior, blocks)

    def triangle(self, x: Floats) -> Floats:
        """R of the QR factorization of [jacobian | residuals], priors included: (parameters + 1, parameters + 1).

        Its last column's norm is that of the residuals, and R'R their normal equations: 50,000 rows become 28. The
        paces of the servers have taken their best values for these coordinates.
        """
        whitening = self.prior.whitening()
        prior = np.column_stack((whitening, whitening @ (x - self.prior.mean)))
        return _triangle(np.vstack([prior, *(run[1:, 1:] for run in self._triangles(x))]))

    def paces(self, x: Floats) -> list[float]:
        """The pace of each run's server for coordinates x; 1 of a run without a row."""
        return [float(np.exp(-run[0, -1] / run[0, 0])) for run in self._triangles(x)]

    def _triangles(self, x: Floats) -> list[Floats]:
        """For each run R of its rows, with the logarithm of its server's pace, around 0, as the first column."""
        values = from_coordinates(x)
        by_coordinate = np.concatenate(([1.0], np.where(LOGARITHMIC, values, 1.0), [1.0]))
        believed = np.zeros((1, len(by_coordinate)))
        believed[0, 0] = 1 / PACE_SD
        rows: list[list[Floats]] = [[believed] for _ in range(self.runs)]
        for i, f, measured, weights in zip(self.place, self.frozen, self.measured, self.weights, strict=True):
            decode, ttft, decode_by, ttft_by = latencies_and_gradients(values, f)
            for now, by, truth, weight in (
                (decode, decode_by, measured[0], weights[0]),
                (ttft, ttft_by, measured[1], weights[1]),
                (decode + ttft, decode_by + ttft_by, measured[0] + measured[1], weights[2]),
            ):
                paced = now - by[:, STEPS:] @ values[STEPS:]
                rows[i].append(_triangle(np.column_stack((paced, by, now - truth)) * weight[:, None] * by_coordinate))
        for more in self.blocks:
            rows[more.run].append(_triangle(more.rows(values) * by_coordinate))
        return [_triangle(np.vstack(of_run)) for of_run in rows]


def _triangle(rows: Floats) -> Floats:
    """R of the QR factorization, square; with rows of zeros where there are fewer rows than columns."""
    missing = max(0, rows.shape[1] - len(rows))
    full = np.vstack((rows, np.zeros((missing, rows.shape[1])))) if missing else rows
    return np.asarray(np.linalg.qr(full, mode="r"), np.float64)


def solve(problem: Problem, x: Floats) -> tuple[Floats, Floats, float]:
    """Damped Gauss-Newton within the bounds: the best coordinates, the normal matrix there and the residuals' norm."""
    r = problem.triangle(x)
    for _ in range(10):
        solution = cast("Any", lsq_linear(r[:, :-1], -r[:, -1], bounds=(LOWER - x - 1e-12, UPPER - x + 1e-12)))
        step = np.asarray(solution.x, np.float64)
        for damping in (1.0, 0.5, 0.25, 0.1, 0.03):
            tried: Floats = np.clip(x + damping * step, LOWER, UPPER)
            r_tried = problem.triangle(tried)
            if np.linalg.norm(r_tried[:, -1]) < np.linalg.norm(r[:, -1]):
                break
        else:
            break
        moved = float(np.max(np.abs(tried - x) / problem.prior.sd))
        x, r = tried, r_tried
        if moved < SETTLED / 5:
            break
    return x, r[:, :-1].T @ r[:, :-1], float(np.linalg.norm(r[:, -1]))


def _seen(schedules: Sequence[Schedule]) -> dict[str, tuple[int, int]]:
    """Ranges of what the schedules' steps computed."""
    batch = np.concatenate([s.steps.requests for s in schedules])
    tokens = np.concatenate([s.steps.prefill_tokens + s.steps.decode_tokens for s in schedules])
    decodes = np.concatenate([s.steps.decode_tokens for s in schedules])
    context = np.concatenate([s.steps.decode_context for s in schedules])[decodes > 0] / decodes[decodes > 0]
    return {
        "batch": (int(batch.min()), int(batch.max())),
        "context": (int(context.min()), int(np.ceil(context.max()))) if len(context) else (0, 0),
        "new_tokens": (int(tokens.min()), int(tokens.max())),
    }
