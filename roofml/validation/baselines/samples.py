"""Samples: what a run teaches a method about step times, although a client never sees a step.

Which steps a request waited for is taken from a replay at the measured load; how long they took on average it measured
itself: its pace, (E2E - TTFT) over the steps after its first token. A law that is linear in some features of a step is
linear in their means over a request's steps, so that such laws are regressed on exactly what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.calibration.fit import at_measured_load
from roofml.calibration.prior import PACKAGE
from roofml.engine.replay import Schedule
from roofml.traces.run import Bools, Floats, Run
from roofml.util.errors import InputError
from roofml.validation.cross_validation import Setting, setting_of
from roofml.validation.splits import Part


@dataclass(frozen=True)
class Samples:
    """What one run teaches."""

    where: Setting
    run: Run
    chosen: Bools
    """(requests,) those learned from."""
    schedule: Schedule
    """The replay at the measured load: the steps that requests most likely were in."""
    step_us: Floats
    """(steps,) time of a step as far as requests show it: the mean pace, µs, of the chosen ones that decode in it; NaN
    where none does. A short step among long ones is smeared over its neighbours."""

    @property
    def paced(self) -> Bools:
        """(requests,) the chosen ones that show a pace: at least two tokens, not all in one chunk."""
        return _paced(self.run, self.chosen, self.schedule)

    @property
    def pace_us(self) -> Floats:
        """(paced requests,) measured mean time of the steps after the first token, µs."""
        rows = self.paced
        steps = (self.schedule.last_step - self.schedule.first_step)[rows]
        return (self.run.e2e_us - self.run.ttft_us)[rows] / steps

    def request_means(self, features: Floats) -> Floats:
        """Means of step features (steps, k) over the steps that each request waits for: (paced requests, k).

        The means of a law that is linear in the features are what `pace_us` measured.
        """
        rows = self.paced
        total = np.concatenate((np.zeros((1, features.shape[1])), np.cumsum(features, axis=0)))
        first, last = self.schedule.first_step[rows] + 1, self.schedule.last_step[rows] + 1
        return (total[last] - total[first]) / (last - first)[:, None]


def samples_of(parts: Sequence[Part]) -> list[Samples]:
    """The samples of every part, in order; parts may be of several models. Raises InputError where none shows a pace.

    Runs of one model, GPU and tensor parallel size share their setting.
    """
    settings: dict[tuple[str, str | None, int], Setting] = {}
    found: list[Samples] = []
    for part in parts:
        server = part.run.server
        key = (server.model, server.gpu, server.tensor_parallel)
        if key not in settings:
            theirs = [p.run for p in parts if _key(p.run) == key]
            settings[key] = setting_of(theirs)
        found.append(sampled(part.run, part.requests, settings[key]))
    if not any(samples.paced.any() for samples in found):
        raise InputError("no request to learn from: expected successful ones of at least two tokens, streamed")
    return found


def sampled(run: Run, chosen: Bools, where: Setting) -> Samples:
    """What the `chosen` requests, shape (requests,), of one run teach."""
    schedule = at_measured_load(run, where.tables, PACKAGE.values, chosen)
    rows = _paced(run, chosen, schedule)
    first, last = schedule.first_step[rows] + 1, schedule.last_step[rows] + 1
    pace = (run.e2e_us - run.ttft_us)[rows] / (last - first)
    count = len(schedule.steps)
    # Each request adds its pace to the steps first..last-1, all at once: differences, then their running sum.
    decoding = np.cumsum(np.bincount(first, minlength=count + 1) - np.bincount(last, minlength=count + 1))[:count]
    total = np.cumsum(np.bincount(first, pace, count + 1) - np.bincount(last, pace, count + 1))[:count]
    step_us = np.where(decoding > 0, total / np.maximum(decoding, 1), np.nan)
    return Samples(where, run, chosen, schedule, step_us)


def stacked(samples: Sequence[Samples], features: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Request means (requests, k) of step features (steps, k), one array a run, and paces (requests,), µs, of all."""
    means = np.vstack([s.request_means(f) for s, f in zip(samples, features, strict=True)])
    return means, np.concatenate([s.pace_us for s in samples])


def _key(run: Run) -> tuple[str, str | None, int]:
    return run.server.model, run.server.gpu, run.server.tensor_parallel


def _paced(run: Run, chosen: Bools, schedule: Schedule) -> Bools:
    with np.errstate(invalid="ignore"):  # NaN where a request failed
        streamed = run.e2e_us > run.ttft_us
    return chosen & run.ok & streamed & (schedule.last_step > schedule.first_step)
