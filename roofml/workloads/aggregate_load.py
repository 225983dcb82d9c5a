"""The load of a run of which means are known: rebuilt from what its client says of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from roofml.traces.aggregate_run import AggregateRun, limited
from roofml.traces.run import Run
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.workloads.lengths import uniform
from roofml.workloads.load import Load, bursty_load, closed_load, poisson_load

SEED = 3
VARIED = 0.5
"""How far lengths are moved around their mean, as a share of it, where the mean is all that is known."""


def rebuilt(told: AggregateRun, variant: int = 0) -> Run:
    """The load that made the run's means, on its server: clients that wait for their answers, or requests that come at
    random. No latency is measured in it.

    Of a file that has lengths or arrivals on average alone, `variant` 1, 2, ... are other loads that it may have been.
    Raises InputError where the file does not say how many requests came when, or how long they were.
    """
    if not len(told.prompt_tokens):
        raise InputError(f"{told.name}: how long its prompts and answers were is not in the file")
    prompts, outputs = _lengths(told.prompt_tokens, variant, 1), _lengths(told.output_tokens, variant, 2)
    run = replace(_load(told, prompts, outputs, variant).run(told.server), identity=told.identity)
    if not len(told.prompt):
        return run
    _, first, place = np.unique(told.prompt, return_index=True, return_inverse=True)
    prompts = prompts[first][place]  # equal prompts are equally long
    return replace(run, prompt_tokens=prompts, prefix_group=place.astype(np.int64), prefix_tokens=prompts)


def _load(told: AggregateRun, prompts: Ints, outputs: Ints, variant: int) -> Load:
    load = told.load
    if limited(load, told.measured):
        assert load.max_concurrency is not None
        return closed_load(told.name, load.max_concurrency, prompts, outputs)
    if load.requests_per_s is None:
        raise InputError(f"{told.name}: neither its rate nor its concurrency is in the file, and no time of sending")
    if math.isinf(load.requests_per_s):
        return closed_load(told.name, len(prompts), prompts, outputs)
    if load.burstiness not in (None, 0, 1):
        return bursty_load(told.name, load.requests_per_s, load.burstiness, prompts, outputs, SEED + variant)
    return poisson_load(told.name, load.requests_per_s, prompts, outputs, SEED + variant)


def varies(told: AggregateRun) -> bool:
    """Whether there are other loads that the file may tell of: arrivals at random, or lengths on average."""
    known = int(told.prompt_tokens.max()) - int(told.prompt_tokens.min()) > 1
    return not known or not limited(told.load, told.measured)


def _lengths(tokens: Ints, variant: int, which: int) -> Ints:
    """The lengths, or of other loads of the same mean others around it. Shape (requests,)."""
    if variant == 0 or int(tokens.max()) - int(tokens.min()) > 1:
        return tokens
    mean = float(tokens.mean())
    return uniform((1 - VARIED) * mean, (1 + VARIED) * mean, len(tokens), 10 * variant + which)
