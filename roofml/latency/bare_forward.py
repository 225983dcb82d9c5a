"""Bare forward: what `vllm bench forward` times, a model's forward on one exact batch as one CUDA graph.

Physics says what is not in it: the LM head, which vLLM computes after the forward, padding to captured sizes, and
launches, for a graph holds the batch whatever its size. What else it lacks (sampler, CPU) or has more of (nothing is
compiled, so nothing fused) is no physics: `calibration.forwards.offsets`.
Source: vllm/benchmarks/forward/capture.py of 0.33.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roofml.latency.batch import Request, StepSums
from roofml.latency.components import ComponentTables, component_tables, measured_gemm
from roofml.latency.deployment import Deployment
from roofml.traces.forwards import TimedRequest
from roofml.util.errors import NotSupportedError


def bare_tables(deployment: Deployment, budget: int) -> ComponentTables:
    """The tables of a deployment for bare forwards of up to `budget` new tokens.

    Raises NotSupportedError for a deployment with drafts, or of several pipeline stages or engines.
    """
    if deployment.drafts is not None:
        raise NotSupportedError("forwards of a server that drafts are not fitted: time the model alone")
    if deployment.parallel.pp > 1 or deployment.parallel.dp > 1:
        raise NotSupportedError("forwards of pipeline stages or of data-parallel engines are not fitted")
    kernels, gpu = deployment.kernels, deployment.gpu
    tables = component_tables(deployment.model, gpu, deployment.parallel, budget, kernels, graphs=())
    head = next(
        gemm for gemm in deployment.parallel.cut(deployment.model).gemms(deployment.tp) if gemm.rows == "sampled"
    )
    _, slowdown, _ = measured_gemm(head, gpu, kernels)
    reading = head.count * head.weight_bytes / gpu.bandwidth_bytes_per_us * float(slowdown[0])
    weights = np.where(np.arange(budget + 1) > 0, tables.weights - reading, 0.0)
    return tables._replace(
        weights=weights, logits_per_request=0.0, captured=budget, launches_us=0.0, norm=deployment.tables.norm
    )


def sums_of(batches: Sequence[Sequence[TimedRequest]], tables: ComponentTables) -> StepSums:
    """The sums of exact batches, one step each."""
    return StepSums.from_requests([[_request(each) for each in batch] for batch in batches], tables.reaches)


def _request(timed: TimedRequest) -> Request:
    prompt = 0 if timed.decodes else timed.context + timed.new_tokens
    return timed.new_tokens, timed.context, prompt
