"""Run folders of a toy server on disk, for benchmarks that run whole commands: its step takes longer with more load."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.tracev2 import COLUMNS

SMALL, LARGE = (
    ("meta-llama/Llama-2-7b-hf", 1, 20_000, 8_000),
    ("codellama/CodeLlama-34b-Instruct-hf", 2, 60_000, 15_000),
)
"""Model, tensor parallel size, µs to the first token and of another one of a made-up server: about what these take."""
GPU = "H100"

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
Serve = Callable[[Ints, Ints, Ints], tuple[Ints, Ints]]
"""When requests are sent, their prompts and answers -> µs to each first token, and from it to the last."""


def write_run(folder: Path, served: tuple[str, int, int, int] = SMALL, requests: int = 150, seed: int = 0) -> Path:
    """Write a run folder and return it."""
    model, tp, first_us, step_us = served
    rng = np.random.default_rng(seed)

    def steady(sent: Ints, _prompts: Ints, outputs: Ints) -> tuple[Ints, Ints]:
        first = first_us + rng.integers(0, 50, len(sent))
        return first, (step_us * (outputs - 1) * rng.normal(1, 0.03, len(sent))).astype(np.int64)

    return write_served(folder, model, tp, steady, requests, rng)


def write_served(
    folder: Path,
    model: str,
    tp: int,
    serve: Serve,
    requests: int,
    rng: np.random.Generator,
    rate: float = 8.0,
    **said: Any,
) -> Path:
    """Write a run folder of a server with the latencies of `serve`, and what else is `said` of it; return it.

    `rate` is that of its requests, 1/s.
    """
    folder.mkdir(parents=True)
    server: dict[str, Any] = {"type": "vllm", "model": model, "tensor_parallel": tp, "max_num_seqs": 128}
    server |= {"block_size": 16, "gpu_memory_utilization": 0.9, "max_model_len": 4096}
    settings: dict[str, Any] = {"model": model, "tensor_parallelism": tp, "max_model_len": 4096, "max_num_seqs": 128}
    documents: dict[str, dict[str, Any]] = {
        "trace": {"trace_version": 2, "time_unit": "us", "mode": "real", "warm_up_requests": 0, "server": server},
        "exp-config": settings | {"max_num_batched_tokens": 2048, "app": "inference-perf"} | said,
        "kv-cache": {"block_size": 16, "num_gpu_blocks": 7462},
    }
    for name, document in documents.items():
        (folder / f"{name}.yaml").write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    with (folder / "trace.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval=0, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(model, serve, requests, rng, rate))
    return folder


def _rows(model: str, serve: Serve, requests: int, rng: np.random.Generator, rate: float) -> list[dict[str, object]]:
    arrivals = np.cumsum(rng.exponential(1e6 / rate, requests)).astype(np.int64)
    prompt_tokens, output_tokens = rng.integers(200, 900, requests), rng.integers(20, 120, requests)
    times = serve(arrivals, prompt_tokens, output_tokens)
    sent, prompts, outputs = arrivals.tolist(), prompt_tokens.tolist(), output_tokens.tolist()
    first, decoding = (each.tolist() for each in times)
    text = dict.fromkeys(
        ("client_id", "tenant_id", "slo_class", "session_id", "prefix_group", "error_message", "finish_reason"), ""
    )
    return [
        text
        | {"request_id": i, "streaming": "true", "model": model, "status": "ok", "input_tokens": prompts[i]}
        | {"text_tokens": prompts[i], "output_tokens": outputs[i], "arrival_time_us": sent[i], "send_time_us": sent[i]}
        | {"first_chunk_time_us": sent[i] + first[i], "last_chunk_time_us": sent[i] + first[i] + decoding[i]}
        for i in range(requests)
    ]
