"""Linear equations between a run's latencies and BLIS's alphas and betas.

They hold once it is known which steps each of n output tokens came from:

    E2E - TTFT = α1 + (n-1)·α2 + Σ over its decode steps of basis·β
    TTFT       = α0 + α2 + (part of the step in flight + steps until its first token) of basis·β

A replay says which steps a request was in. Before there is a replay worth believing, the measured latencies say it:
they show how many requests were decoding at each time, and with how much context.
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
"""Expected errors of BLIS's form: of E2E - TTFT relative to itself, and of TTFT relative to the median TTFT."""
OUTLIER, OUTLIER_TTFT = 2.0, 5.0
"""An error of E2E - TTFT, and of TTFT, beyond this many spreads counts linearly and not squared (Huber loss)."""
RUN_WEIGHT = 400.0
"""A run counts as this many requests, however many it has: errors of its requests are not independent."""
RUN_SPREAD = 0.005
"""Whole runs of one deployment differ in pace by this share. What varies within a run says more about loads."""

GRID = 20_000
"""Number of points in time at which the load is read from the measured latencies."""


@dataclass(frozen=True, eq=False)
class Equations:
    """Equations matrix·coefficients = target, µs, one row a latency. The coefficients are α0 α1 α2 β1 .. β11."""

    matrix: Floats
    """(rows, 14)"""
    target: Floats
    """(rows,)"""
    spread: Floats
    """(rows,) expected error, µs."""
    weight: Floats
    """(rows,)"""
    limit: Floats
    """(rows,) number of spreads beyond which an error is an outlier."""
    pace: Floats
    """(rows,) µs that a run slower by 100 % adds to the target."""

    def normal(self, coefficients: Floats, pace: float) -> tuple[Floats, Floats]:
        """Return the Gram matrix (15, 15) and right-hand side (15,) of the weighted least squares.

        Rows that are outliers at these values count less. The last unknown is the run's own pace: by what share the run
        was slower than the coefficients say.
        """
        columns = np.column_stack((self.matrix, self.pace))
        residual = np.abs(columns @ np.append(coefficients, pace) - self.target) / self.spread
        row_weight = self.weight * np.minimum(1.0, self.limit / np.maximum(residual, self.limit)) / self.spread**2
        return (columns * row_weight[:, None]).T @ columns, columns.T @ (row_weight * self.target)


def spreads(run: Run, rows: Bools) -> tuple[Floats, float]:
    """Return the expected error, µs, of E2E - TTFT for each of `rows`, and of any TTFT."""
    decode = run.e2e_us[rows] - run.ttft_us[rows]
    return DECODE_SPREAD * decode, TTFT_SPREAD * float(np.median(run.ttft_us[rows]))


def misfit(run: Run, predicted: BlisReplay, rows: Bools, pace: float) -> float:
    """Return the Huber loss of a replay, weighted as the equations are; infinite if BLIS does not finish a row."""
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
    """Return the equations of `rows`. The replay, whose α0 is `queueing_us`, says which steps each request was in."""
    schedule = predicted.schedule
    rows = rows & (schedule.last_step != NOTHING)
    per_step = basis(deployment, schedule.steps)
    before = np.concatenate((np.zeros((1, per_step.shape[1])), np.cumsum(per_step, axis=0)))
    first, last, admitted = schedule.first_step[rows], schedule.last_step[rows], schedule.admitted_step[rows]

    queued = np.rint(run.arrival_us[rows]).astype(np.int64) + queueing_us
    in_flight = np.maximum(np.searchsorted(schedule.start_us, queued, side="right") - 1, 0)
    end = schedule.start_us[in_flight] + schedule.time_us[in_flight]
    waits = (in_flight < admitted) & (end > queued)
    share = np.where(waits, (end - queued) / schedule.time_us[in_flight], 0.0)[:, None]
    waited = np.where(waits[:, None], before[np.maximum(admitted, in_flight + 1)] - before[in_flight + 1], 0.0)
    return _equations(
        run,
        rows,
        decode=before[last + 1] - before[first + 1],
        ttft=share * per_step[in_flight] + waited + before[first + 1] - before[admitted],
    )


