"""A run like the real ones, for benchmarks. Nothing of roofml is imported, so that two checkouts can serve it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

R = TypeVar("R")

OUTPUT_TOKENS = 247
PROMPTS = 100
MODEL, GPU, TP, BUDGET = "codellama/CodeLlama-34b-Instruct-hf", "H100", 2, 2048


def made_up_run(run_type: Callable[..., R], server_type: Callable[..., Any], requests: int) -> R:
    """Poisson arrivals, the first third at 10 a second, the rest at 25; prompts in turn, as the real generator does."""
    rng = np.random.default_rng(0)
    rate = np.where(np.arange(requests) < requests // 3, 10.0, 25.0)
    prompt = np.clip(np.rint(rng.normal(575, 10, PROMPTS)), 1, None).astype(np.int64)
    group = np.arange(requests) % PROMPTS
    unknown = np.full(requests, np.nan)
    return run_type(
        name="made up",
        server=server_type(
            model=MODEL,
            tensor_parallel=TP,
            max_num_seqs=128,
            max_num_batched_tokens=BUDGET,
            block_size=16,
            num_gpu_blocks=26_602,
            max_model_len=4096,
            gpu=GPU,
        ),
        request_id=np.arange(requests),
        arrival_us=np.cumsum(rng.exponential(1e6 / rate)),
        prompt_tokens=prompt[group],
        output_tokens=np.full(requests, OUTPUT_TOKENS, np.int64),
        prefix_group=group,
        prefix_tokens=prompt[group],
        ttft_us=unknown,
        e2e_us=unknown,
        ok=np.ones(requests, np.bool_),
    )
