"""Synthetic forwards: what `vllm bench forward` would say on a GPU whose parameters are known.

For finding out whether a design and a fit come back with them. Offsets are drawn from their priors; every case has an
error of its own, as formulas have, and samples that spread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.calibration.forwards.cases import Case
from roofml.calibration.forwards.fit import SAMPLES_RANGE
from roofml.calibration.forwards.offsets import OFFSET_PRIOR, OFFSET_SD
from roofml.calibration.forwards.times import Timed
from roofml.latency.bare_forward import bare_tables, sums_of
from roofml.latency.deployment import Deployment
from roofml.traces.forwards import ForwardCase, Forwards, ForwardServer
from roofml.util.arrays import Floats
from roofml.util.digest import digest

CASE_ERROR = 0.005
"""Relative standard deviation of what the formula gets wrong about a case."""
MEDIAN_SPREAD_PCT = 0.3
"""Of cases; one in twenty spreads ten times as much, as on a GPU that throttles."""


def timed(deployment: Deployment, values: Floats, cases: Sequence[Case], seed: int) -> Forwards:
    """The cases on a GPU with these parameter values (parameters,), the same for a seed."""
    random = np.random.default_rng(seed)
    tables = bare_tables(deployment, max(case.new_tokens for case in cases))
    steps = Timed.of(sums_of([case.requests for case in cases], tables), tables, bare=True)
    offsets = OFFSET_PRIOR + OFFSET_SD * random.standard_normal(len(OFFSET_PRIOR))
    times, _ = steps.times_and_slopes(values, offsets)
    spread = MEDIAN_SPREAD_PCT * np.exp(0.5 * random.standard_normal(len(cases)))
    spread = np.where(random.random(len(cases)) < 0.05, 10 * spread, spread)
    noise = np.hypot(CASE_ERROR, spread / 100 / SAMPLES_RANGE) * random.standard_normal(len(cases))
    routing = "balanced" if deployment.tables.experts else "real"
    timings = [
        ForwardCase(case.name, case.requests, float(time), float(pct), routing)
        for case, time, pct in zip(cases, times * np.exp(noise), spread, strict=True)
    ]
    server = ForwardServer(deployment.hf_repo, deployment.gpu.name, deployment.tp, deployment.engine.version)
    return Forwards("synthetic", timings, deployment.tp, digest(np.round(times, 6)), server=server)
