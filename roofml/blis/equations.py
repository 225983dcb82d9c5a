"""What a run's latencies say about alphas and betas: linear equations, once it is known which steps a request was in.

    E2E - TTFT = α1 + (n-1)·α2 + Σ over its decode steps of basis·β
    TTFT       = α0 + α2 + (part of the step in flight + steps until its first token) of basis·β

The steps come from a replay, or, before there is one worth believing, from the measured latencies themselves: how many
requests were decoding at a time, and with how much context, can be seen in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.blis.deployment import BlisDeployment
from roofml.blis.latency import BlisSteps, basis
from roofml.blis.replay import BlisReplay
from roofml.engine.kv_cache import NOTHING
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats

DECODE_SPREAD, TTFT_SPREAD = 0.02, 0.2
"""Errors that BLIS's form is expected to leave: of E2E - TTFT, relative to its own; of TTFT, relative to the median."""
OUTLIER, OUTLIER_TTFT = 2.0, 5.0
"""Errors beyond this many spreads count linearly and not squared (Huber): of E2E - TTFT, of TTFT."""
RUN_WEIGHT = 400.0
"""How many requests a run counts as, however many it has: errors of its requests are not independent."""
RUN_SPREAD = 0.005
"""By how much whole runs of one deployment differ in pace. What varies within a run says more about loads."""

GRID = 20_000
"""Points in time at which the load seen in the measured latencies is taken."""


@dataclass(frozen=True)
class Equations:
    """matrix·coefficients = target, µs; coefficients are α0 α1 α2 β1 .. β11."""

    matrix: Floats
    """(rows, 14)"""
    target: Floats
    """(rows,)"""
    spread: Floats
    """(rows,) error expected, µs."""
    weight: Floats
    """(rows,)"""
    limit: Floats
    """(rows,) spreads beyond which an error is an outlier."""
    pace: Floats
    """(rows,) what a run that is slower by 100 % adds to the target, µs."""

    def normal(self, coefficients: Floats, pace: float) -> tuple[Floats, Floats]:
        """Gram matrix (15, 15) and right-hand side of the weighted least squares, outliers held down at these values.

        The last unknown is the run's own pace: by how much it was slower than the coefficients say.
        """
        columns = np.column_stack((self.matrix, self.pace))
        residual = np.abs(columns @ np.append(coefficients, pace) - self.target) / self.spread
        row = self.weight * np.minimum(1.0, self.limit / np.maximum(residual, self.limit)) / self.spread**2
        return (columns * row[:, None]).T @ columns, columns.T @ (row * self.target)


def spreads(run: Run, rows: Bools) -> tuple[Floats, float]:
    """Expected error of E2E - TTFT of each of `rows`, and of any TTFT, µs."""
    decode = run.e2e_us[rows] - run.ttft_us[rows]
    return DECODE_SPREAD * decode, TTFT_SPREAD * float(np.median(run.ttft_us[rows]))


def misfit(run: Run, predicted: BlisReplay, rows: Bools, pace: float) -> float:
    """Huber loss of a replay's latencies, weighted as the equations are; infinite where BLIS does not finish a row."""
    decode_spread, ttft_spread = spreads(run, rows)
    decodes = decode_spread > 0
    decode = (predicted.e2e_us - predicted.ttft_us - run.e2e_us + run.ttft_us)[rows][decodes] / decode_spread[decodes]
    ttft = (predicted.ttft_us - run.ttft_us)[rows] / ttft_spread
    if not (np.isfinite(decode).all() and np.isfinite(ttft).all()):
        return float("inf")
    residual = np.abs(np.concatenate((decode + pace / DECODE_SPREAD, ttft)))
    limit = np.where(np.arange(len(residual)) < len(decode), OUTLIER, OUTLIER_TTFT)
    loss = np.where(residual <= limit, residual**2, 2 * limit * residual - limit**2)
    return float(RUN_WEIGHT / rows.sum() * loss.sum())


def from_replay(
    run: Run, deployment: BlisDeployment, predicted: BlisReplay, queueing_us: int, rows: Bools
) -> Equations:
    """The equations of `rows`, with every request in the steps that a replay with this α0 put it in."""
    schedule = predicted.schedule
    rows = rows & (schedule.last_step != NOTHING)
    per_step = basis(deployment, schedule.steps)
    until = np.concatenate((np.zeros((1, per_step.shape[1])), np.cumsum(per_step, axis=0)))
    first, last, admitted = schedule.first_step[rows], schedule.last_step[rows], schedule.admitted_step[rows]

    queued = np.rint(run.arrival_us[rows]).astype(np.int64) + queueing_us
    flying = np.maximum(np.searchsorted(schedule.start_us, queued, side="right") - 1, 0)
    end = schedule.start_us[flying] + schedule.time_us[flying]
    waits = (flying < admitted) & (end > queued)
    share = np.where(waits, (end - queued) / schedule.time_us[flying], 0.0)[:, None]
    waited = np.where(waits[:, None], until[np.maximum(admitted, flying + 1)] - until[flying + 1], 0.0)
    return _equations(
        run,
        rows,
        decode=until[last + 1] - until[first + 1],
        ttft=share * per_step[flying] + waited + until[first + 1] - until[admitted],
    )


