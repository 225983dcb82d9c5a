"""Real runs: the eleven that are published, and what BLIS was given of them (`.input` tables, files beside traces)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roofml.blis.deployment import SHIPPED_HARDWARE, BlisDeployment
from roofml.blis.model_view import blis_model
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.yaml_io import read_mapping

SETS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "bundled": (
        (15563.199579, 777.3455, 45.907545),
        (0.152128, 0, 1.36252915, 0.752037, 32.09546717, 4.41684444, 126.024825, 481.8613888, 0, 1.94710771, 0.752037),
    ),
    "other": ((9315.3, 1849.6, 1.7), (0.77, 1.13, 1.06, 0.5, 43.5, 48.8, 100.0)),
}
"""Alphas and betas that BLIS was given."""

SATURATED = "20260218-160939-codellama-34b-tp2-reasoning"
LATER = "20260217-170634-llama-2-7b-tp1-reasoning"
"""At overload, most of its requests failed: neither in what is published nor among what BLIS was run on."""

# The two whose config is not among the shared ones, written from what BLIS printed: they check how fields are read,
# and not that these are the models' real values.
WRITTEN: dict[str, dict[str, Any]] = {
    "mistral-nemo-instruct-2407": {
        "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
        "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
    },
    "glm-5.2-fp8": {
        "hidden_act": "silu", "hidden_size": 6144, "intermediate_size": 12288, "num_attention_heads": 64,
        "num_hidden_layers": 78, "num_key_value_heads": 64, "head_dim": 192, "vocab_size": 154880,
        "max_position_embeddings": 1048576, "dtype": "bfloat16", "first_k_dense_replace": 3, "kv_lora_rank": 512,
        "qk_rope_head_dim": 64, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "quantization_config": {"quant_method": "fp8"},
    },
}  # fmt: skip


def config_of(shared: Path, key: str) -> dict[str, Any]:
    """A model's config by BLIS's name of it."""
    if key in WRITTEN:
        return WRITTEN[key]
    folder, _, name = key.rpartition("/")
    return json.loads((shared / "hf_configs" / f"{folder or 'blis'}--{name}.json").read_text())


def run_folders(shared: Path) -> list[Path]:
    """The eleven published runs."""
    return sorted(path for path in (shared / "groundtruth").iterdir() if path.is_dir() and path.name != LATER)


def run_names(shared: Path) -> list[str]:
    """Their names."""
    return [path.name for path in run_folders(shared)]


def server_of(folder: Path) -> Server:
    """The server as the files beside a trace describe it."""
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


def measured_run(shared: Path, name: str) -> Run:
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


def blis_deployment(shared: Path, run: Run) -> BlisDeployment:
    """The deployment that served a run, from the config that BLIS was given."""
    name = run.server.model.rpartition("/")[2]
    model = blis_model(config_of(shared, f"training/{name}"), name)
    return BlisDeployment(model, SHIPPED_HARDWARE["H100"], run.server.tensor_parallel)
