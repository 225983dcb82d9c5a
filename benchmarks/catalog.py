"""How long a catalogue of made-up deployments takes, with one worker and with two, and whether they agree to the byte.

`python benchmarks/catalog.py FOLDER [DEPLOYMENTS [WORKERS,WORKERS..]]`, by default 100 with 1 and then 2 workers. Every
deployment has one run of 150 requests; one run in ten is spoiled, in five ways. The models are those of the package's
configs that fit, by their own physics, on one to eight GPUs: no two deployments are alike, and each is served as
quickly as physics says, give or take what the seed says. Times are of the whole command, processor seconds those of all
its processes. Needs the extra `cluster`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from made_up_folders import write_run

from roofml.hardware.gpu import load_gpu
from roofml.latency.batch import Batch
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.feasibility import check_step
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

GPUS, SIZES = ("H100", "H200", "A100", "B200", "L40S"), (1, 2, 4, 8)
REQUESTS = 150
SPOILED = 10
"""One run of so many."""


def deployments(count: int) -> list[Deployment]:
    """So many that can be, models first: neighbours in the list share a GPU and its size."""
    found: list[Deployment] = []
    models = sorted(path.parent.name for path in data_folder("model_configs").glob("*/config.json"))
    for gpu in GPUS:
        for tp in SIZES:
            for model in models:
                if len(found) == count:
                    return found
                try:
                    made = deploy(model, gpu, tp, budget=2048)
                    check_step(made.on_rank, load_gpu(gpu), tp, Batch(decode=[(900, 16)]))
                except InputError:
                    continue
                found.append(made)
    raise SystemExit(f"only {len(found)} deployments can be")


def write_fleet(folder: Path, count: int) -> None:
    """The runs of so many deployments, every tenth spoiled."""
    from roofml.calibration.calibrate import uncalibrated

    for number, made in enumerate(deployments(count)):
        calibration = uncalibrated(made)
        draw = np.random.default_rng(number).normal(0, 0.03)
        step_us = calibration.step_time(Batch(decode=[(600, 6)])).total_us * (1 + draw)
        first_us = calibration.step_time(Batch(prefill=[(512, 0)], decode=[(600, 6)])).total_us * (1.5 + draw)
        served = (made.hf_repo, made.tp, int(first_us), int(step_us))
        run = write_run(folder / made.gpu.name / f"tp{made.tp}" / f"{made.model.name}", served, REQUESTS, number)
        config = json.loads((run / "exp-config.yaml").read_text())
        (run / "exp-config.yaml").write_text(json.dumps({**config, "gpu": made.gpu.name}))
        if number % SPOILED == SPOILED - 1:
            spoil(run, number // SPOILED % 5)


def spoil(run: Path, how: int) -> None:
    """Make a run unusable."""
    trace = run / "trace.csv"
    lines = trace.read_text().splitlines()
    if how == 0:
        trace.write_text("")
    elif how == 1:
        trace.write_text("\n".join([lines[0], "not,a,row", *lines[2:]]))
    elif how == 2:
        (run / "trace.yaml").write_text("{")
    elif how == 3:
        trace.write_text("\n".join([lines[0].replace("output_tokens", "tokens_out"), *lines[1:]]))
    else:
        trace.write_text("\n".join([lines[0], *(line.replace(",ok,", ",error,") for line in lines[1:])]))


def made(folder: Path, workers: int) -> tuple[float, float, dict[str, Any], str]:
    """Wall and processor seconds of the command, what it said, and a digest of the catalogue's files."""
    catalog = folder / f"catalog-{workers}"
    command = [sys.executable, "-m", "roofml.cli.start", "catalog", "fit", folder / "runs", "-o", catalog]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*command, "--workers", str(workers), "--json"], capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files = sorted(path for path in catalog.rglob("*") if path.is_file() and "work" not in path.parts)
    parts = [part for path in files for part in (str(path.relative_to(catalog)), path.read_bytes())]
    return wall, cpu, json.loads(done.stdout), digest(*parts)


def main() -> None:
    """Print a line for each number of workers."""
    if not 2 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    numbers = [int(text) for text in sys.argv[3].split(",")] if len(sys.argv) > 3 else [1, 2]
    if not (folder / "runs").exists():
        write_fleet(folder / "runs", count)
    first: tuple[float, str] | None = None
    for workers in numbers:
        wall, cpu, said, bytes_of = made(folder, workers)
        rows, failures = said["deployments"], said["failures"]
        first = first or (wall * workers, bytes_of)
        print(
            f"{workers} workers: {wall:.0f} s, {cpu:.0f} processor s; {len(rows)} deployments, {len(failures)} failed, "
            f"{said['computed']} tasks; efficiency {first[0] / (wall * workers):.2f}; "
            f"{'the same bytes' if bytes_of == first[1] else 'OTHER BYTES'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
