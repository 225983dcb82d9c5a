"""Runs that the replay itself served: what a fit should find in them is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from fitted import a_run, measured_again

from roofml.engine.replay import replay
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.traces.run import Run


def served(requests: int = 300, name: str = "served", slower: float = 1.0, gap_us: Any = 1e5, **server: Any) -> Run:
    """A run of the replay itself, with steps `slower` times as long as its latencies would have been.

    `gap_us` is the mean time between arrivals, one or (requests,).
    """
    random = np.random.default_rng(3)
    run = a_run(requests)
    run = replace(
        run,
        name=name,
        server=replace(run.server, **server),
        arrival_us=np.cumsum(random.exponential(gap_us, requests)),
        prompt_tokens=random.integers(50, 900, requests),
        output_tokens=random.integers(20, 200, requests),
    )
    result = replay(run, deployment_of([run]).tables, Parameters.of(PRIOR_VALUES))
    noise = random.normal(1, 0.02, requests)
    return measured_again(run, ttft_us=slower * noise * result.ttft_us, e2e_us=slower * noise * result.e2e_us)
