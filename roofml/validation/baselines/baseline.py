"""Baseline: another way to say how long a step takes, served by the same scheduler as ours so that laws alone differ.

A baseline learns from samples and gives a law for a run of any model, seen or not, and what a request spends outside
its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from roofml.engine.replay import RequestParameters, Schedule, replay_with
from roofml.engine.step_law import StepLaw
from roofml.traces.run import Floats, Run
from roofml.util.errors import InputError
from roofml.validation.baselines.samples import Samples
from roofml.validation.cross_validation import Setting

LawOf = Callable[[Run, Setting], StepLaw]
"""The step law for a run, of any model."""

NO_OVERHEAD = RequestParameters(queueing_us=0.0, queueing_per_running_us=0.0, pipeline_delay_us=0.0)


@dataclass(frozen=True)
class Trained:
    """What a baseline learned."""

    law: LawOf
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


@dataclass(frozen=True)
class Served:
    """Predicted latencies of every request of a run, µs, shape (requests,), and the schedule that they come from."""

    ttft_us: Floats
    e2e_us: Floats
    schedule: Schedule


def serve(run: Run, where: Setting, trained: Trained) -> Served:
    """Serve a run with what a baseline learned; `where` is the run's own setting. Raises what the replay raises."""
    result = replay_with(run, trained.law(run, where), trained.request)
    return Served(
        ttft_us=result.ttft_us + trained.token_us,
        e2e_us=result.e2e_us + trained.token_us * run.output_tokens + trained.completion_us,
        schedule=result.schedule,
    )


def with_queueing(samples: Sequence[Samples], law: LawOf, free: int, note: str = "") -> Trained:
    """The law with one constant from a client's send to the queue: what replays without it leave of TTFT, the median.

    `free` counts the numbers in the law. Never negative: a law too slow for the load queues by itself.
    """
    left: list[Floats] = []
    for s in samples:
        if s.chosen.any():
            alone = replay_with(s.run, law(s.run, s.where), NO_OVERHEAD)
            left.append((s.run.ttft_us - alone.ttft_us)[s.chosen])
    queueing_us = max(0.0, float(np.median(np.concatenate(left))))
    return Trained(law, NO_OVERHEAD._replace(queueing_us=queueing_us), free + 1, note=note)


def library(name: str) -> Any:
    """An optional library's module. Raises InputError with the way to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"{name}: not installed; pip install 'roofml[baselines]'") from error
