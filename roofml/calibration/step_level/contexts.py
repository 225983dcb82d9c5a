"""Contexts: what the requests of a sampled step had in the KV cache. A table of steps holds counts, not contexts.

Four sources, all as means a request, so that they go with the counts that the table does hold:

- snapshot: the server's own list of requests, in the file itself;
- replay: the run replayed. Samples are matched to replayed steps by time, not by number: arrivals pin the replay's time
  down, while its step numbers drift by what its step times are wrong;
- kv: used KV blocks a running request. Blocks that several requests share count once, so it is too low by what
  prefix caching shares at the time;
- mean: one mean over the run, as if nothing were known about when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from roofml.engine.replay import Schedule
from roofml.traces.run import Run
from roofml.traces.steps.table import LONG_CONTEXT, SampledSteps
from roofml.util.arrays import Floats
from roofml.util.errors import InputError

Source = Literal["snapshot", "replay", "kv", "mean"]
SOURCES: dict[str, Source] = {"snapshot": "snapshot", "replay": "replay", "kv": "kv", "mean": "mean"}

AROUND = 5
"""Replayed steps on either side of a sample over which decode contexts are averaged: a batch hardly changes in them."""
PREFILLS_AROUND = 20
"""Replayed steps with prefill on either side over which contexts of prefills are averaged: they are few and differ."""
COARSE_US, FINE_US = 200_000.0, 5_000.0
"""Strides of the search for the offset between two clocks: batches stay alike for half a second or so."""


@dataclass(frozen=True)
class MeanContexts:
    """Mean context of the requests of each sampled step, tokens. Arrays have shape (samples,)."""

    decode: Floats
    """Of a decode request."""
    beyond: Floats
    """Of it, what comes after the first LONG_CONTEXT tokens."""
    prefill: Floats
    """Of a prefill request: tokens before those that it computes in the step."""
    pairs: Floats | None = None
    """Query-key pairs of all prefills of a step, where they are known and not only means; else NaN."""


@dataclass(frozen=True)
class Clock:
    """How a replay's time relates to a table's."""

    offset_us: float
    """Time of the first sampled step in the run, µs from its first send."""
    batch_difference: float
    """Mean |replayed - sampled| requests that decode, over the samples the replay covers."""
    covered: float
    """Share of the samples that it covers."""


def match(steps: SampledSteps, schedule: Schedule) -> Clock:
    """The offset at which replayed batches are most like the sampled ones.

    The load's ups and downs are a signature that any other offset misses. Raises InputError where the replay covers
    less than half of the samples at any offset: a table of another run.
    """
    start = schedule.step_start_us
    decodes = schedule.steps.decode_tokens
    end = float(start[-1] + schedule.step_time_us[-1])
    another = f"{steps.name}: the run is over before half of these steps: not a table of this run"
    if steps.start_us[-1] > 2 * (end - start[0]) + 4 * COARSE_US:  # before a grid of all that time is made
        raise InputError(another)

    def replayed(when: Floats) -> Floats:
        return decodes[np.clip(np.searchsorted(start, when, side="right") - 1, 0, len(start) - 1)]

    # Both on one grid of times first, so that a shift is a slice.
    ticks = np.arange(0.0, float(steps.start_us[-1]) + COARSE_US, COARSE_US)
    table = steps.decode_requests[np.searchsorted(steps.start_us, ticks, side="right") - 1]
    run = replayed(np.arange(start[0], end, COARSE_US))
    shifts = np.arange(-(len(table) // 2), len(run) - len(table) // 2 + 1)
    coarse = [
        float(np.abs(run[max(s, 0) : s + len(table)] - table[max(-s, 0) : max(len(run) - s, 0)]).mean())
        if min(s + len(table), len(run)) - max(s, 0) > len(table) / 2
        else np.inf
        for s in shifts
    ]
    if not np.isfinite(min(coarse)):
        raise InputError(another)
    best = float(start[0]) + COARSE_US * float(shifts[int(np.argmin(coarse))])

    def at(offset: float) -> Clock:
        when = steps.start_us + offset
        inside = (when >= start[0]) & (when < end)
        different = np.abs(replayed(when[inside]) - steps.decode_requests[inside])
        return Clock(offset, float(different.mean()) if len(different) else np.inf, float(inside.mean()))

    fine = np.arange(best - COARSE_US, best + COARSE_US + FINE_US, FINE_US)
    return min((at(float(offset)) for offset in fine), key=lambda clock: clock.batch_difference)


def contexts(steps: SampledSteps, source: Source, run: Run, schedule: Schedule | None, ahead: int) -> MeanContexts:
    """Mean contexts of every sampled step. `replay` needs the `schedule` of a replay of `run`, the others do not.

    Raises InputError for a snapshot, or for KV blocks, that the file does not hold.
    """
    if source == "snapshot":
        return _from_snapshot(steps, run)
    if source == "replay":
        assert schedule is not None
        return _from_replay(steps, run, schedule, ahead if steps.own_us is None else 0)
    decode, prefill = _means_of(run)
    mean = np.full(len(steps), decode)
    if source == "kv":
        if not steps.blocks_total.any():
            raise InputError(f"{steps.name}: no KV blocks in this table: contexts cannot be taken from them")
        used = (steps.blocks_total - steps.blocks_free) * run.server.block_size
        # The last block of a request is half full on average.
        per_request = used / np.maximum(steps.running, 1) - run.server.block_size / 2
        mean = np.where(steps.running > 0, np.maximum(per_request, 0.0), decode)
    return MeanContexts(mean, np.maximum(mean - LONG_CONTEXT, 0.0), _before_new(steps, prefill))


def _means_of(run: Run) -> tuple[float, float]:
    """Mean context of a decode over a run's steps, and mean prompt, tokens."""
    decodes = np.maximum(run.output_tokens - 1, 0)
    context = run.prompt_tokens + decodes / 2
    return float((decodes * context).sum() / max(decodes.sum(), 1)), float(run.prompt_tokens.mean())


