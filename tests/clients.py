"""Small files as benchmark clients write them, of requests that a toy server answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from roofml.util.arrays import Floats, Ints

MODEL = "meta-llama/Llama-2-7b-hf"
SERVER: dict[str, Any] = {
    "gpu": "H100",
    "tensor_parallel": 1,
    "max_num_seqs": 128,
    "max_num_batched_tokens": 2048,
    "block_size": 16,
    "num_gpu_blocks": 7462,
    "max_model_len": 4096,
}
"""What no client's file says, for `read_run`."""


class Served:
    """Requests of a quiet server: arrivals in seconds, TTFT 20-30 ms, a token every 8 ms."""

    def __init__(self, number: int = 60, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.start: Floats = 5000.0 + np.cumsum(random.exponential(0.1, number))
        self.prompt: Ints = random.integers(200, 900, number)
        self.output: Ints = random.integers(20, 90, number)
        self.ttft: Floats = random.uniform(0.02, 0.03, number)
        self.gap: Floats = random.uniform(0.0075, 0.0085, number)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def e2e(self) -> Floats:
        return self.ttft + self.gap * (self.output - 1)

    @property
    def itls(self) -> list[list[float]]:
        return [[float(gap)] * (tokens - 1) for gap, tokens in zip(self.gap, self.output.tolist(), strict=True)]


def aggregates(served: Served) -> dict[str, Any]:
    """Means in ms, as `vllm bench serve` and sglang print them."""
    tpot = (served.e2e - served.ttft) / (served.output - 1)
    return {
        "mean_ttft_ms": 1e3 * float(served.ttft.mean()),
        "median_ttft_ms": 1e3 * float(np.median(served.ttft)),
        "mean_tpot_ms": 1e3 * float(tpot.mean()),
        "mean_e2el_ms": 1e3 * float(served.e2e.mean()),
    }


def vllm_bench(served: Served, **changes: Any) -> dict[str, Any]:
    """A detailed result of `vllm bench serve`; a change of None leaves a key out."""
    number = len(served)
    took = float((served.start + served.e2e).max() - served.start[0])
    document: dict[str, Any] = {
        "date": "20260101-000000",
        "endpoint_type": "openai",
        "backend": "openai",
        "model_id": MODEL,
        "num_prompts": number,
        "request_rate": 10.0,
        "burstiness": 1.0,
        "max_concurrency": None,
        "duration": took,
        "completed": number,
        "failed": 0,
        "total_input_tokens": int(served.prompt.sum()),
        "total_output_tokens": int(served.output.sum()),
        "request_throughput": number / took,
        "output_throughput": float(served.output.sum()) / took,
        **aggregates(served),
        "input_lens": served.prompt.tolist(),
        "output_lens": served.output.tolist(),
        "ttfts": served.ttft.tolist(),
        "itls": served.itls,
        "start_times": served.start.tolist(),
        "generated_texts": [""] * number,
        "errors": [""] * number,
    }
    document |= changes
    return {key: value for key, value in document.items() if value is not None or key == "max_concurrency"}


def write(path: Path, document: object) -> Path:
    """The document as JSON."""
    path.write_text(json.dumps(document))
    return path
