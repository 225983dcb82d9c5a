"""Replay: a run served again by the compiled scheduler, with step times of ours or of any function.

A run and parameters -> latencies, and the schedule they come from (`scheduler` says what is imitated of vLLM).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roofml.engine.arguments import Times, Waits, arguments_of, times_of
from roofml.engine.continued import continued
from roofml.engine.scheduler import compiled_in, serve
from roofml.engine.step_time import Callback, StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import Parameters, RequestParameters
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats, Ints

NO_TRANSFERS = np.zeros((2, 0))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which steps a run took and which requests were in them. Requests are in the run's order."""

    steps: StepSums
    step_start_us: Floats
    """(steps,)"""
    step_time_us: Floats
    """(steps,)"""
    first_step: Ints
    """(requests,) the step that made the first output token, or -1. Until its last a request waits for every step, and
    is in each unless it was preempted or the budget ran out before it."""
    last_step: Ints
    """(requests,) the step that made the last output token, or -1 for a request that did not complete."""
    arrival_us: Floats
    """(requests,) when it was sent: as the run says, or in a closed loop when one before it was answered."""
    queued_us: Floats
    """(requests,) when it entered the scheduler's queue."""
    running_at_arrival: Ints
    """(requests,) requests running when it arrived."""
    cached_tokens: Ints
    """(requests,) prompt tokens found in the cache when first scheduled."""
    preemptions: Ints
    """(requests,)"""
    cold: NDArray[np.int8]
    """(2, steps) 1 in steps that `cold_step_us`, and `cold_kernel_us` or what was seen in its place, were added to."""
    transfer_us: Floats
    """(2, requests) when blocks were taken for the KV that comes from elsewhere, and when it was there; NaN of a
    request that was computed here. (2, 0) where all were."""

    def taken(self, places: Ints) -> Schedule:
        """The same steps, and these requests, in this order."""
        names = ("first_step", "last_step", "arrival_us", "queued_us", "running_at_arrival", "cached_tokens")
        taken = {name: getattr(self, name)[places] for name in (*names, "preemptions")}
        transfers = self.transfer_us[:, places] if self.transfer_us.shape[1] else self.transfer_us
        return replace(self, transfer_us=transfers, **taken)


@dataclass(frozen=True, eq=False)
class Replay:
    """Predicted latencies of every request of a run, µs, and the schedule that they come from.

    NaN for a request that did not complete: its client gave it up, or the server turned it away.
    """

    ttft_us: Floats
    e2e_us: Floats
    schedule: Schedule

    @property
    def completed(self) -> Bools:
        """(requests,) those that got their answer."""
        return self.schedule.last_step >= 0

    def taken(self, places: Ints) -> Replay:
        """The same requests in another order."""
        return Replay(self.ttft_us[places], self.e2e_us[places], self.schedule.taken(places))


def replay(
    run: Run,
    tables: ComponentTables,
    parameters: Parameters,
    progress: Ints | None = None,
    waits: Waits | None = None,
    seen_ttft_us: Floats | None = None,
) -> Replay:
    """Serve the run's requests as vLLM would, with steps as long as the parameters say.

    `seen_ttft_us` are times to the first token that were measured, (requests,), NaN where none was: a fresh server's
    kernels are then compiled where these came late, and for as long (`cold_start`).

    `progress`, an array of one, is kept at the number of finished requests while the compiled loop runs (it releases
    the GIL). Of requests that wait for answers the schedule says when each was sent; those whose client gave up, or was
    turned away, wait no longer. Raises InputError for a request that can never run, ValueError for tables that end
    before the budget.
    """
    run, times = times_of(run, tables, parameters)
    return _serve(run, times, progress, waits, seen_ttft_us)


def replay_at(run: Run, step_us: float, progress: Ints | None = None) -> Replay:
    """As `replay`, with steps of `step_us` each and nothing between a request's arrival and the queue."""
    if not (np.isfinite(step_us) and step_us > 0):
        raise ValueError(f"step time: expected a positive time, found {step_us:g} µs")
    at_once = RequestParameters(*([0.0] * len(RequestParameters._fields)))
    return _serve(run, Times(float(step_us), at_once), progress)


def replay_with(run: Run, times: StepTimes, request: RequestParameters, progress: Ints | None = None) -> Replay:
    """As `replay`, with steps as long as any function says: some µs more a step, and whatever the function takes.

    Raises what the function raises, and ValueError for a time that is not positive.
    """
    callback = Callback(times)
    result = _serve(run, Times(callback.pointer, request), progress)
    callback.check()
    return result


def _serve(
    run: Run,
    times: Times,
    progress: Ints | None,
    waits: Waits | None = None,
    seen_ttft_us: Floats | None = None,
) -> Replay:
    recorded, run = run, continued(run)
    arguments, length = arguments_of(run, times, waits, seen_ttft_us=seen_ttft_us), len(recorded)
    requests, work, delay_us = arguments.requests, arguments.work, arguments.request.pipeline_delay_us
    took, sums, clock, cold = serve(*arguments, np.zeros(1, np.int64) if progress is None else progress, compiled_in())
    arrival = requests.arrival_us[:length]
    filled = work.filled
    first, last = filled.first_step[:length], filled.last_step[:length]
    queued, running = filled.queued_us[:length], filled.running_at_arrival[:length]
    noted = work.books.noted[:length]
    cached, preemptions = noted["cached_tokens"].copy(), noted["preemptions"].copy()
    del arguments, work, noted  # most of the memory
    incoming = requests.incoming
    transfers = NO_TRANSFERS if incoming is None else np.stack([incoming.begin_us, incoming.end_us])[:, :length]
    if length < len(run):
        took = max(int(first.max()), int(last.max())) + 1
    sums, (start, duration), cold = sums[:, :took], clock[:, :took], cold[:, :took]
    end, completed = start + duration if took else np.full(1, np.nan), last >= 0  # no step: all gave up before
    served = Replay(
        ttft_us=np.where(completed, end[first] - arrival + delay_us, np.nan),
        e2e_us=np.where(completed, end[last] - arrival + delay_us, np.nan),
        schedule=Schedule(
            StepSums.from_rows(sums),
            start,
            duration,
            first,
            last,
            arrival,
            queued,
            running,
            cached,
            preemptions,
            cold,
            transfers,
        ),
    )
    return served if requests.followers is None else served.taken(np.argsort(requests.followers.order))
