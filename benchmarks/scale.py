"""What many requests cost: processor time and memory of `doctor`, `replay` and `fit` by the number of requests.

    python benchmarks/scale.py FOLDER [--requests 10000,100000,1000000] [--commands doctor,fit] [--against CHECKOUT]

FOLDER keeps the traces (TraceV2, 170 MB a million requests), made on the first run: CodeLlama-34B on two H100,
requests at 10, then 20 a second, prompts out of 100 that repeat, 60 output tokens, latencies by our own replay with a
scatter of 1 %. Each figure is of one whole process; with CHECKOUT, another checkout's code does the same in turn, and
the ratio is printed. Compiled code is in the cache before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from made_up import GPU, MODEL, TP, made_up_run

from roofml.calibration.calibrate import physics
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.traces.tracev2 import COLUMNS

HERE = Path(__file__).resolve().parent.parent
MIB = 1024.0
PROGRAM = """
import sys
from pathlib import Path
from roofml.cli import start
start._clean_environment()
from roofml.cli.main import run
status = run()
print(Path("/proc/self/status").read_text(), file=sys.stderr)
sys.exit(status)
"""
"""A command that says its peak memory at its end. The system's own account would count the parent's memory too."""


def write_trace(folder: Path, requests: int) -> None:
    """A run folder of so many requests, as a client would have recorded them."""
    made: Run = made_up_run(Run, Server, requests)
    made = replace(made, arrival_us=made.arrival_us, output_tokens=np.full(requests, 60, np.int64))
    served = physics(MODEL, GPU, TP).replay(made)
    rng = np.random.default_rng(1)
    send = made.arrival_us.astype(np.int64) + 1_000_000
    first = send + (served.ttft_us * rng.normal(1, 0.01, requests)).astype(np.int64)
    decode = (served.e2e_us - served.ttft_us) * rng.normal(1, 0.01, requests)
    last = first + decode.astype(np.int64)
    cells = dict.fromkeys(COLUMNS, "0") | dict.fromkeys(
        ("client_id", "tenant_id", "slo_class", "session_id", "prefix_group", "error_message", "finish_reason"), ""
    )
    cells |= {"model": MODEL, "status": "ok", "streaming": "true", "output_tokens": "60", "num_chunks": "60"}
    columns = {
        "request_id": made.request_id,
        "input_tokens": made.prompt_tokens,
        "text_tokens": made.prompt_tokens,
        "arrival_time_us": send,
        "send_time_us": send,
        "first_chunk_time_us": first,
        "last_chunk_time_us": last,
    }
    template = ",".join("%d" if name in columns else cells[name] for name in COLUMNS)
    values = np.column_stack([columns[name] for name in COLUMNS if name in columns])
    folder.mkdir(parents=True)
    with (folder / "trace.csv").open("w", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        np.savetxt(file, values, template)
    server = {"type": "vllm", "version": "0.15.1", "model": MODEL, "tensor_parallel": TP, "max_num_seqs": 128}
    server |= {"block_size": 16, "max_model_len": 4096}
    header = {"trace_version": 2, "time_unit": "us", "mode": "real", "warm_up_requests": 0, "server": server}
    settings = {"model": MODEL, "tensor_parallelism": TP, "max_num_batched_tokens": 2048, "gpu": GPU}
    for name, document in (
        ("trace", header),
        ("exp-config", settings),
        ("kv-cache", {"block_size": 16, "num_gpu_blocks": 26_602}),
    ):
        (folder / f"{name}.yaml").write_text(json.dumps(document), encoding="utf-8")


def command(name: str, run: Path, out: Path) -> list[str]:
    """The command line of one job on a run."""
    coefficients = out / "coefficients.yaml"
    return {
        "doctor": ["doctor", str(run), "--json"],
        "replay": [
            "replay",
            str(run),
            "--coeffs",
            str(HERE / "coeffs/codellama-34b-instruct-hf-h100-tp2.yaml"),
            "--json",
        ],
        "fit": ["fit", str(run), "-o", str(coefficients)],
    }[name]


def cost(checkout: Path, arguments: Sequence[str]) -> tuple[float, float]:
    """Processor seconds and peak memory (MiB) of one command by the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=checkout,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    peak = re.search(r"VmHWM:\s+(\d+) kB", said)
    if status or peak is None:
        raise SystemExit(f"roofml {' '.join(arguments)}: {said[-2000:]}")
    return used.ru_utime + used.ru_stime, int(peak[1]) / MIB


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("--requests", default="10000,100000,1000000")
    parser.add_argument("--commands", default="doctor,replay,fit")
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.requests.split(",")]
    checkouts = [HERE] if arguments.against is None else [HERE, arguments.against]
    for size in sizes:
        if not (arguments.folder / str(size)).exists():
            write_trace(arguments.folder / str(size), size)
    for name in arguments.commands.split(","):
        for size in sizes:
            line = command(name, arguments.folder / str(size), arguments.folder)
            if size == sizes[0]:
                for checkout in checkouts:
                    cost(checkout, line)  # compiles
            found = [cost(checkout, line) for checkout in checkouts]
            shown = "  ".join(f"{seconds:7.1f} s {memory:7.0f} MiB" for seconds, memory in found)
            ratio = (
                "" if len(found) == 1 else f"  ratio {found[0][0] / found[1][0]:.2f} {found[0][1] / found[1][1]:.2f}"
            )
            print(f"{name:8}{size:>10,}  {shown}{ratio}", flush=True)


if __name__ == "__main__":
    main()
