"""This checkout against another, of 0.1.0 or later: replay, fit, start of the command and memory.

    python benchmarks/against.py --other PATH [--repeats 5] [--requests 16800]

The two take turns in processes of their own. On a machine that does nothing else, what is measured:

- replay: CodeLlama-34B on two H100, made-up requests as in `replay_speed.py`, with the package's prior;
- fit: the first 1,000 of these requests, at the latencies that the replay gives them with noise of 2 %;
- help: `roofml --help`, a process from beginning to end;
- memory: the most that the process held which did the replay and the fit.

The ratio is of medians, this checkout over the other: below 1 is faster, or smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from made_up import BUDGET, GPU, MODEL, TP, made_up_run

UNITS = {"replay": "s", "fit": "s", "help": "s", "memory": "MiB"}
HERE = Path(__file__).resolve().parents[1]
FITTED = 1000
NOISE = 0.02
REPLAYS = 3
"""In each process, of which the fastest counts: one takes a fraction of a second."""
HELP = "import sys; from roofml.cli.main import main; sys.argv = ['roofml', '--help']; main()"


@dataclass(frozen=True)
class Checkout:
    """What is timed of one checkout."""

    run_type: Callable[..., Any]
    server_type: Callable[..., Any]
    replay: Callable[[Any], Any]
    """A run -> its replay with the package's prior."""
    fit: Callable[[Any], Any]
    """A run -> the fit of it."""


def of_this_layout() -> Checkout:
    """Rooms by subject. Raises ImportError in a checkout of another layout."""
    from roofml.calibration.fit import fit_parameters
    from roofml.engine.replay import replay
    from roofml.latency.deployment import deploy
    from roofml.latency.parameters import PRIOR_VALUES, Parameters
    from roofml.traces.run import Run
    from roofml.traces.selection import Selection
    from roofml.traces.server import Server

    tables, parameters = deploy(MODEL, GPU, TP, BUDGET).tables, Parameters.of(PRIOR_VALUES)
    return Checkout(
        Run,
        Server,
        lambda run: replay(run, tables, parameters),
        lambda run: fit_parameters([Selection.between(run)], tables),
    )


def of_0_1_0() -> Checkout:
    """The modules of 0.1.0, by name, for this checkout has none of them. Raises ImportError where they are not."""
    from importlib import import_module

    def module(name: str) -> Any:
        return import_module(f"roofml.{name}")

    gpu = module("gpu").load_gpu(GPU)
    efficiency = module("efficiency").load_efficiency(gpu)
    tables = module("components").component_tables(module("model").load_model(MODEL), gpu, TP, BUDGET, efficiency)
    params = module("params")
    step, request = params.split(params.PRIOR_VALUES)
    replay, fit, run = module("replay").replay, module("fit").fit, module("runs.run")
    return Checkout(run.Run, run.Server, lambda run: replay(run, tables, step, request), lambda run: fit([run], tables))


def checkout() -> Checkout:
    """Whichever layout can be imported."""
    try:
        return of_this_layout()
    except ImportError:
        return of_0_1_0()


def seconds(job: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def measure(requests: int) -> dict[str, Any]:
    """Replay and fit, each after one that compiles, in this process; `answer` is what both checkouts should agree on.

    The same numbers come out of both only as far as their physics is the same.
    """
    layout = checkout()
    run = made_up_run(layout.run_type, layout.server_type, requests)
    small = made_up_run(layout.run_type, layout.server_type, min(FITTED, requests))
    served = layout.replay(small)
    noise = np.random.default_rng(1).normal(1.0, NOISE, len(served.e2e_us))
    small = replace(small, ttft_us=served.ttft_us * noise, e2e_us=served.e2e_us * noise)
    layout.fit(small)
    return {
        "replay": min(seconds(lambda: layout.replay(run)) for _ in range(REPLAYS)),
        "fit": seconds(lambda: layout.fit(small)),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "answer": float(layout.replay(run).e2e_us.mean()),
    }


def called(folder: Path, *arguments: str) -> str:
    """What a Python process prints that imports roofml from this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}: {' '.join(arguments)[:80]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def one_round(folder: Path, requests: int) -> dict[str, Any]:
    """Everything once, in processes of the checkout's own."""
    called(folder, "-c", HELP)  # bytecode, and the disk
    found = json.loads(called(folder, str(Path(__file__).resolve()), "--measure", "--requests", str(requests)))
    return {**found, "help": seconds(lambda: called(folder, "-c", HELP))}


def main() -> None:
    """Take turns, and print medians and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--other", type=Path, help="folder of another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16_800)
    parser.add_argument("--measure", action="store_true", help="measure the roofml that is imported, print JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.requests)))
        return
    if options.other is None:
        parser.error("--other: expected the folder of another checkout")
    folders = {"this": HERE, "other": options.other.resolve()}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    for repeat in range(options.repeats):
        for name in list(folders)[:: 1 if repeat % 2 == 0 else -1]:
            found[name].append(one_round(folders[name], options.requests))
    print(f"{'':8} {'this':>10} {'other':>10}      ratio  (medians of {options.repeats})")
    for what, unit in UNITS.items():
        this, other = (statistics.median(one[what] for one in found[name]) for name in folders)
        print(f"{what:8} {this:10.4g} {other:10.4g} {unit:4} {this / other:6.3f}")
    this, other = (found[name][0]["answer"] for name in folders)
    print(f"mean E2E of the replay: {this / 1e6:.6g} s and {other / 1e6:.6g} s")


if __name__ == "__main__":
    main()
