"""Run: one served workload as arrays, whatever tool recorded it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Server:
    """The engine that served a run: what the replay has to imitate. Tokens and blocks, no times."""

    model: str
    """Hub repository or local name, as the server was started with."""
    tensor_parallel: int
    max_num_seqs: int
    """Most requests in one step."""
    max_num_batched_tokens: int
    """Most new tokens in one step (vLLM's token budget)."""
    block_size: int
    """Tokens in one KV block."""
    num_gpu_blocks: int
    """KV blocks the engine reported at start."""
    max_model_len: int
    gpu: str | None = None
    """Name in `hardware/`; None where the run does not say."""
    prefix_caching: bool = True
    async_scheduling: bool = True
    """The next batch is formed while the current step runs (vLLM's default since 0.14)."""
    fresh: bool = True
    """It had served nothing before the run (`coldstart`)."""


@dataclass(frozen=True)
class Run:
    """Requests of one run in order of arrival. Every array has shape (requests,).

    Two requests with the same `prefix_group` (>= 0) share their first `min(prefix_tokens)` prompt tokens; a
    repeated prompt is a group whose `prefix_tokens` is the whole prompt. -1 shares with nobody.
    """

    name: str
    server: Server
    request_id: Ints
    arrival_us: Floats
    """When the client sent the request, µs from the run's first send; ascending."""
    prompt_tokens: Ints
    output_tokens: Ints
    prefix_group: Ints
    prefix_tokens: Ints
    ttft_us: Floats
    """First chunk minus send, µs; NaN where `ok` is False."""
    e2e_us: Floats
    """Last chunk minus send, µs; NaN where `ok` is False."""
    ok: Bools

    def __len__(self) -> int:
        return len(self.arrival_us)

    @property
    def tpot_us(self) -> Floats:
        """Mean time per output token after the first, µs; NaN with fewer than two output tokens."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        return (self.e2e_us - self.ttft_us) / gaps
