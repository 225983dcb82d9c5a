"""How fast is a replay? Steps per second of a run like the real ones, beside BLIS's figure for such a run.

    python benchmarks/replay_speed.py [--requests 16800] [--repeats 5]

The run is made up: CodeLlama-34B on two H100, 16,800 requests at 10, then 25 a second, prompts of about 575 tokens out
of 100 that repeat, 247 output tokens each, on the server of BLIS.md's runs (128 seats, 2,048 tokens a step, 26,602
blocks of 16). BLIS took 14.6 s for such a run (BLIS.md, codellama-34b general); its steps per second are taken as the
same number of steps over that time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from made_up import BUDGET, GPU, MODEL, TP, made_up_run

from roofml.engine.replay import replay
from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.batch import StepSums
from roofml.latency.components import component_tables
from roofml.latency.formula import step_times
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.models.load import load_model
from roofml.traces.run import Run
from roofml.traces.server import Server

BLIS_SECONDS = 14.6
"""BLIS's replay of codellama-34b general, 16,800 requests."""
BLIS_REQUESTS = 16_800


def mixed_batches(steps: int) -> StepSums:
    """Batches of 1 to 128 decodes at contexts around 700, every other with a chunk of a prompt."""
    rng = np.random.default_rng(0)
    decodes = rng.integers(1, 129, steps).astype(np.float64)
    chunk = rng.integers(1, 600, steps) * (np.arange(steps) % 2.0)
    context = rng.integers(0, 1000, steps).astype(np.float64) * (chunk > 0.0)
    pairs = chunk * (context + (chunk + 1) / 2)
    return StepSums(chunk, decodes, decodes + (chunk > 0), pairs, context, 700 * decodes, 0 * decodes)


def fastest(job: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs, after one that compiles and warms up."""
    job()
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=BLIS_REQUESTS)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    gpu = load_gpu(GPU)
    tables = component_tables(load_model(MODEL), gpu, TP, BUDGET, load_efficiency(gpu))
    parameters = Parameters.of(PRIOR_VALUES)
    run = made_up_run(Run, Server, options.requests)
    schedule = replay(run, tables, parameters).schedule
    steps = schedule.steps.length
    seconds = fastest(lambda: replay(run, tables, parameters), options.repeats)
    blis_seconds = BLIS_SECONDS * options.requests / BLIS_REQUESTS
    print(
        f"replay      {options.requests:,} requests, {steps:,} steps, {schedule.steps.requests.mean():.0f} requests a"
    )
    print(f"            step, {schedule.cached_tokens.sum() / run.prompt_tokens.sum():.0%} of prompt tokens cached")
    print(f"            {seconds:.4f} s, {steps / seconds:,.0f} steps/s (fastest of {options.repeats})")
    print(f"BLIS        {blis_seconds:.1f} s, {steps / blis_seconds:,.0f} steps/s")
    print(f"ratio       {blis_seconds / seconds:,.0f}")

    batches = mixed_batches(1_000_000)
    seconds = fastest(lambda: step_times(tables, batches, parameters.step), options.repeats)
    print(f"step_times  {batches.length:,} mixed batches: {seconds:.3f} s, {batches.length / seconds:,.0f} steps/s")

    requests_of_one = [(1, 400 + 5 * i, 400) for i in range(127)] + [(100, 200, 400)]

    def a_thousand_single_steps() -> None:
        for _ in range(1000):
            step_times(tables, StepSums.from_requests([requests_of_one]), parameters.step)

    print(f"            one step from its list of 128 requests: {1e3 * fastest(a_thousand_single_steps, 3):.0f} µs")


if __name__ == "__main__":
    main()