def _before_new(steps: SampledSteps, prompt: float) -> Floats:
    """Context of a prefill that ends with its step, as nearly every one does."""
    new = steps.prefill_tokens / np.maximum(steps.prefill_requests, 1)
    return np.maximum(prompt - new, 0.0)


def _from_snapshot(steps: SampledSteps, run: Run) -> MeanContexts:
    snapshot = steps.snapshot
    if snapshot is None or not snapshot.known.any():
        raise InputError(f"{steps.name}: no step.REQUEST_SNAPSHOT of all requests of a step: contexts are not known")
    rows = np.arange(len(steps))

    def filled(total: Floats, requests: Floats, otherwise: Floats) -> Floats:
        has = snapshot.known & (requests > 0)
        if not has.any():
            return otherwise
        return np.interp(rows, rows[has], total[has] / requests[has])

    decode, prompt = _means_of(run)
    decodes, prefills = steps.decode_requests.astype(np.float64), steps.prefill_requests.astype(np.float64)
    return MeanContexts(
        filled(snapshot.decode_context, decodes, np.full(len(steps), decode)),
        filled(snapshot.decode_beyond, decodes, np.full(len(steps), max(decode - LONG_CONTEXT, 0.0))),
        filled(snapshot.prefill_context, prefills, _before_new(steps, prompt)),
        snapshot.prefill_pairs,
    )


def _from_replay(steps: SampledSteps, run: Run, schedule: Schedule, ahead: int) -> MeanContexts:
    """Means over the replayed steps around the time of each sample.

    A replayed step begins when the GPU takes it; its batch was formed `ahead` steps before, when the sample was taken.
    """
    replayed = schedule.steps
    when = steps.start_us + match(steps, schedule).offset_us
    row = np.searchsorted(schedule.step_start_us, when, side="right") - 1 + ahead
    row = np.clip(row, 0, replayed.length - 1)
    fallback, prompt = _means_of(run)
    rows = np.stack((replayed.decode_tokens, replayed.decode_context, replayed.decode_beyond))
    total = np.concatenate((np.zeros((3, 1)), np.cumsum(rows, axis=1)), axis=1)
    low, high = np.maximum(row - AROUND, 0), np.minimum(row + AROUND + 1, replayed.length)
    decodes, context, beyond = total[:, high] - total[:, low]
    some = decodes > 0
    mean = np.where(some, context / np.maximum(decodes, 1), fallback)
    prefills = replayed.requests - replayed.decode_tokens
    mixed = np.flatnonzero(prefills > 0)
    if len(mixed) == 0:
        return MeanContexts(mean, np.where(some, beyond / np.maximum(decodes, 1), 0.0), _before_new(steps, prompt))
    counts = np.stack((prefills[mixed], replayed.prefill_context[mixed]))
    sums = np.concatenate((np.zeros((2, 1)), np.cumsum(counts, axis=1)), axis=1)
    near = np.searchsorted(mixed, row)
    low = np.clip(near - PREFILLS_AROUND, 0, len(mixed) - 1)
    high = np.clip(near + PREFILLS_AROUND, 1, len(mixed))
    number, before = sums[:, np.maximum(high, low + 1)] - sums[:, low]
    return MeanContexts(mean, np.where(some, beyond / np.maximum(decodes, 1), 0.0), before / np.maximum(number, 1))
