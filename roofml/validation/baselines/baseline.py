"""Baseline: another way to compute step times. The scheduler is the same, so that step times alone differ.

A baseline learns from samples how long steps take in a run of any model, also of one that it did not learn from, and
how much time a request spends outside its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from roofml.engine.replay import Schedule, replay_with
from roofml.engine.step_time import StepTimes
from roofml.latency.deployment import Deployment
from roofml.latency.parameters import RequestParameters
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.validation.baselines.samples import Samples

StepTimesOf = Callable[[Run, Deployment], StepTimes]
"""(run, deployment) -> the step times of the run's server, for any model."""

NO_OVERHEAD = RequestParameters(queueing_us=0.0, queueing_per_running_us=0.0, pipeline_delay_us=0.0)


@dataclass(frozen=True)
class Trained:
    """What a baseline learned."""

    step_times: StepTimesOf
    request: RequestParameters
    free: int
    """Number of learned numbers."""
    token_us: float = 0.0
    """µs added to the latencies for every output token; the next step does not wait for it. Only BLIS has it."""
    completion_us: float = 0.0
    """µs added to E2E. Only BLIS has it."""
    note: str = ""
    """What the baseline learned, for people to read."""


@dataclass(frozen=True)
class Baseline:
    """A row of the registry."""

    name: str
    """Name on a command line."""
    title: str
    """Title in a table."""
    train: Callable[[Sequence[Samples], int], Trained]
    """(samples, seed) -> what the baseline learned, always the same for the same samples and seed."""


@dataclass(frozen=True, eq=False)
class Served:
    """Predicted latencies of a run's requests (requests,), µs, and the schedule that they come from."""

    ttft_us: Floats
    e2e_us: Floats
    schedule: Schedule


@dataclass(frozen=True, eq=False)
class BaselineModel:
    """What a baseline learned, applied to one deployment: a `LatencyModel`."""

    trained: Trained
    deployment: Deployment

    def replay(self, run: Run) -> Served:
        """Serve a run. It raises what the replay raises."""
        trained = self.trained
        result = replay_with(run, self.step_times(run), trained.request)
        return Served(
            ttft_us=result.ttft_us + trained.token_us,
            e2e_us=result.e2e_us + trained.token_us * run.output_tokens + trained.completion_us,
            schedule=result.schedule,
        )

    def step_times(self, run: Run) -> StepTimes:
        """Return the step times of the run's server."""
        return self.trained.step_times(run, self.deployment)


def with_queueing(samples: Sequence[Samples], times: StepTimesOf, free: int, note: str = "") -> Trained:
    """Add one queueing constant, µs, to the step times: the median TTFT that replays without it leave unexplained.

    `free` is the count of learned numbers in the step times. The constant is not negative: if steps are too slow for
    the load, requests queue without it.
    """
    unexplained: list[Floats] = []
    for s in samples:
        if s.chosen.any():
            replay = replay_with(s.run, times(s.run, s.deployment), NO_OVERHEAD)
            unexplained.append((s.run.ttft_us - replay.ttft_us)[s.chosen])
    queueing_us = max(0.0, float(np.median(np.concatenate(unexplained))))
    return Trained(times, NO_OVERHEAD._replace(queueing_us=queueing_us), free + 1, note=note)


def library(name: str) -> Any:
    """Import an optional library's module. Raises InputError, with the way to install it, if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"{name}: not installed; pip install 'roofml[baselines]'") from error