def from_measurement(run: Run, deployment: BlisDeployment, rows: Bools) -> Equations:
    """Return the equations of `rows`. The measured first and last chunks show the load.

    A request has one decode step for each output token after the first. Each of these steps holds the mean load over
    the request's decoding time. Its prefill shares one step with the requests decoding at that time, and waits for half
    of the step before.
    """
    measured = np.flatnonzero(run.ok & (run.e2e_us >= run.ttft_us))
    begin, end = (run.arrival_us + run.ttft_us)[measured], (run.arrival_us + run.e2e_us)[measured]
    pace = np.maximum(run.output_tokens[measured] - 1, 0) / np.maximum(end - begin, 1.0)
    time: Floats = np.arange(GRID) * (float(end.max()) + 1) / (GRID - 1)
    order, leaving = np.argsort(begin), np.argsort(end)

    def running(value: Floats) -> Floats:
        """Return the sum of `value` over the requests decoding at each time."""
        started = np.concatenate(([0.0], np.cumsum(value[order])))[np.searchsorted(begin[order], time, side="right")]
        ended = np.concatenate(([0.0], np.cumsum(value[leaving])))[np.searchsorted(end[leaving], time, side="right")]
        return started - ended

    decodes = np.maximum(running(np.ones(len(measured))), 0.0)
    context = np.maximum(running(run.prompt_tokens[measured] - begin * pace) + time * running(pace), 0.0)
    new = _new_tokens(run)
    pairs = new * (run.prompt_tokens + new / 2)

    def between(value: Floats) -> Floats:
        """Return the sum of `value` over the requests whose first chunk came while each row was decoding."""
        total = np.concatenate(([0.0], np.cumsum(value[measured][order])))
        return total[np.searchsorted(begin[order], stop)] - total[np.searchsorted(begin[order], start, side="right")]

    def mean(load: Floats) -> Floats:
        """Return the mean of `load` over the decoding time of each row."""
        integral = np.concatenate(([0.0], np.cumsum((load[1:] + load[:-1]) / 2 * np.diff(time))))
        return (np.interp(stop, time, integral) - np.interp(start, time, integral)) / np.maximum(stop - start, 1.0)

    start, stop = (run.arrival_us + run.ttft_us)[rows], (run.arrival_us + run.e2e_us)[rows]
    steps = np.maximum(run.output_tokens[rows] - 1.0, 1.0)
    zeros = np.zeros(len(start))
    prefills = between(np.ones(len(run))) / steps
    decode_step = BlisSteps(
        mean(decodes) + prefills, prefills, between(new) / steps, between(pairs) / steps, zeros, zeros,
        mean(decodes), mean(context),
    )  # fmt: skip
    running_at_start: Floats = np.interp(start, time, decodes)
    context_at_start: Floats = np.interp(start, time, context)
    prefill_step = BlisSteps(
        running_at_start + 1, zeros + 1, new[rows], pairs[rows], zeros, zeros, running_at_start, context_at_start
    )
    step_before = BlisSteps(running_at_start, zeros, zeros, zeros, zeros, zeros, running_at_start, context_at_start)
    return _equations(
        run,
        rows,
        decode=basis(deployment, decode_step) * (run.output_tokens[rows] - 1.0)[:, None],
        ttft=basis(deployment, prefill_step) + basis(deployment, step_before) / 2,
    )


def _equations(run: Run, rows: Bools, decode: Floats, ttft: Floats) -> Equations:
    """Put the alphas before the betas, drop decode rows of requests without a decode, and add spreads and weights."""
    count = len(decode)
    zeros, ones = np.zeros(count), np.ones(count)
    decode_spread, ttft_spread = spreads(run, rows)
    decodes = (run.output_tokens[rows] > 1) & (decode_spread > 0)
    alphas = (zeros, ones, run.output_tokens[rows] - 1.0)
    decode_rows = np.asarray(np.column_stack((*alphas, decode)), np.float64)[decodes]
    ttft_rows = np.asarray(np.column_stack((ones, zeros, ones, ttft)), np.float64)
    return Equations(
        np.concatenate((decode_rows, ttft_rows)),
        np.concatenate(((run.e2e_us - run.ttft_us)[rows][decodes], run.ttft_us[rows])),
        np.concatenate((decode_spread[decodes], np.full(count, ttft_spread))),
        np.full(int(decodes.sum()) + count, RUN_WEIGHT / max(count, 1)),
        np.concatenate((np.full(int(decodes.sum()), OUTLIER), np.full(count, OUTLIER_TTFT))),
        np.concatenate(((run.e2e_us - run.ttft_us)[rows][decodes], zeros)),
    )


def _new_tokens(run: Run) -> Floats:
    """Return the prompt tokens that each request computes if every block of its prefix stays cached once computed."""
    _, first = np.unique(run.prefix_group, return_index=True)
    repeated = run.prefix_group >= 0
    repeated[first] = False
    cached = np.minimum(run.prefix_tokens, run.prompt_tokens) // run.server.block_size * run.server.block_size
    caching = repeated & run.server.prefix_caching
    return (run.prompt_tokens - np.where(caching, cached, 0)).astype(np.float64)
