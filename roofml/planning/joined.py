"""Joined replays: what several servers answered, as one replay of the load that they shared out.

Their schedules stand one after another, so that a request's steps are those of its own server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from roofml.engine.replay import Replay, Schedule
from roofml.latency.batch import StepSums
from roofml.util.arrays import Floats, Ints


def joined(places: Sequence[Ints], replays: Sequence[Replay], size: int) -> Replay:
    """One replay of a load of `size` requests, of which each server had those at its `places`."""
    schedules = [replayed.schedule for replayed in replays]
    before = np.concatenate(([0], np.cumsum([len(schedule.step_time_us) for schedule in schedules])))[:-1]

    def requests(name: str, offset: bool = False) -> Any:
        columns: list[Any] = [getattr(schedule, name) for schedule in schedules]
        whole = np.empty(size, columns[0].dtype)
        for place, column, first in zip(places, columns, before.tolist(), strict=True):
            whole[place] = np.where(column >= 0, column + first, column) if offset else column
        return whole

    def latencies(name: str) -> Floats:
        whole = np.full(size, np.nan)
        for place, replayed in zip(places, replays, strict=True):
            whole[place] = getattr(replayed, name)
        return whole

    transfers = np.full((2, size if any(schedule.transfer_us.size for schedule in schedules) else 0), np.nan)
    for place, schedule in zip(places, schedules, strict=True):
        if schedule.transfer_us.size:
            transfers[:, place] = schedule.transfer_us
    return Replay(
        latencies("ttft_us"),
        latencies("e2e_us"),
        Schedule(
            _steps(schedules),
            np.concatenate([schedule.step_start_us for schedule in schedules]),
            np.concatenate([schedule.step_time_us for schedule in schedules]),
            requests("first_step", offset=True),
            requests("last_step", offset=True),
            requests("arrival_us"),
            requests("queued_us"),
            requests("running_at_arrival"),
            requests("cached_tokens"),
            requests("preemptions"),
            np.concatenate([schedule.cold for schedule in schedules], axis=1),
            transfers,
        ),
    )


def _steps(schedules: Sequence[Schedule]) -> StepSums:
    return StepSums.from_rows(np.concatenate([schedule.steps.columns() for schedule in schedules]).T.copy())


def in_two_stages(prefill: Replay, decode: Replay) -> Replay:
    """What clients see of requests whose prompts `prefill` answered with one token, and `decode` then with all of them.

    Both are in the load's order. Requests arrived when the prefill servers had them, and tokens come from the others.
    """
    first, then = prefill.schedule, decode.schedule
    schedule = replace(
        then,
        arrival_us=first.arrival_us,
        queued_us=first.queued_us,
        running_at_arrival=first.running_at_arrival,
        cached_tokens=first.cached_tokens,
        preemptions=first.preemptions + then.preemptions,
    )
    return Replay(prefill.e2e_us + decode.ttft_us, prefill.e2e_us + decode.e2e_us, schedule)
