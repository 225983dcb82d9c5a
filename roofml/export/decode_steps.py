"""Step times of a calibration on a server for batches of equal decodes: what tables of other forms are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roofml.export.subject import Subject
from roofml.latency.batch import StepSums
from roofml.latency.formula import step_times
from roofml.latency.parameters import Parameters
from roofml.traces.steps.table import LONG_CONTEXT
from roofml.util.arrays import Floats

StepUs = Callable[..., Floats]
"""Called with arrays of one shape: decodes, context of each, new tokens of each prompt, its context, how many prompts
-> µs of a step."""


def step_us(subject: Subject, parameters: Parameters | None = None, budget: int = 0) -> StepUs:
    """How long steps of equal decodes and of equal prompts take on the subject's server.

    `parameters` in place of the calibration's; `budget` where steps have more new tokens than the server's. The counts
    are whole numbers, at least one request in each step.
    """
    tables = subject.deployment.serving(subject.server).reaching(budget).tables
    step = (subject.calibration.parameters if parameters is None else parameters).step

    def times(
        decodes: Floats,
        context: Floats,
        new: Floats | float = 0.0,
        before: Floats | float = 0.0,
        prompts: Floats | float = 1.0,
    ) -> Floats:
        parts = np.broadcast_arrays(decodes, context, new, before, prompts)
        n, c, p, b, several = (np.ravel(part).astype(np.float64) for part in parts)
        several = np.where(p > 0, several, 0.0)
        steps = StepSums(
            prefill_tokens=several * p,
            decode_tokens=n,
            requests=n + several,
            prefill_pairs=several * p * (b + (p + 1) / 2),
            prefill_context=several * b,
            decode_context=n * c,
            decode_beyond=n * np.maximum(0.0, c - LONG_CONTEXT),
        )
        return step_times(tables, steps.alike(tables.reaches), step)

    return times


def token_of_context_us(subject: Subject, decodes: int, parameters: Parameters | None = None) -> float:
    """What a further token in the KV cache adds to a step of so many decodes, at the subject's mean context."""
    context = round(subject.lengths.input_mean + subject.lengths.output_mean / 2)
    short, long = step_us(subject, parameters)(np.full(2, decodes), np.array([context, 2 * context]))
    return float((long - short) / (decodes * context))
