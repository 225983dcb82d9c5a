"""Valid inputs to begin with: a small run, sampled steps, and the files that come with the package."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.steps.table import FIELDS
from roofml.traces.tracev2 import COLUMNS
from roofml.util.package_data import data_folder
from roofml.util.yaml_io import read_mapping

from .mutation import Rows, Tree

MODEL = "meta-llama/Llama-2-7b-hf"
LOCAL_MODEL = "llama-2-7b-hf"
STEP_US = 7000
"""Of a toy server; about what a decode step of the model takes."""


def header() -> dict[str, Tree]:
    """A `trace.yaml`."""
    server = {"type": "vllm", "model": MODEL, "tensor_parallel": 1, "max_num_seqs": 128, "block_size": 16}
    server |= {"gpu_memory_utilization": 0.9, "max_model_len": 4096}
    return {
        **{"trace_version": 2, "time_unit": "us", "mode": "real", "warm_up_requests": 0},
        **{"server": server, "network": {"measured_rtt_ms": 0.2}},
    }


def exp_config() -> dict[str, Tree]:
    """An `exp-config.yaml`."""
    settings = {"model": MODEL, "tensor_parallelism": 1, "max_model_len": 4096, "max_num_batched_tokens": 2048}
    return settings | {"max_num_seqs": 128, "app": "inference-perf", "gpu": "H100", "prefix_caching": True}


def kv_cache() -> dict[str, Tree]:
    """A `kv-cache.yaml`."""
    return {"block_size": 16, "num_gpu_blocks": 7462}


def inference_perf() -> dict[str, Tree]:
    """An `inference-perf.yaml`."""
    shared = {"num_groups": 2, "num_prompts_per_group": 10, "system_prompt_len": 64, "question_len": 300}
    return {
        "data": {"type": "shared_prefix", "shared_prefix": shared | {"output_len": 100}},
        "load": {"type": "constant"},
        "server": {"type": "vllm", "model_name": MODEL, "ignore_eos": True},
    }


@cache
def _trace(requests: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    sent = (10**9 + np.cumsum(random.exponential(1e6 / 6, requests))).astype(int).tolist()
    prompts, outputs = random.integers(200, 900, requests).tolist(), random.integers(20, 120, requests).tolist()
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="0", lineterminator="\n")
    writer.writeheader()
    text = dict.fromkeys(("client_id", "tenant_id", "slo_class", "session_id", "error_message", "finish_reason"), "")
    for i in range(requests):
        first = sent[i] + 30_000 + int(random.integers(0, 50))
        decoding = int(STEP_US * (outputs[i] - 1) * random.normal(1, 0.02))
        writer.writerow(
            text
            | {"request_id": i, "streaming": "true", "model": MODEL, "status": "ok", "input_tokens": prompts[i]}
            | {"text_tokens": prompts[i], "output_tokens": outputs[i], "prefix_group": ""}
            | {"arrival_time_us": sent[i], "send_time_us": sent[i], "first_chunk_time_us": first}
            | {"last_chunk_time_us": first + decoding}
        )
    return stream.getvalue()


def trace(requests: int, seed: int = 0) -> Rows:
    """The rows of a `trace.csv`."""
    return list(csv.reader(io.StringIO(_trace(requests, seed))))


def step_rows(samples: int = 6) -> list[dict[str, int]]:
    """Sampled steps: field -> value."""
    rows: list[dict[str, int]] = []
    for i in range(samples):
        row = dict.fromkeys(FIELDS, 0) | {"id": 10 + 3 * i, "start_ns": 10**18 + 30_000_000 * i, "call_us": 400}
        row |= {"end_ns": row["start_ns"] + 400_000, "running": 8, "decode_requests": 7, "prefill_requests": 1}
        row |= {"prefill_tokens": 200, "decode_tokens": 7, "scheduled_tokens": 207}
        rows.append(row | {"blocks_total": 7000, "blocks_free": 6000 - i})
    return rows


def otlp(samples: int = 3) -> list[Tree]:
    """Exports of sampled steps, one a line, with the server's own list of requests in each."""
    documents: list[Tree] = []
    for row in step_rows(samples):
        attributes = [{"key": FIELDS[name], "value": {"intValue": str(value)}} for name, value in row.items()]
        snapshot = {"step.id": row["id"], "request.num_prompt_tokens": 300, "request.num_computed_tokens": 320}
        snapshot |= {"request.scheduled_tokens_this_step": 1}
        listed = [{"key": key, "value": {"intValue": value}} for key, value in snapshot.items()]
        events: list[Tree] = [{"name": "step.BATCH_SUMMARY", "attributes": attributes}]
        events.append({"name": "step.REQUEST_SNAPSHOT", "attributes": listed})
        scope = {"scope": {"name": "vllm.scheduler.step"}, "spans": [{"name": "step", "events": events}]}
        documents.append({"resourceSpans": [{"resource": {}, "scopeSpans": [scope]}]})
    return documents


