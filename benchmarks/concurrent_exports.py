"""Ten exports at once into the same files, again and again: what ended with 0 is in them, each other said why.

    python benchmarks/concurrent_exports.py --rounds 100

Every round begins with a `defaults.yaml` and a `hardware_config.json`. Seven exports are of seven deployments and want
the same defaults file, which holds one: one gets it and the others are refused. Three add each a GPU to the hardware
config, which has room for all. The processes have imported everything and start at one barrier.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from roofml.calibration.coefficients import BlisSection, read_coefficients, write_coefficients
from roofml.cli.main import run
from roofml.export import derive, edit, outcome, plan, verify  # pyright: ignore[reportUnusedImport]  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("a", "b", "c", "d", "e", "f", "g")
GPUS = ("H200", "B200", "L4")
BLIS = BlisSection(
    alpha_coeffs=[9000.0, 400.0, 3.0],
    beta_coeffs=[1.4, 0.0, 1.3, 1.0, 12.0, 2.0, 90.0, 0.0, 0.0, 1.8, 1.0],
    total_kv_blocks=7462,
    block_size=16,
    max_num_seqs=128,
    max_num_batched_tokens=2048,
    max_model_len=4096,
)


@dataclass(frozen=True)
class Ended:
    """How one export ended."""

    wanted: str
    """The model or GPU that it was to write."""
    status: int
    said: str


def main() -> None:
    """Run the rounds and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    done = refused = there = 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="concurrent-exports-") as name:
        jobs = prepare(Path(name))
        for _ in range(rounds):
            ended = one_round(Path(name), jobs)
            held = what_is_there(Path(name))
            done += sum(export.status == 0 for export in ended)
            refused += sum(export.status == 2 for export in ended)
            there += sum(export.wanted in held for export in ended)
            wrong += [fault for export in ended if (fault := fault_of(export, held))]
    print(
        f"{rounds} rounds of {len(jobs)} exports: {done} ended with 0, {refused} were refused, {there} are in the file"
    )
    for fault in wrong[:20]:
        print(fault, file=sys.stderr)
    sys.exit(1 if wrong or done != there else 0)


def prepare(folder: Path) -> list[tuple[str, list[str]]]:
    """Write the coefficients; return what each export is to write, and its arguments."""
    base = read_coefficients(next(ROOT.glob("coeffs/*h100*.yaml")))
    files = ["--defaults", str(folder / "defaults.yaml")], ["--hardware-config", str(folder / "hw.json"), "--flags"]
    jobs: list[tuple[str, list[str]]] = []
    for name in (*MODELS, *GPUS):
        change = {"gpu": name} if name in GPUS else {"model": base.model.model_copy(update={"name": f"model-{name}"})}
        path = folder / f"{name}.yaml"
        write_coefficients(path, base.model_copy(update={**change, "blis": BLIS}))
        jobs.append((name, ["export", "blis", str(path), *files[name in GPUS]]))
    return jobs


def one_round(folder: Path, jobs: Sequence[tuple[str, list[str]]]) -> list[Ended]:
    """Begin with fresh files, run all exports at once."""
    for path in folder.glob("*.bak*"):
        path.unlink()
    (folder / "defaults.yaml").write_text("version: 1  # mine\n", encoding="utf-8")
    (folder / "hw.json").write_text("{}\n", encoding="utf-8")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(jobs))
    pipes = [context.Pipe(duplex=False) for _ in jobs]
    children = [
        context.Process(target=export, args=(arguments, barrier, sender), daemon=True)
        for (_, arguments), (_, sender) in zip(jobs, pipes, strict=True)
    ]
    for child in children:
        child.start()
    ended = [
        Ended(name, *receiver.recv()) if receiver.poll(60) else Ended(name, -1, "did not end")
        for (name, _), (receiver, _) in zip(jobs, pipes, strict=True)
    ]
    for child in children:
        child.join(5)
    return ended


def export(arguments: list[str], barrier: Barrier, sender: Connection) -> None:
    """Run one export in a process of its own, when all are ready."""
    out, err = StringIO(), StringIO()
    barrier.wait(60)
    with redirect_stdout(out), redirect_stderr(err):
        status = run(arguments)
    sender.send((status, err.getvalue()))
    sender.close()
    os._exit(0)


def what_is_there(folder: Path) -> set[str]:
    """The models and GPUs that are in the files."""
    text = (folder / "defaults.yaml").read_text("utf-8")
    models = {name for name in MODELS if f"--model model-{name} " in text and f"\n  model-{name}:\n" in text}
    return models | set(json.loads((folder / "hw.json").read_text("utf-8")))


def fault_of(ended: Ended, held: set[str]) -> str:
    """What is wrong with how an export ended; empty if nothing is."""
    if ended.status == 0:
        return "" if ended.wanted in held else f"{ended.wanted}: ended with 0 and is not in the file"
    # A warning of what the file held at first may stand before the refusal.
    said = [line for line in ended.said.splitlines() if not line.startswith("warning: ")]
    if ended.status == 2 and len(said) == 1 and "holds roofml's coefficients of" in said[0]:
        return f"{ended.wanted}: was refused and is in the file" if ended.wanted in held else ""
    return f"{ended.wanted}: ended with {ended.status}: {ended.said}"


if __name__ == "__main__":
    main()
