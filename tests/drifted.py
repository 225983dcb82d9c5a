"""A calibration, and runs of servers that changed since in ways that are known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from fitted import VALID, a_calibration, a_run

from roofml.calibration.calibration import Calibration
from roofml.engine.replay import replay
from roofml.latency.parameters import NAMES, PRIOR_SD, PRIOR_VALUES, Parameters
from roofml.traces.run import Run
from roofml.util.arrays import Floats

REQUESTS = 600
STEP_NOISE, OWN_SD, TTFT_SD = 0.006, 0.0003, 0.10
"""Of the mean step of a second; of a request's decode time and TTFT: as in public runs (benchmarks/drift.py)."""


@cache
def calibrated() -> Calibration:
    """As if fitted on one run of a server with the prior's parameters, and sure of each."""
    covariance = np.diag(PRIOR_SD**2) / 1e4
    valid = VALID | {"context": (1, 2000)}
    return a_calibration([a_run()], pace=None, values=PRIOR_VALUES, covariance=covariance, valid=valid)


@cache
def a_load(requests: int = REQUESTS) -> Run:
    """Requests of all lengths at a rate that doubles, not served yet."""
    random = np.random.default_rng(3)
    run = a_run(requests)
    gaps = random.exponential(1e5, requests) / np.where(np.arange(requests) < requests / 2, 1, 2)
    return replace(
        run,
        server=replace(run.server, fresh=False, engine_version="0.15.1"),
        arrival_us=np.cumsum(gaps),
        prompt_tokens=random.integers(50, 900, requests),
        output_tokens=random.integers(20, 200, requests),
    )


def changed(**parameters: float) -> Floats:
    """The prior's values with some parameters other."""
    values = PRIOR_VALUES.copy()
    for name, value in parameters.items():
        values[NAMES.index(name)] = value
    return values


def serve(
    values: Floats = PRIOR_VALUES,
    pace: float = 1.0,
    later: float = 0.0,
    pause_us: float = 0.0,
    requests: int = REQUESTS,
    seed: int = 0,
) -> Run:
    """The load as a server of this pace answers it, with noise: steps `later` longer from the middle on, and one, a
    third into the run, by `pause_us`."""
    random = np.random.default_rng(seed)
    run = a_load(requests)
    served = replay(run, calibrated().deployment.tables, Parameters.of(values).paced(pace))
    schedule = served.schedule
    start_us, time_us = schedule.step_start_us, schedule.step_time_us
    second = (start_us / 1e6).astype(np.int64)
    extra = time_us * (STEP_NOISE * random.standard_normal(second[-1] + 1))[second]
    extra += later * time_us * (start_us > 0.5 * run.arrival_us[-1])
    extra[np.searchsorted(start_us, run.arrival_us[-1] / 3)] += pause_us
    longer = np.concatenate(([0.0], np.cumsum(extra)))
    first, last = schedule.first_step, schedule.last_step
    decode = served.e2e_us - served.ttft_us + longer[last + 1] - longer[first + 1]
    decode *= np.exp(OWN_SD * random.standard_normal(len(run)))
    ttft = served.ttft_us * np.exp(TTFT_SD * random.standard_normal(len(run)))
    return replace(run, name="new", ttft_us=ttft, e2e_us=ttft + decode, identity="")
