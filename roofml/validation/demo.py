"""The main job on made-up data: a run served with known parameters, noise on what the client sees, and the fit of it.

Nothing is read but the package's own configs: a reader sees what a fit recovers, and how sure it says it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roofml.calibration.calibrate import fit
from roofml.calibration.calibration import Calibration
from roofml.calibration.prior import PACKAGE
from roofml.engine.replay import replay
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.parameters import (
    LOWER,
    NAMES,
    PRIOR_SD,
    PRIOR_VALUES,
    UPPER,
    Parameters,
    from_coordinates,
    to_coordinates,
)
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats
from roofml.util.display import Shown, Table, digits, pct

MODEL, GPU, TP = "codellama/CodeLlama-34b-Instruct-hf", "H100", 2
REQUESTS = 4000
DECODE_NOISE, TTFT_NOISE = 0.02, 0.10
"""Relative noise of a request's decode time and of its TTFT, as the real traces show it."""


@dataclass(frozen=True, eq=False, repr=False)
class DemoResult(Shown):
    """What the demo made and what the fit found."""

    run: Run
    truth: Floats
    """(parameters,) the parameters the run was served with, in the order of `parameters.PARAMETERS`."""
    calibration: Calibration

    @property
    def recovered(self) -> dict[str, bool]:
        """For each parameter that the data identified: is the truth within the fit's 95 % interval?"""
        calibration = self.calibration
        low, high = calibration.posterior.interval()
        inside = (low <= self.truth) & (self.truth <= high)
        unknown = calibration.not_identified
        return {name: bool(hit) for name, hit in zip(NAMES, inside, strict=True) if name not in unknown}

    def rows(self) -> list[dict[str, Any]]:
        """Each parameter, known and recovered."""
        return [
            {**row, "truth": float(truth), "inside": bool(row["low"] <= truth <= row["high"])}
            for row, truth in zip(self.calibration.rows(), self.truth, strict=True)
        ]

    def tables(self) -> list[Table]:
        """Known and recovered side by side."""
        rows = [
            [
                row["name"],
                f"{digits(row['truth'], 4)} {row['unit']}".strip(),
                digits(row["value"], 4),
                f"{digits(row['low'])} to {digits(row['high'])}",
                "data" if row["identified"] else "prior",
                "yes" if row["inside"] else "NO",
            ]
            for row in self.rows()
        ]
        deployment = self.calibration.deployment
        title = f"{len(self.run)} made-up requests to {deployment.model.name} on {deployment.gpu.name}"
        columns = ["parameter", "known", "recovered", "95 % interval", "decided by", "inside"]
        return [Table(title, columns, rows)]

    def verdict(self) -> list[str]:
        """The errors in sample, and how much was recovered."""
        errors = self.calibration.runs[0].error_pct
        recovered = self.recovered
        return [
            "errors of means, %: " + ", ".join(f"{name} {pct(error)}" for name, error in errors.items()),
            f"{sum(recovered.values())} of {len(recovered)} parameters that the data decides are inside their interval",
        ]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml demo --json` prints it."""
        return {"requests": len(self.run), "parameters": self.rows()}


def known_parameters(rng: np.random.Generator) -> Floats:
    """Parameters drawn from their priors cut at 1.5 standard deviations, (parameters,): a machine not measured yet."""
    x = to_coordinates(PRIOR_VALUES) + PRIOR_SD * np.clip(rng.normal(size=len(PRIOR_SD)), -1.5, 1.5)
    return from_coordinates(np.clip(x, LOWER, UPPER))


def synthetic_run(rng: np.random.Generator, deployment: Deployment, truth: Floats) -> Run:
    """A run served with `truth`: load that rises in four stages, prompts of all lengths, a third of them repeated.

    Arrivals are Poisson at 3, 6, 9 and 12 requests/s; prompts are log-normal around 500 tokens and outputs around 150,
    as in public chat traces; every third prompt comes from a pool of 50. Noise is on what the client measures.
    """
    rate = np.repeat([3.0, 6.0, 9.0, 12.0], REQUESTS // 4)
    prompt = np.clip(rng.lognormal(np.log(500), 0.7, REQUESTS), 16, 3000).astype(np.int64)
    output = np.clip(rng.lognormal(np.log(150), 0.6, REQUESTS), 2, 900).astype(np.int64)
    pool = rng.integers(0, 50, REQUESTS)
    repeated = np.arange(REQUESTS) % 3 == 0
    prompt = np.where(repeated, prompt[:50][pool], prompt)
    run = Run(
        name="demo",
        server=Server(
            model=MODEL,
            tensor_parallel=TP,
            max_num_seqs=128,
            max_num_batched_tokens=2048,
            block_size=16,
            num_gpu_blocks=26_602,
            max_model_len=4096,
            gpu=GPU,
        ),
        request_id=np.arange(REQUESTS),
        arrival_us=np.cumsum(rng.exponential(1e6 / rate)),
        prompt_tokens=prompt,
        output_tokens=output,
        prefix_group=np.where(repeated, pool, -1),
        prefix_tokens=np.where(repeated, prompt, 0),
        ttft_us=np.full(REQUESTS, np.nan),
        e2e_us=np.full(REQUESTS, np.nan),
        ok=np.ones(REQUESTS, np.bool_),
    )
    served = replay(run, deployment.tables, Parameters.of(truth))
    ttft = served.ttft_us * np.exp(rng.normal(0, TTFT_NOISE, REQUESTS))
    decode = (served.e2e_us - served.ttft_us) * np.exp(rng.normal(0, DECODE_NOISE, REQUESTS))
    return replace(run, ttft_us=ttft, e2e_us=ttft + decode)


def run_demo(seed: int, on_round: Callable[[int, int], None] | None = None) -> DemoResult:
    """Draw parameters, serve a run with them, fit it. The same seed gives the same result, byte for byte."""
    rng = np.random.default_rng(seed)
    deployment = deploy(MODEL, GPU, TP)
    truth = known_parameters(rng)
    run = synthetic_run(rng, deployment, truth)
    return DemoResult(run, truth, fit([run], prior=PACKAGE, on_round=on_round))