@cache
def model_texts() -> dict[str, str]:
    """Name -> the text of `config.json` of every model that is shipped."""
    folders = sorted(folder for folder in data_folder("model_configs").iterdir() if folder.is_dir())
    return {folder.name: (folder / "config.json").read_text(encoding="utf-8") for folder in folders}


def model_configs() -> dict[str, dict[str, Any]]:
    """Name -> `config.json` of every model that is shipped."""
    return {name: json.loads(text) for name, text in model_texts().items()}


def model_config(name: str = LOCAL_MODEL) -> dict[str, Any]:
    """The `config.json` of one model."""
    return json.loads(model_texts()[name])


def quant_config() -> dict[str, Tree]:
    """A `hf_quant_config.json`."""
    inner = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"], "group_size": 16}
    return {"producer": {"name": "modelopt", "version": "0.30"}, "quantization": inner}


def sheets() -> list[dict[str, Any]]:
    """Every GPU's sheet."""
    return _packaged("hardware", "*.yaml")


def coefficients() -> list[dict[str, Any]]:
    """The coefficients that are shipped."""
    return _packaged("coeffs", "*-tp*.yaml")


def other_models() -> dict[str, Any]:
    """`global.yaml`."""
    return _packaged("coeffs", "global.yaml")[0]


def _packaged(folder: str, pattern: str) -> list[dict[str, Any]]:
    """What such YAML files of the package say, to be changed by who asks."""
    return json.loads(_packaged_text(folder, pattern))


@cache
def _packaged_text(folder: str, pattern: str) -> str:
    return json.dumps([read_mapping(path) for path in sorted(data_folder(folder).glob(pattern))])


BLIS: dict[str, Tree] = {
    **{"alpha_coeffs": [9000.0, 400.0, 3.0], "total_kv_blocks": 7000, "block_size": 16, "max_num_seqs": 128},
    **{"beta_coeffs": [1.4, 0.0, 1.3, 1.0, 12.0, 2.0, 90.0, 0.0, 0.0, 1.8, 1.0], "max_model_len": 4096},
    **{"max_num_batched_tokens": 2048},
}
"""The `blis` section of coefficients."""


def coefficients_of(tp: int) -> dict[str, Any]:
    """Shipped coefficients of this tensor parallel size, with a `blis` section."""
    found = next(document for document in coefficients() if document["tensor_parallel"] == tp)
    return found | {"blis": json.loads(json.dumps(BLIS))}


DEFAULTS = """\
# Mine.
version: "1"
defaults:
  meta-llama/llama-3.1-8b-instruct:
    GPU: H100   # the usual
    tensor_parallelism: 1
    hf_repo: meta-llama/Llama-3.1-8B-Instruct
  qwen/qwen3-14b: {GPU: "A100-SXM", tensor_parallelism: 2, hf_repo: Qwen/Qwen3-14B}
workloads: &w
  chatbot: {prompt_tokens: 256, output_tokens: 100}
trained_physics_coefficients:
  alpha_coeffs: [1.0, 2.0, 3.0]
  beta_coeffs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
lora: null
"""
FLAGS_INDEX = b"""\
# Flags of each calibrated deployment. Source this file, then: blis run $(blis_flags NAME) ...
: "${BLIS_DEFAULTS_FOLDER:=.}"
BLIS_DEPLOYMENTS="mine-h100-tp1"
blis_flags() {
  case "$1" in
    mine-h100-tp1) echo "--model mine --tp 1 --defaults-filepath $BLIS_DEFAULTS_FOLDER/mine-h100-tp1.defaults.yaml" ;;
  esac
}
"""
HARDWARE_CONFIG: dict[str, Tree] = {
    "A100-SXM": {"TFlopsPeak": 312, "BwPeakTBs": 2.039, "mfuPrefill": 0.5, "mfuDecode": 0.3, "MemoryGiB": 80.0}
}


def kernel_table(name: str) -> Path:
    """A table of measured kernels."""
    return data_folder("bench_data") / "h100" / name


def hub_listing(commit: str = "a" * 40) -> dict[str, Tree]:
    """What the Hub says about a repository."""
    files = [{"rfilename": name} for name in ("config.json", "hf_quant_config.json", "README.md")]
    return {"id": MODEL, "sha": commit, "siblings": files, "gated": False, "tags": ["x"]}
