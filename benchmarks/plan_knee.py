"""The knee that a plan finds against a brute-force scan, on random deployments and loads; and how long a plan takes.

    python benchmarks/plan_knee.py [DEPLOYMENTS] [sessions]

Each deployment (by default 50) is a model, GPU, tensor parallel size and limits drawn at random, under a load and
SLOs drawn at random; with `sessions` its requests are turns that wait for each other's answers. The scan tries every
rate from 25 % below to 25 % above the answer, half a per cent apart, by the same seeds.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.servers import server_for
from roofml.latency.deployment import deploy
from roofml.planning.capacity import NotMetError, capacity, knee
from roofml.planning.trials import Trials, targets_of
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import parse_spec

MODELS = (
    "llama-2-7b-hf",
    "llama-3.1-8b-instruct",
    "codellama-34b-instruct-hf",
    "mixtral-8x7b-v0.1",
    "qwen3-8b",
    "mistral-7b-v0.1",
)
GPUS = ("H100", "H200", "A100", "L40S", "B200")
ARRIVALS = ("poisson:rate=1", "gamma:rate=1,burstiness=0.4", "constant:rate=1")
INPUTS = ("300", "uniform(100,900)", "lognormal(800,0.7)", "2000")
OUTPUTS = ("60", "uniform(20,300)", "exponential(150)", "256")
SESSIONS = ("turns=3,think=exponential(2)", "turns=8,think=exponential(10)", "turns=5,think=0")
SLOS = (
    ("p95 ttft < 500ms",),
    ("p50 ttft < 300ms", "mean tpot < 40ms"),
    ("p99 ttft < 2s", "p95 tpot < 60ms"),
    ("p95 e2e < 12s",),
    ("mean e2e < 8s", "p95 ttft < 1s"),
)


def main(count: int, of_sessions: bool) -> None:
    """Print a row for each deployment, and the sums."""
    random = np.random.default_rng(7)
    print("| deployment | load | SLOs | plan | scan | off | plan, s | processor s |")
    print("|---|---|---|---:|---:|---:|---:|---:|", flush=True)
    off: list[float] = []
    walls: list[float] = []
    while len(off) < count:
        model, gpu = str(random.choice(MODELS)), str(random.choice(GPUS))
        tp, seats = int(random.choice([1, 2, 4])), int(random.choice([32, 128, 256]))
        line = f"{random.choice(ARRIVALS)},input={random.choice(INPUTS)},output={random.choice(OUTPUTS)}"
        slos = SLOS[int(random.integers(len(SLOS)))]
        if of_sessions:
            line += f",{random.choice(SESSIONS)}"
        try:
            calibration = uncalibrated(deploy(model, gpu, tp))
            server = server_for(calibration, ServerOverrides(max_num_seqs=seats, max_num_batched_tokens=2048))
            calibration = replace(calibration, deployment=calibration.deployment.serving(server))
            workload = parse_spec(line)
            targets = targets_of(workload, parse_slos(slos))
            before, worked = time.perf_counter(), time.process_time()
            found = capacity(Trials(calibration, workload, server, targets))
            wall, worked = time.perf_counter() - before, time.process_time() - worked
        except NotMetError:
            continue
        except InputError:  # it does not fit
            continue
        scan = Trials(calibration, workload, server, targets)
        full = scan.flood()
        rates = found.level.value * np.exp(np.arange(-0.25, 0.25, 0.005))
        brute, _ = knee([scan.at(float(rate)) for rate in rates if rate < full], targets, full)
        off.append(100 * (found.level.value / brute - 1))
        walls.append(wall)
        name = f"{model}, {tp} x {gpu}, {seats} seats"
        print(
            f"| {name} | {line} | {', '.join(slos)} | {found.level.value:.4g} | {brute:.4g} | {off[-1]:+.2f} % | "
            f"{wall:.2f} | {worked:.2f} |",
            flush=True,
        )
    worst, within = np.max(np.abs(off)), np.mean(np.abs(off) <= 1)
    print(f"of {len(off)}: worst {worst:.2f} %, within 1 % {100 * within:.0f} %; a plan takes {np.median(walls):.2f} s "
          f"(median), at most {np.max(walls):.2f}")  # fmt: skip


if __name__ == "__main__":
    words = sys.argv[1:]
    main(next((int(word) for word in words if word.isdigit()), 50), "sessions" in words)
