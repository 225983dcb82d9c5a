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
from roofml.latency.deployment import Deployment, deployment_of
from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups
from roofml.util.arrays import Bools, Floats
from roofml.util.errors import InputError


@dataclass(frozen=True, eq=False)
class Samples:
    """What one run teaches."""

    deployment: Deployment
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


def samples_of(selections: Sequence[Selection]) -> list[Samples]:
    """The samples of every selection, in order; of several models, perhaps. Raises InputError where none shows a pace.

    Runs of one model, GPU and tensor parallel size share their deployment.
    """
    runs = [selection.run for selection in selections]
    samples: list[Samples] = []
    deployments = [(group, deployment_of(group)) for group in groups(runs)]
    for selection in selections:
        deployment = next(of_group for group, of_group in deployments if selection.run in group)
        samples.append(sampled(selection, deployment))
    if not any(of_run.paced.any() for of_run in samples):
        raise InputError("no request to learn from: expected successful ones of at least two tokens, streamed")
    return samples


def sampled(selection: Selection, deployment: Deployment) -> Samples:
    """What the selected requests of one run teach."""
    run, chosen = selection.run, selection.requests
    schedule = at_measured_load(selection, deployment.tables, PACKAGE.values)
    rows = _paced(run, chosen, schedule)
    first, last = schedule.first_step[rows] + 1, schedule.last_step[rows] + 1
    pace = (run.e2e_us - run.ttft_us)[rows] / (last - first)
    count = schedule.steps.length
    # Each request adds its pace to the steps first..last-1, all at once: differences, then their running sum.
    decoding = np.cumsum(np.bincount(first, minlength=count + 1) - np.bincount(last, minlength=count + 1))[:count]
    total = np.cumsum(np.bincount(first, pace, count + 1) - np.bincount(last, pace, count + 1))[:count]
    step_us = np.where(decoding > 0, total / np.maximum(decoding, 1), np.nan)
    return Samples(deployment, run, chosen, schedule, step_us)


def stacked(samples: Sequence[Samples], features: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Request means (requests, k) of step features (steps, k), one array a run, and paces (requests,), µs, of all."""
    means = np.vstack([s.request_means(f) for s, f in zip(samples, features, strict=True)])
    return means, np.concatenate([s.pace_us for s in samples])


def _paced(run: Run, chosen: Bools, schedule: Schedule) -> Bools:
    with np.errstate(invalid="ignore"):  # NaN where a request failed
        streamed = run.e2e_us > run.ttft_us
    return chosen & run.ok & streamed & (schedule.last_step > schedule.first_step)
