"""Baseline: another way to say how long a step takes, served by the same scheduler so that step times alone differ.

A baseline learns from samples and says how long steps take in a run of any model, seen or not, and what a request
spends outside its steps.
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
"""How long steps take on the server of a run, of any model."""

NO_OVERHEAD = RequestParameters(queueing_us=0.0, queueing_per_running_us=0.0, pipeline_delay_us=0.0)


@dataclass(frozen=True)
class Trained:
    """What a baseline learned."""

    step_times: StepTimesOf
    request: RequestParameters
    free: int
    """How many numbers were learned."""
    token_us: float = 0.0
    """Added to the latencies for every output token; the next step does not wait for it. BLIS alone has it."""
    completion_us: float = 0.0
    """Added to E2E; BLIS alone has it."""
    note: str = ""
    """What was found, for people to read."""


@dataclass(frozen=True)
class Baseline:
    """One row of the registry."""

    name: str
    """For a command line."""
    title: str
    """For a table."""
    train: Callable[[Sequence[Samples], int], Trained]
    """Samples and a seed -> what they teach; the same for the same samples and seed."""


@dataclass(frozen=True, eq=False)
class Served:
    """Predicted latencies of every request of a run, µs, shape (requests,), and the schedule that they come from."""

    ttft_us: Floats
    e2e_us: Floats
    schedule: Schedule


@dataclass(frozen=True, eq=False)
class BaselineModel:
    """What a baseline learned, for one deployment: a `LatencyModel`."""

    trained: Trained
    deployment: Deployment

    def replay(self, run: Run) -> Served:
        """Serve a run. Raises what the replay raises."""
        trained = self.trained
        result = replay_with(run, self.step_times(run), trained.request)
        return Served(
            ttft_us=result.ttft_us + trained.token_us,
            e2e_us=result.e2e_us + trained.token_us * run.output_tokens + trained.completion_us,
            schedule=result.schedule,
        )

    def step_times(self, run: Run) -> StepTimes:
        """How long steps take."""
        return self.trained.step_times(run, self.deployment)


def with_queueing(samples: Sequence[Samples], times: StepTimesOf, free: int, note: str = "") -> Trained:
    """The step times with one queueing constant: what replays without it leave of TTFT, the median.

    `free` counts the numbers in them. Never negative: steps too slow for the load queue by themselves.
    """
    left: list[Floats] = []
    for s in samples:
        if s.chosen.any():
            alone = replay_with(s.run, times(s.run, s.deployment), NO_OVERHEAD)
            left.append((s.run.ttft_us - alone.ttft_us)[s.chosen])
    queueing_us = max(0.0, float(np.median(np.concatenate(left))))
    return Trained(times, NO_OVERHEAD._replace(queueing_us=queueing_us), free + 1, note=note)


def library(name: str) -> Any:
    """An optional library's module. Raises InputError with the way to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"{name}: not installed; pip install 'roofml[baselines]'") from error
