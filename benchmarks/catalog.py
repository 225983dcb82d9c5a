"""How long a catalogue of made-up deployments takes, with one worker and with two, and whether they agree to the byte.

`python benchmarks/catalog.py FOLDER [DEPLOYMENTS [WORKERS,WORKERS..]] [--real]`, by default 100 with 1 and then 2
workers of an embedded cluster; with `--real` on a `dask scheduler` and `dask worker` processes. A deployment has one
run of 150 requests; one run in ten is spoiled, in six ways, and in the end they are taken away, which may change
nothing. The models are those of the package's configs that fit, by their own physics, on one to eight GPUs: no two
deployments are alike, and each is served as physics says, at a pace of its own. Times are of the whole command,
processor seconds those of all processes. Needs the extra `cluster`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from made_up_folders import Ints, Serve, write_served

from roofml.calibration.prior import PACKAGE
from roofml.calibration.step_breakdown import time_us
from roofml.engine.replay import replay
from roofml.hardware.gpu import load_gpu
from roofml.latency.batch import Batch
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.feasibility import check_run, check_step
from roofml.latency.parameters import Parameters
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder
from roofml.workloads.load import Load

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
                    check_step(made.on_rank, load_gpu(gpu), tp, Batch(decode=[(4000, 29)]))
                    check_run(made.model, made.gpu, made.tp, loaded(made, *np.ones((3, 1), np.int64)))
                except InputError:
                    continue
                found.append(made)
    raise SystemExit(f"only {len(found)} deployments can be")


def write_fleet(folder: Path, count: int) -> None:
    """The runs of so many deployments, every tenth spoiled. Each is served as physics says, a little off."""
    for number, made in enumerate(deployments(count)):
        rng = np.random.default_rng(number)
        run = folder / made.gpu.name / f"tp{made.tp}" / made.model.name
        write_served(run, made.hf_repo, made.tp, served(made, rng), REQUESTS, rng, rate(made), gpu=made.gpu.name)
        if number % SPOILED == SPOILED - 1:
            spoil(run, number // SPOILED % 6)


def loaded(made: Deployment, sent: Ints, prompts: Ints, outputs: Ints) -> Run:
    """Requests on a server of the deployment, whose limits are those of `made_up_folders`."""
    server = Server(made.hf_repo, made.tp, 128, 2048, 16, 7462, 4096, gpu=made.gpu.name)
    return Load("made up", sent.astype(np.float64), prompts, outputs).run(server)


def rate(made: Deployment) -> float:
    """Requests a second at which some four of 70 tokens run at once: no more than eight, on a large model fewer."""
    step_us = time_us(made, Batch(decode=[(600, 8)]), Parameters.of(PACKAGE.values))
    return min(8.0, 4 / (70e-6 * step_us))


def served(made: Deployment, rng: np.random.Generator) -> Serve:
    """What the replay says by physics, at a pace of its own, and 1 % of noise in every request."""
    parameters = Parameters.of(PACKAGE.values).paced(float(np.exp(rng.normal(0, 0.05))))

    def serve(sent: Ints, prompts: Ints, outputs: Ints) -> tuple[Ints, Ints]:
        times = replay(loaded(made, sent, prompts, outputs), made.tables, parameters)
        off = np.exp(rng.normal(0, 0.01, len(sent)))
        first = times.ttft_us * off
        return first.astype(np.int64), ((times.e2e_us - times.ttft_us) * off).astype(np.int64)

    return serve


def spoil(run: Path, how: int) -> None:
    """Make a run unusable: empty, cut, no YAML, another column, only failures, an unknown model."""
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
    elif how == 4:
        trace.write_text("\n".join([lines[0], *(line.replace(",ok,", ",error,") for line in lines[1:])]))
    else:
        config = json.loads((run / "exp-config.yaml").read_text())
        (run / "exp-config.yaml").write_text(json.dumps({**config, "model": "nobody/Nothing-1b"}))


@dataclass(frozen=True)
class Made:
    """What a command came to."""

    wall_s: float
    cpu_s: float
    """Of all processes."""
    most_mb: float
    """Of the command itself."""
    said: dict[str, Any]
    files: dict[str, bytes]
    """Of the catalogue, without kept results."""

    @property
    def digest(self) -> str:
        """Of all files."""
        return digest(*(part for name, content in self.files.items() for part in (name, content)))


def made(folder: Path, catalog: Path, workers: int, real: bool) -> Made:
    """The command, with an embedded cluster or a real scheduler and workers."""
    command = [sys.executable, "-m", "roofml.cli.start", "catalog", "fit", folder / "runs", "-o", catalog, "--json"]
    with dask_cluster(folder, workers) if real else nullcontext(None) as cluster:
        where = ["--workers", str(workers)] if cluster is None else ["--scheduler", cluster.address]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        spent = 0.0 if cluster is None else cluster.cpu_s()
        done = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu += 0.0 if cluster is None else cluster.cpu_s() - spent
    files = sorted(path for path in catalog.rglob("*") if path.is_file() and "work" not in path.parts)
    contents = {str(path.relative_to(catalog)): path.read_bytes() for path in files}
    return Made(wall, cpu, after.ru_maxrss / 1024, json.loads(done.stdout), contents)


@dataclass(frozen=True)
class DaskCluster:
    """A scheduler and workers, processes of their own."""

    address: str
    processes: list[subprocess.Popen[bytes]]

    def cpu_s(self) -> float:
        """Processor seconds of all of them, and of what they started."""
        ours = {str(process.pid) for process in self.processes}
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if fields[3] in ours:  # its session
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Generator[DaskCluster]:
    """`dask scheduler` and so many `dask worker` of one thread, until the end of the block."""
    told, processes = folder / "scheduler.json", list[subprocess.Popen[bytes]]()
    told.unlink(missing_ok=True)
    local = ["--host", "127.0.0.1", "--no-dashboard"]

    def start(module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        nowhere = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, cwd=folder, start_new_session=True, stdout=nowhere, stderr=nowhere))

    try:
        start("dask_scheduler", *local, "--port", "0", "--scheduler-file", str(told.resolve()))
        while not told.exists():
            time.sleep(0.1)
        address = json.loads(told.read_text())["address"]
        for _ in range(workers):
            start("dask_worker", address, *local, "--nthreads", "1")
        yield DaskCluster(address, processes)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check_spoiled_cost_nothing(folder: Path, catalog: Path, first: Made, count: int) -> str:
    """Without the spoiled runs the same command computes nothing, and every coefficient is the same to the byte."""
    spoiled = sorted({failure["folder"] for failure in first.said["failures"] if failure["stage"] == "read"})
    wanted = count // SPOILED
    aside = folder / "spoiled"
    for name in spoiled:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs" / name).rename(aside / name)
    try:
        again = made(folder, catalog, 1, real=False)
    finally:
        for name in spoiled:
            (aside / name).rename(folder / "runs" / name)
    unlike = ("failures.json", "index.html")  # they list what failed
    same = all(first.files[name] == content for name, content in again.files.items() if name not in unlike)
    verdict = "the same bytes" if same else "OTHER BYTES"
    return f"without the {len(spoiled)} of {wanted} spoiled runs: {again.said['computed']} tasks, {verdict}"


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("deployments", type=int, nargs="?", default=100)
    parser.add_argument("workers", nargs="?", default="1,2")
    parser.add_argument("--real", action="store_true", help="on `dask scheduler` and `dask worker` processes")
    given = parser.parse_args()
    folder, count = given.folder, given.deployments
    if not (folder / "runs").exists():
        began = time.perf_counter()
        write_fleet(folder / "runs", count)
        print(f"{count} runs written in {time.perf_counter() - began:.0f} s", flush=True)
    first: tuple[int, Made] | None = None
    kind = "real" if given.real else "embedded"
    for workers in map(int, given.workers.split(",")):
        catalog = folder / f"catalog-{kind}-{workers}"
        shutil.rmtree(catalog, ignore_errors=True)
        one = made(folder, catalog, workers, given.real)
        first = first or (workers, one)
        rows, tasks = len(one.said["deployments"]), one.said["computed"]
        efficiency = first[0] * first[1].wall_s / (workers * one.wall_s)
        print(
            f"{kind}, {workers} workers: {one.wall_s:.0f} s, {one.cpu_s:.0f} processor s "
            f"({one.cpu_s / rows:.2f} a deployment), "
            f"{tasks} tasks, {tasks / one.wall_s:.1f} a second; {rows} deployments; efficiency {efficiency:.2f}; "
            f"{'the same bytes' if one.digest == first[1].digest else 'OTHER BYTES'}; {one.most_mb:.0f} MB at most",
            flush=True,
        )
    assert first is not None
    reasons = Counter((f["stage"], f["reason"].partition(":")[2][:60]) for f in first[1].said["failures"])
    for (stage, reason), number in sorted(reasons.items()):
        print(f"  {number} x {stage}: {reason.strip()}")
    print(check_spoiled_cost_nothing(folder, folder / f"catalog-{kind}-{first[0]}", first[1], count), flush=True)


if __name__ == "__main__":
    main()
