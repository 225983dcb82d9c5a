"""A run, a posterior and a calibration that tests make up, so that none waits for a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration, FittedRun
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import PACKAGE
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import NAMES, PRIOR_SD, PRIOR_VALUES
from roofml.traces.run import Run
from roofml.traces.server import Server

MODEL = "meta-llama/Llama-2-7b-hf"
VALID = {"batch": (1, 64), "context": (100, 2000), "new_tokens": (1, 2048)}
ERRORS = {"e2e_mean": 0.123456, "ttft_mean": -1.0, "tpot_mean": 1 / 3}


def a_run(requests: int = 30) -> Run:
    """Requests of which each takes as long as the other."""
    counts = np.arange(requests)
    return Run(
        name="made up",
        server=Server(MODEL, 1, 64, 2048, 16, 5000, 4096, gpu="H100"),
        request_id=counts,
        arrival_us=1e5 * counts.astype(np.float64),
        prompt_tokens=100 + 7 * counts,
        output_tokens=20 + counts % 5,
        prefix_group=np.full(requests, -1),
        prefix_tokens=np.zeros(requests, np.int64),
        ttft_us=np.full(requests, 3e4),
        e2e_us=np.full(requests, 3e5),
        ok=np.ones(requests, np.bool_),
    )


def measured_again(run: Run, **changes: Any) -> Run:
    """The run with other measurements: another recording, whatever it is called."""
    return replace(run, **changes, identity="")


def a_posterior(**changes: Any) -> Posterior:
    """Near the package's prior, and surer."""
    random = np.random.default_rng(0)
    half = random.normal(size=(len(NAMES), len(NAMES)))
    given: dict[str, Any] = {
        "values": PRIOR_VALUES * random.uniform(0.9, 1.0, len(NAMES)),
        "covariance": half @ half.T / 1e3 + np.diag(PRIOR_SD**2) / 9,
        "prior": PACKAGE,
        "requests": 30,
        "rounds": 3,
        "converged": True,
        "loss": 1.0,
        "paces": {},
        "valid": VALID,
    }
    return Posterior(**(given | changes))


def a_calibration(runs: Sequence[Run] = (), pace: float | None = 1.003, **changes: Any) -> Calibration:
    """As if fitted on `runs`, by default `a_run()`, each with a server of this pace; `changes` are of the posterior."""
    runs = runs or [a_run()]
    paces = {} if pace is None else {run.identity: pace for run in runs}
    seen = tuple(FittedRun(run.name, run.identity, pace, ERRORS, len(run)) for run in runs)
    return Calibration(deployment_of(runs), a_posterior(**({"paces": paces} | changes)), seen)