def from_measurement(run: Run, deployment: BlisDeployment, rows: Bools) -> Equations:
    """The equations of `rows`, with the load that the measured first and last chunks show.

    A request's decode steps are its output tokens after the first; what they hold is the mean of the load over their
    time. Its prefill shares one step with what is decoding, after waiting for half of the step before.
    """
    ok = np.flatnonzero(run.ok & (run.e2e_us >= run.ttft_us))
    begin, end = (run.arrival_us + run.ttft_us)[ok], (run.arrival_us + run.e2e_us)[ok]
    pace = np.maximum(run.output_tokens[ok] - 1, 0) / np.maximum(end - begin, 1.0)
    time: Floats = np.arange(GRID) * (float(end.max()) + 1) / (GRID - 1)
    order, leaving = np.argsort(begin), np.argsort(end)

    def running(value: Floats) -> Floats:
        """Sum of `value` over the requests decoding at each time."""
        came = np.concatenate(([0.0], np.cumsum(value[order])))[np.searchsorted(begin[order], time, side="right")]
        gone = np.concatenate(([0.0], np.cumsum(value[leaving])))[np.searchsorted(end[leaving], time, side="right")]
        return came - gone

    decodes = np.maximum(running(np.ones(len(ok))), 0.0)
    context = np.maximum(running(run.prompt_tokens[ok] - begin * pace) + time * running(pace), 0.0)
    new = _new_tokens(run)
    pairs = new * (run.prompt_tokens + new / 2)

    def between(value: Floats) -> Floats:
        """Sum of `value` over the requests whose first chunk came while each row was decoding."""
        total = np.concatenate(([0.0], np.cumsum(value[ok][order])))
        return total[np.searchsorted(begin[order], stop)] - total[np.searchsorted(begin[order], start, side="right")]

    def mean(load: Floats) -> Floats:
        """Mean of `load` over the decoding time of each row."""
        integral = np.concatenate(([0.0], np.cumsum((load[1:] + load[:-1]) / 2 * np.diff(time))))
        return (np.interp(stop, time, integral) - np.interp(start, time, integral)) / np.maximum(stop - start, 1.0)

    start, stop = (run.arrival_us + run.ttft_us)[rows], (run.arrival_us + run.e2e_us)[rows]
    steps = np.maximum(run.output_tokens[rows] - 1.0, 1.0)
    nothing = np.zeros(len(start))
    prefills = between(np.ones(len(run))) / steps
    held = BlisSteps(
        mean(decodes) + prefills, prefills, between(new) / steps, between(pairs) / steps, nothing, nothing,
        mean(decodes), mean(context),
    )  # fmt: skip
    then: Floats = np.interp(start, time, decodes)
    there: Floats = np.interp(start, time, context)
    own = BlisSteps(then + 1, nothing + 1, new[rows], pairs[rows], nothing, nothing, then, there)
    before = BlisSteps(then, nothing, nothing, nothing, nothing, nothing, then, there)
    return _equations(
        run,
        rows,
        decode=basis(deployment, held) * (run.output_tokens[rows] - 1.0)[:, None],
        ttft=basis(deployment, own) + basis(deployment, before) / 2,
    )


def _equations(run: Run, rows: Bools, decode: Floats, ttft: Floats) -> Equations:
    """Put the alphas before the betas, leave out requests without a decode, and scale."""
    count = len(decode)
    none, one = np.zeros(count), np.ones(count)
    decode_spread, ttft_spread = spreads(run, rows)
    decodes = (run.output_tokens[rows] > 1) & (decode_spread > 0)
    alphas = (none, one, run.output_tokens[rows] - 1.0)
    after = np.asarray(np.column_stack((*alphas, decode)), np.float64)[decodes]
    until = np.asarray(np.column_stack((one, none, one, ttft)), np.float64)
    return Equations(
        np.concatenate((after, until)),
        np.concatenate(((run.e2e_us - run.ttft_us)[rows][decodes], run.ttft_us[rows])),
        np.concatenate((decode_spread[decodes], np.full(count, ttft_spread))),
        np.full(int(decodes.sum()) + count, RUN_WEIGHT / max(count, 1)),
        np.concatenate((np.full(int(decodes.sum()), OUTLIER), np.full(count, OUTLIER_TTFT))),
        np.concatenate(((run.e2e_us - run.ttft_us)[rows][decodes], none)),
    )


def _new_tokens(run: Run) -> Floats:
    """Prompt tokens that each request computes if every block of its prefix stays cached once computed."""
    _, first = np.unique(run.prefix_group, return_index=True)
    repeated = run.prefix_group >= 0
    repeated[first] = False
    cached = np.minimum(run.prefix_tokens, run.prompt_tokens) // run.server.block_size * run.server.block_size
    caching = repeated & run.server.prefix_caching
    return (run.prompt_tokens - np.where(caching, cached, 0)).astype(np.float64)
