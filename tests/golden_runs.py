"""Runs as BLIS was given them: the `.input` tables and the server files beside the traces."""

import numpy as np
import pandas as pd
from test_blis_model_view import config_of

from roofml.blis.deployment import SHIPPED_HARDWARE, Deployment
from roofml.blis.model_view import blis_model
from roofml.traces.run import Run, Server
from roofml.util.yaml_io import read_mapping

SETS = {
    "bundled": (
        (15563.199579, 777.3455, 45.907545),
        (0.152128, 0, 1.36252915, 0.752037, 32.09546717, 4.41684444, 126.024825, 481.8613888, 0, 1.94710771, 0.752037),
    ),
    "other": ((9315.3, 1849.6, 1.7), (0.77, 1.13, 1.06, 0.5, 43.5, 48.8, 100.0)),
}
"""Alphas and betas that BLIS was given."""

SATURATED = "20260218-160939-codellama-34b-tp2-reasoning"


def run_names(shared):
    return sorted(path.name for path in (shared / "groundtruth").iterdir())


def server_of(folder):
    experiment, cache = read_mapping(folder / "exp-config.yaml"), read_mapping(folder / "kv-cache.yaml")
    return Server(
        model=experiment["model"],
        tensor_parallel=experiment["tensor_parallelism"],
        max_num_seqs=experiment["max_num_seqs"],
        max_num_batched_tokens=experiment["max_num_batched_tokens"],
        block_size=cache["block_size"],
        num_gpu_blocks=cache["num_gpu_blocks"],
        max_model_len=experiment["max_model_len"],
        gpu="H100",
    )


def measured_run(shared, name):
    """The run with BLIS's own view of its prompts, and the measured latencies."""
    folder = shared / "groundtruth" / name
    table = pd.read_parquet(shared / "golden" / "blis_replays" / f"{name}.input.parquet")
    trace = pd.read_csv(
        folder / "trace.csv", usecols=["send_time_us", "first_chunk_time_us", "last_chunk_time_us", "status"]
    )
    ok = (trace["status"] == "ok").to_numpy()
    send = trace["send_time_us"].to_numpy(np.float64)
    group, _ = pd.factorize(table["prefix_group"])
    return Run(
        name=name,
        server=server_of(folder),
        request_id=table["request_id"].to_numpy(np.int64),
        arrival_us=table["arrival_time_us"].to_numpy(np.float64),
        prompt_tokens=(table["prefix_length"] + table["input_tokens"]).to_numpy(np.int64),
        output_tokens=table["output_tokens"].to_numpy(np.int64),
        prefix_group=group.astype(np.int64),
        prefix_tokens=table["prefix_length"].to_numpy(np.int64),
        ttft_us=np.where(ok, trace["first_chunk_time_us"].to_numpy(np.float64) - send, np.nan),
        e2e_us=np.where(ok, trace["last_chunk_time_us"].to_numpy(np.float64) - send, np.nan),
        ok=ok,
    )


def deployment_of(shared, run):
    name = run.server.model.rpartition("/")[2]
    model = blis_model(config_of(shared, f"training/{name}"), name)
    return Deployment(model, SHIPPED_HARDWARE["H100"], run.server.tensor_parallel)
