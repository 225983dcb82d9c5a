"""Commands killed and interrupted at random moments: is anything half-written, left behind, or different afterwards?

    python benchmarks/kill_anywhere.py [--moments 50] [--seed 0] [--only fit leaderboard export]

Each command runs on made-up runs, once to its end for its outputs and its time, and then again and again until a moment
drawn from that time. Killed (SIGKILL), its outputs must be as before, or as after the whole run, and never in between;
the next run must remove what the killed one left, and write the same bytes. Interrupted (SIGINT, SIGTERM), it must end
by itself within two seconds, with the exit status of that signal, one line, no process and no temporary file. Exits
with 1 if anything was not so. Needs Linux: processes are found in /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from made_up_folders import GPU, LARGE, write_run

LONGEST_S = 2.0
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
ENTRY = [sys.executable, "-m", "roofml.cli.start"]


@dataclass(frozen=True)
class Job:
    """A command, and the files it writes into its folder. `before` are there when it starts."""

    name: str
    arguments: Sequence[str]
    outputs: Sequence[str]
    before: Sequence[Path] = ()


@dataclass
class Tally:
    """What came of the runs of one job that got one signal."""

    runs: int = 0
    finished: int = 0
    """Those that had ended before their moment."""
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list[str])

    def row(self, job: str, number: signal.Signals) -> str:
        """A row of the table."""
        slowest = "-" if number is signal.SIGKILL else f"{self.slowest_s:.2f} s"
        return f"| {job} | {number.name} | {self.runs} | {self.finished} | {slowest} | {len(self.faults)} |"


def jobs(folder: Path) -> list[Job]:
    """The jobs, with what they need written into `folder`."""
    runs = [str(write_run(folder / name, seed=seed)) for seed, name in enumerate(("first", "second"))]
    large = str(write_run(folder / "large", LARGE, seed=2))
    fit = ["fit", *runs, "--gpu", GPU]
    coefficients, defaults = folder / "blis.yaml", folder / "defaults.yaml"
    subprocess.run([*ENTRY, *fit, "--target", "blis", "-o", str(coefficients), "--quiet"], check=True)
    defaults.write_text("version: 1\ndefaults: {}\n", encoding="utf-8")
    methods = ["--protocol", "temporal", "--method", "naive-mean", "--method", "blackbox", "--method", "roofml"]
    return [
        Job("fit", [*fit, "-o", "coefficients.yaml"], ["coefficients.yaml"]),
        Job(
            "leaderboard",
            [
                "leaderboard",
                *runs,
                large,
                "--gpu",
                GPU,
                *methods,
                "--cells",
                "cells",
                "--workers",
                "2",
                "-o",
                "board.md",
            ],
            ["board.md", "board.json", "board.png"],
        ),
        Job(
            "export",
            ["export", "blis", str(coefficients), "--defaults", "defaults.yaml", "--no-backup"],
            ["defaults.yaml"],
            [defaults],
        ),
    ]


def contents(folder: Path, names: Sequence[str]) -> list[bytes | None]:
    """What is in these files; None for one that is not there."""
    return [(folder / name).read_bytes() if (folder / name).exists() else None for name in names]


def leftovers(folder: Path, *, locks: bool = True) -> list[str]:
    """Temporary files, and lock files, of ours."""
    kinds = (".tmp", ".lock") if locks else (".tmp",)
    found = (path for path in folder.rglob(".roofml-*") if path.is_file())
    return [str(path.relative_to(folder)) for path in found if path.name.endswith(kinds)]


def marked(mark: str) -> list[int]:
    """Processes with this in their environment."""
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


def fresh(job: Job, scratch: Path) -> Path:
    """A folder for one run of a job."""
    folder = scratch / uuid.uuid4().hex
    folder.mkdir()
    for file in job.before:
        shutil.copy(file, folder)
    return folder


def whole(job: Job, folder: Path) -> tuple[list[bytes | None], float]:
    """What a job writes in `folder` when it is left alone, and the seconds it takes."""
    begin = time.monotonic()
    subprocess.run([*ENTRY, *job.arguments], cwd=folder, check=True, capture_output=True)
    return contents(folder, job.outputs), time.monotonic() - begin


def until(job: Job, folder: Path, moment_s: float, number: signal.Signals, tally: Tally) -> bool:
    """Run a job until it gets a signal, and judge its end; False if it had ended before."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [*ENTRY, *job.arguments], cwd=folder, env={**os.environ, "MARK": mark, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(moment_s)
        process.communicate()
        return False
    except subprocess.TimeoutExpired:
        pass
    begin = time.monotonic()
    process.send_signal(number)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        tally.faults.append(f"{moment_s:.2f} s: still there after 20 s")
    seconds = time.monotonic() - begin
    if number is signal.SIGKILL:
        time.sleep(1.0)  # workers see for themselves that nobody waits for them
    left = marked(mark)
    if left:
        tally.faults.append(f"{moment_s:.2f} s: {len(left)} processes are left")
        for process_id in left:
            os.kill(process_id, signal.SIGKILL)
    _, said = process.communicate()
    if number is signal.SIGKILL or process.returncode == 0:  # 0: it was done when the signal came
        return process.returncode != 0
    tally.slowest_s = max(tally.slowest_s, seconds)
    if seconds > LONGEST_S:
        tally.faults.append(f"{moment_s:.2f} s: took {seconds:.1f} s")
    if process.returncode != 128 + number or said != "roofml: interrupted\n":
        tally.faults.append(f"{moment_s:.2f} s: exit status {process.returncode}, said {said[-300:]!r}")
    if leftovers(folder):
        tally.faults.append(f"{moment_s:.2f} s: left {leftovers(folder)}")
    return True


def torment(
    job: Job, scratch: Path, number: signal.Signals, moments: Sequence[float], outputs: list[bytes | None]
) -> Tally:
    """Run a job until each of the moments, and then to its end in the same folder."""
    tally = Tally()
    for moment_s in moments:
        tally.runs += 1
        folder = fresh(job, scratch)
        before = contents(folder, job.outputs)
        if not until(job, folder, moment_s, number, tally):
            tally.finished += 1
        for name, now, *known in zip(job.outputs, contents(folder, job.outputs), before, outputs, strict=True):
            if now not in known:
                tally.faults.append(f"{moment_s:.2f} s: {name} is half-written")
        try:
            again, _ = whole(job, folder)
        except subprocess.CalledProcessError as error:
            tally.faults.append(f"{moment_s:.2f} s: the next run fails: {error.stderr.decode()[-300:]!r}")
            continue
        if again != outputs:
            tally.faults.append(f"{moment_s:.2f} s: the next run writes other bytes")
        if leftovers(folder, locks=False):
            tally.faults.append(f"{moment_s:.2f} s: the next run leaves {leftovers(folder, locks=False)}")
        shutil.rmtree(folder)
    return tally


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=5, help="Of each signal and command.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="Names of jobs.")
    options = parser.parse_args()
    rng, faults = random.Random(options.seed), list[str]()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        chosen = [job for job in jobs(scratch) if not options.only or job.name in options.only]
        print(
            "| command | signal | runs | ended before | slowest end | faults |\n|---|---|---:|---:|---:|---:|",
            flush=True,
        )
        for job in chosen:
            outputs, seconds = whole(job, fresh(job, scratch))
            for number in SIGNALS:
                moments = sorted(rng.uniform(0.1, seconds) for _ in range(options.moments))
                tally = torment(job, scratch, number, moments, outputs)
                faults += [f"{job.name}, {number.name}: {fault}" for fault in tally.faults]
                print(tally.row(job.name, number), flush=True)
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
