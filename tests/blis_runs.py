"""A small deployment of BLIS's and runs that tests make up for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from roofml.blis.deployment import SHIPPED_HARDWARE, BlisDeployment
from roofml.blis.model_view import blis_model
from roofml.traces.run import Run
from roofml.traces.server import Server

CONFIG = {
    "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "intermediate_size": 11008,
    "vocab_size": 32000, "torch_dtype": "float16",
}  # fmt: skip
DEPLOYMENT = BlisDeployment(blis_model(CONFIG, "llama"), SHIPPED_HARDWARE["H100"], 1)


def small_run(
    arrivals: Sequence[float] | np.ndarray[Any, Any],
    prompts: ArrayLike,
    outputs: ArrayLike,
    groups: ArrayLike | None = None,
    prefixes: ArrayLike | None = None,
    **server: Any,
) -> Run:
    """A run without latencies on a small server, whose limits can be given."""
    n = len(arrivals)
    limits: dict[str, Any] = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "num_gpu_blocks": 100,
        "max_model_len": 1000,
        **server,
    }
    return Run(
        name="small",
        server=Server(model="llama", tensor_parallel=1, block_size=16, **limits),
        request_id=np.arange(n),
        arrival_us=np.array(arrivals, float),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        prefix_group=np.array(groups if groups is not None else [-1] * n),
        prefix_tokens=np.array(prefixes if prefixes is not None else [0] * n),
        ttft_us=np.full(n, np.nan),
        e2e_us=np.full(n, np.nan),
        ok=np.zeros(n, bool),
    )
