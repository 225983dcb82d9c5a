"""Answers as `blis replay` and `blis calibrate` do, for machines without that binary.

    python benchmarks/blis_stand_in.py replay|calibrate FLAGS...

It reads the files as BLIS does: strictly, a request of another model is never served, the first row of a prefix group
sets its length, `send_time_us` is the arrival. Requests are served by our replay of BLIS, which the tests hold against
the real one's answers, µs by µs. It says on standard error that it is not BLIS.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from roofml.blis.deployment import BlisDeployment, Hardware
from roofml.blis.model_view import blis_model
from roofml.blis.replay import replay
from roofml.export.defaults import TOP_LEVEL_KEYS
from roofml.export.hardware import FIELDS
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.traces.tracev2 import COLUMNS
from roofml.util.arrays import Floats
from roofml.util.yaml_io import read_mapping

REPLAY = (
    *("trace-header", "trace-data", "results-path", "horizon", "model", "hardware", "tp", "latency-model"),
    *("total-kv-blocks", "block-size-in-tokens", "max-num-seqs", "max-num-batched-tokens", "max-model-len"),
    *("defaults-filepath", "hardware-config", "model-config-folder", "alpha-coeffs", "beta-coeffs"),
)
CALIBRATE = ("trace-header", "trace-data", "sim-results", "report")


def fail(problem: str) -> None:
    """End as BLIS does where it refuses."""
    sys.exit(f'level=fatal msg="{problem}"')


def flags_of(words: list[str], known: tuple[str, ...]) -> dict[str, str]:
    """Flags and their values; one that is not known is fatal."""
    flags: dict[str, str] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if not flag.startswith("--") or flag[2:] not in known:
            fail(f"unknown flag: {flag}")
        flags[flag[2:]] = value
    return flags


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a trace with the 27 columns in their order."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            fail("unexpected columns")
        return list(reader)


def requests_of(rows: list[dict[str, str]], server: Server) -> Run:
    """The requests that BLIS makes of the rows, in order of arrival."""
    rows = [row for row in rows if row["model"] in ("", server.model)]
    rows.sort(key=arrival_of)
    lengths: dict[str, int] = {}
    for row in rows:
        if row["prefix_group"] and int(row["prefix_length"]) > 0:
            lengths.setdefault(row["prefix_group"], int(row["prefix_length"]))
    numbers = {name: number for number, name in enumerate(lengths)}
    prefix = np.array([lengths.get(row["prefix_group"], 0) for row in rows], np.int64)
    own = [int(row["input_tokens"] if row["prefix_group"] else row["server_input_tokens"]) for row in rows]
    return Run(
        name="trace",
        server=server,
        request_id=np.array([int(row["request_id"]) for row in rows]),
        arrival_us=np.array([arrival_of(row) for row in rows], np.float64),
        prompt_tokens=prefix + np.array(own, np.int64),
        output_tokens=np.array([int(row["output_tokens"]) for row in rows]),
        prefix_group=np.array([numbers.get(row["prefix_group"], -1) for row in rows], np.int64),
        prefix_tokens=prefix,
        ttft_us=np.full(len(rows), np.nan),
        e2e_us=np.full(len(rows), np.nan),
        ok=np.ones(len(rows), np.bool_),
    )


def arrival_of(row: dict[str, str]) -> int:
    """When BLIS lets a row's request in, µs."""
    return int(row["send_time_us"]) if int(row["send_time_us"]) > 0 else int(row["arrival_time_us"])


