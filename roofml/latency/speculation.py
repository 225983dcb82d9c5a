"""Speculative decoding: a step verifies the k drafts of every request, and drafts the next k.

Verifying computes k + 1 tokens of each request and reads its keys and values once; every one of them has a row of
logits. A draft is a step of one layer like the model's own (an MTP layer; an EAGLE head is about as large) and of the
LM head, one after another. On average a request keeps `acceptance_length` tokens of a step: the accepted drafts and one
of the model's own. Which drafts are accepted is not predicted: it depends on the text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernels import Efficiency
from roofml.latency.components import ComponentTables, gemm_rate, measured_gemm
from roofml.models.spec import ModelSpec
from roofml.util.errors import InputError
from roofml.util.names import shown

MOST_DRAFTS = 64
"""Of one step: far more than any engine drafts."""


class Speculation(NamedTuple):
    """The drafts of a server."""

    num_speculative_tokens: int
    """k."""
    acceptance_length: float
    """Tokens that a request keeps of a step on average: from 1, none accepted, to k + 1."""

    @property
    def verified(self) -> int:
        """Tokens of a request that a step computes."""
        return self.num_speculative_tokens + 1


def speculation(drafts: object, acceptance: object, source: str) -> Speculation:
    """The drafts of a server that says so many. Raises InputError naming `source` for what cannot be."""
    if not isinstance(drafts, int) or isinstance(drafts, bool) or not 1 <= drafts <= MOST_DRAFTS:
        raise InputError(f"{source}: num_speculative_tokens {shown(drafts)}: expected between 1 and {MOST_DRAFTS}")
    if not isinstance(acceptance, int | float) or isinstance(acceptance, bool) or not 1 <= acceptance <= drafts + 1:
        raise InputError(
            f"{source}: acceptance_length {shown(acceptance)}: expected between 1 (no draft accepted) and {drafts + 1}"
        )
    return Speculation(drafts, float(acceptance))


def speculating(
    tables: ComponentTables, model: ModelSpec, gpu: Gpu, tp: int, efficiency: Efficiency, drafts: Speculation
) -> ComponentTables:
    """The tables of a server that drafts, from those of one that does not."""
    k, layers = drafts.num_speculative_tokens, max(1, model.num_layers)
    head = next(gemm for gemm in model.gemms(tp) if gemm.rows == "sampled")
    slowdown = float(measured_gemm(head, gpu, efficiency)[1][0])
    reading = head.weight_bytes / gpu.bandwidth_bytes_per_us * slowdown
    requests = np.arange(len(tables.gemm), dtype=np.float64)
    weights = np.maximum(tables.weights + tables.expert_weights - reading, 0.0) / layers + reading
    compute = tables.gemm / layers + requests * head.flops_per_row / gemm_rate(head, gpu)
    once = np.maximum(weights, compute) + tables.communication / layers
    return tables._replace(
        verified=float(drafts.verified),
        per_verified=1.0 / drafts.verified,
        drafts=np.where(requests > 0, k * once, 0.0),
        kv_token=tables.kv_token * (1 + k / layers),
        layers=tables.layers + k,
        acceptance=drafts.acceptance_length,
    )
