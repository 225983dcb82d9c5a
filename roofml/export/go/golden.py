"""Golden data: batches and whole runs with the times that our own formula and replay give them, for tests in Go.

A run's schedule says sums and not requests. Served first come, first served and without preemptions, it can be told
request by request: those that decode are in every step, and what is left of a step are the next tokens of prompts, in
order of arrival. What is told so is held against the sums of every step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay, replay
from roofml.latency.batch import Request, StepSums
from roofml.latency.deployment import Deployment
from roofml.latency.formula import step_times
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats

BATCHES = 60
RUNS = 2
REQUESTS = 40
"""Of one run."""

Steps = list[list[tuple[int, int]]]
"""Of every step, the requests in it: number and new tokens."""


def golden_text(name: str, calibration: Calibration, runs: int = RUNS, seed: int = 0) -> str:
    """The golden data of one artifact, JSON. The same every time."""
    random = np.random.default_rng(seed)
    batches = made_up_batches(random, BATCHES)
    times = batch_times(calibration, batches)
    rows = [{"requests": batch, "us": time} for batch, time in zip(batches, times.tolist(), strict=True)]
    served = [golden_run(calibration, made_up_run(calibration.deployment, random)) for _ in range(runs)]
    lines = ",\n".join(json.dumps(row) for row in rows)
    told = ",\n".join(json.dumps(run) for run in served)
    return f'{{"artifact": {json.dumps(name)},\n"batches": [\n{lines}\n],\n"runs": [\n{told}\n]}}\n'


def made_up_batches(random: np.random.Generator, count: int) -> list[list[Request]]:
    """Steps of few and many requests, short and long contexts, with prompts, without, and of prompts alone."""
    batches: list[list[Request]] = [[(1, 1, 1)], [(1, 0, 1)], [(16_000, 0, 16_000)]]
    while len(batches) < count:
        decodes, prompts = int(random.choice([0, 1, 3, 8, 30, 128, 256, 700])), int(random.choice([0, 0, 1, 2, 5]))
        if decodes + prompts == 0:
            continue
        longest = int(random.choice([50, 900, 1100, 20_000, 120_000]))
        contexts: list[int] = random.integers(1, longest + 1, decodes).tolist()
        batch: list[Request] = [(1, int(context), int(random.integers(1, context + 1))) for context in contexts]
        for _ in range(prompts):
            new, before = int(random.integers(1, 2500)), int(random.integers(0, longest))
            batch.append((new, before, before + new + int(random.integers(0, 500))))
        batches.append([batch[i] for i in random.permutation(len(batch))])
    return batches


def batch_times(calibration: Calibration, batches: Sequence[Sequence[Request]]) -> Floats:
    """Their times by our formula, (batches,), µs."""
    tables = calibration.deployment.tables
    sums = StepSums.from_requests(batches, tables.reaches, int(tables.verified))
    return step_times(tables, sums, calibration.parameters.step)


def made_up_run(deployment: Deployment, random: np.random.Generator, requests: int = REQUESTS) -> Run:
    """A run of few requests, now crowded and now alone, on a server that may be of either kind of scheduling."""
    repeats = int(random.integers(2, 8))
    group = random.integers(0, repeats, requests)
    prompt = random.integers(2, 1200, repeats)[group]
    server = Server(
        model=deployment.hf_repo,
        tensor_parallel=deployment.tp,
        max_num_seqs=int(random.integers(4, 64)),
        max_num_batched_tokens=int(random.choice([256, 512, 2048])),
        block_size=16,
        num_gpu_blocks=100_000,
        max_model_len=2048,
        gpu=deployment.gpu.name,
        async_scheduling=bool(random.integers(0, 2)),
        prefix_caching=bool(random.integers(0, 2)),
    )
    unknown = np.full(requests, np.nan)
    return Run(
        name="golden",
        server=server,
        request_id=np.arange(requests),
        arrival_us=np.cumsum(random.exponential(random.choice([1e3, 3e4, 3e5], requests))),
        prompt_tokens=prompt,
        output_tokens=random.integers(1, 40, requests),
        prefix_group=group,
        prefix_tokens=prompt,
        ttft_us=unknown,
        e2e_us=unknown,
        ok=np.ones(requests, np.bool_),
    )


def golden_run(calibration: Calibration, run: Run) -> dict[str, Any]:
    """The run as we serve it: its requests, which of them each step computed, and their latencies."""
    tables = calibration.deployment.tables
    served = replay(run, tables, calibration.parameters)
    schedule = served.schedule
    steps = told_by_request(run, served, calibration.deployment)
    return {
        "requests": [
            {"arrival_us": arrival, "running": running, "prompt_tokens": prompt, "cached_tokens": cached}
            for arrival, running, prompt, cached in zip(
                schedule.arrival_us.tolist(),
                schedule.running_at_arrival.tolist(),
                run.prompt_tokens.tolist(),
                schedule.cached_tokens.tolist(),
                strict=True,
            )
        ],
        "steps": steps,
        "cold_steps": np.flatnonzero(schedule.cold[0]).tolist(),
        "cold_kernels": np.flatnonzero(schedule.cold[1]).tolist(),
        "ttft_us": served.ttft_us.tolist(),
        "e2e_us": served.e2e_us.tolist(),
    }


def told_by_request(run: Run, served: Replay, deployment: Deployment) -> Steps:
    """Which requests every step computed, and how many tokens of each.

    Raises ValueError where the schedule cannot be told so: a request was preempted, or not first come, first served.
    """
    schedule, tables = served.schedule, deployment.tables
    context = schedule.cached_tokens.copy()
    steps: Steps = []
    batches: list[list[Request]] = []
    computing: list[int] = []
    coming = 0
    for number in range(schedule.steps.length):
        decoding = np.flatnonzero((schedule.first_step < number) & (number <= schedule.last_step))
        rows = [(int(r), 1) for r in decoding]
        left = int(schedule.steps.prefill_tokens[number])
        prompts = int(schedule.steps.requests[number]) - len(rows)
        while len(computing) < prompts and coming < len(run):
            computing.append(coming)
            coming += 1
        for r in computing:
            new = min(left, int(run.prompt_tokens[r] - context[r]))
            rows.append((r, new))
            left -= new
        batches.append([(new, int(context[r]), int(run.prompt_tokens[r])) for r, new in rows])
        for r, new in rows:
            context[r] += new
        computing = [r for r in computing if context[r] < run.prompt_tokens[r]]
        steps.append(rows)
    try:
        told = StepSums.from_requests(batches, tables.reaches, int(tables.verified))
        alike = np.array_equal(told.columns(), schedule.steps.columns())
    except ValueError:
        alike = False
    if not alike:
        raise ValueError(f"{run.name}: its schedule cannot be told request by request")
    return steps
