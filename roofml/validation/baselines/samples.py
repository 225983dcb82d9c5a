"""Samples: what a run teaches a method about step times, although a client never sees a step.

A replay at the measured load says which steps a request waited for. The request itself measured how long they took on
average: its pace is (E2E - TTFT) divided by the steps after its first token. A law that is linear in some features of a
step is also linear in their means over a request's steps, so such laws are regressed on exactly what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.calibration.measured_load import at_measured_load
from roofml.calibration.prior import PACKAGE
from roofml.engine.replay import Schedule
from roofml.latency.deployment import Deployment, deployment_of
from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups
from roofml.util.arrays import Bools, Floats
from roofml.util.errors import InputError


@dataclass(frozen=True, eq=False)
class Samples:
    """What a run teaches a method."""

    deployment: Deployment
    run: Run
    chosen: Bools
    """(requests,) the requests to learn from."""
    schedule: Schedule
    """The replay at the measured load: the steps that requests most likely were in."""
    step_us: Floats
    """(steps,) time of a step as far as requests show it: the mean pace, µs, of the chosen requests that decode in it,
    or NaN if none does. A short step among long steps is smeared over its neighbours."""

    @property
    def paced(self) -> Bools:
        """(requests,) the chosen requests that show a pace: at least two tokens, in more than one chunk."""
        return _paced(self.run, self.chosen, self.schedule)

    @property
    def pace_us(self) -> Floats:
        """(paced requests,) measured mean time of the steps after the first token, µs."""
        rows = self.paced
        steps = (self.schedule.last_step - self.schedule.first_step)[rows]
        return (self.run.e2e_us - self.run.ttft_us)[rows] / steps

    def request_means(self, features: Floats) -> Floats:
        """Return means of step features (steps, k) over the steps that each request waits for: (paced requests, k).

        For a law that is linear in the features, these means predict `pace_us`.
        """
        rows = self.paced
        total = np.concatenate((np.zeros((1, features.shape[1])), np.cumsum(features, axis=0)))
        first, last = self.schedule.first_step[rows] + 1, self.schedule.last_step[rows] + 1
        return (total[last] - total[first]) / (last - first)[:, None]


def samples_of(selections: Sequence[Selection]) -> list[Samples]:
    """Return the samples of every selection, in order. The selections may be of several models.

    Runs of one model, GPU and tensor parallel size share their deployment. Raises InputError if no request shows a
    pace.
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
    """Return the samples of one run's selected requests."""
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
    """Return the request means (requests, k) and paces (requests,), µs, of all runs.

    `features` has one array (steps, k) a run.
    """
    means = np.vstack([s.request_means(f) for s, f in zip(samples, features, strict=True)])
    return means, np.concatenate([s.pace_us for s in samples])


def _paced(run: Run, chosen: Bools, schedule: Schedule) -> Bools:
    with np.errstate(invalid="ignore"):  # NaN for a failed request
        streamed = run.e2e_us > run.ttft_us
    return chosen & run.ok & streamed & (schedule.last_step > schedule.first_step)