def serve(flags: dict[str, str]) -> None:
    """`blis replay`: write each finished request's latencies to --results-path."""
    defaults_path = Path(flags.get("defaults-filepath", "defaults.yaml"))
    defaults = read_mapping(defaults_path)
    for key in defaults:
        if key not in TOP_LEVEL_KEYS:
            fail(f"field {key} not found in type cmd.Config")
    beside = defaults_path.parent
    hardware_path = Path(flags.get("hardware-config", beside / "hardware_config.json"))
    short = flags["model"].split("/", 1)[-1]
    config_path = Path(flags.get("model-config-folder", beside / "model_configs" / short)) / "config.json"
    gpu = json.loads(hardware_path.read_text())[flags["hardware"]]
    hardware = Hardware(**{field: float(gpu[key]) for key, field in FIELDS.items()})
    deployment = BlisDeployment(blis_model(json.loads(config_path.read_text()), short), hardware, int(flags["tp"]))
    if ("alpha-coeffs" in flags) != ("beta-coeffs" in flags):
        fail("--alpha-coeffs and --beta-coeffs: both or neither")
    section: dict[str, Any] = defaults.get("trained_physics_coefficients") or {}
    alphas, betas = (
        [float(value) for value in flags[f"{name}-coeffs"].split(",")]
        if f"{name}-coeffs" in flags
        else section[f"{name}_coeffs"]
        for name in ("alpha", "beta")
    )
    server = Server(
        model=flags["model"],
        tensor_parallel=int(flags["tp"]),
        max_num_seqs=int(flags.get("max-num-seqs", 256)),
        max_num_batched_tokens=int(flags.get("max-num-batched-tokens", 2048)),
        block_size=int(flags.get("block-size-in-tokens", 16)),
        num_gpu_blocks=int(flags["total-kv-blocks"]),
        max_model_len=int(flags.get("max-model-len", 2**31)),
        gpu=flags["hardware"],
    )
    rows = rows_of(Path(flags["trace-data"]))
    run = requests_of(rows, server)
    if not len(run):
        fail(f"no request is of the model {flags['model']}")
    horizon = int(flags.get("horizon", 2 * int(run.arrival_us.max())))
    served = replay(run, deployment, alphas, betas, horizon)
    results = [
        {
            "request_id": int(run.request_id[row]),
            "ttft_us": float(served.ttft_us[row]),
            "e2e_us": float(served.e2e_us[row]),
            "input_tokens": int(run.prompt_tokens[row]),
            "output_tokens": int(run.output_tokens[row]),
        }
        for row in np.flatnonzero(np.isfinite(served.e2e_us))
    ]
    Path(flags["results-path"]).write_text(json.dumps(results))


def judge(flags: dict[str, str]) -> None:
    """`blis calibrate`: write a report with MAPE, Pearson's r and a grade of TTFT and E2E."""
    warm_up = int(read_mapping(Path(flags["trace-header"]))["warm_up_requests"])
    simulated = {entry["request_id"]: entry for entry in json.loads(Path(flags["sim-results"]).read_text())}
    rows = [row for row in rows_of(Path(flags["trace-data"])) if int(row["request_id"]) >= warm_up]
    pairs = [(row, simulated[int(row["request_id"])]) for row in rows if int(row["request_id"]) in simulated]
    if not pairs:
        fail("no matching request IDs")
    metrics: dict[str, Any] = {}
    for name, column in (("ttft", "first_chunk_time_us"), ("e2e", "last_chunk_time_us")):
        real = np.array([float(row[column]) - float(row["send_time_us"]) for row, _ in pairs])
        said = np.array([float(entry[f"{name}_us"]) for _, entry in pairs])
        metrics[name] = {"request_level": graded(real, said), "workload_level": level(real, said)}
    Path(flags["report"]).write_text(json.dumps({"metrics": metrics}))


def graded(real: Floats, said: Floats) -> dict[str, Any]:
    """The verdict on requests, one by one."""
    mape = float(np.mean(np.abs(said - real) / real))
    r = float(np.corrcoef(real, said)[0, 1])
    steps = (("excellent", 0.10, 0.95), ("good", 0.20, 0.85), ("fair", 0.35, 0.70))
    quality = next((name for name, most, least in steps if mape < most and r > least), "poor")
    return {"mape": mape, "pearson_r": r, "quality": quality}


def level(real: Floats, said: Floats) -> dict[str, float]:
    """The verdict on means."""
    error = float(said.mean() - real.mean())
    return {"real_mean": float(real.mean()), "sim_mean": float(said.mean()), "mean_percent_error": error / real.mean()}


def main(words: list[str]) -> None:
    """Run one command."""
    print("stand-in for blis: our replay of it answers", file=sys.stderr)
    if words[:1] == ["replay"]:
        serve(flags_of(words[1:], REPLAY))
    elif words[:1] == ["calibrate"]:
        judge(flags_of(words[1:], CALIBRATE))
    else:
        fail(f"unknown command {words[:1]}")


if __name__ == "__main__":
    main(sys.argv[1:])
