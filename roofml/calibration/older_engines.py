"""Older engines: what a step of vLLM before V1, or of a TensorRT-LLM of 2024, took beyond what is modelled.

Their schedulers are not imitated and their kernels were not measured. The CPU did its work between steps, not beside
them: some time a step, more with every doubling of ranks, and some for each request. Numbers: least squares over 400
published batches of Llama-2-7B and 70B on H100 (argonne-lcf/LLM-Inference-Bench: E2E of whole batches, tensor parallel
size 1 to 4), residuals 5 to 8 %; a cell left out moves the predictions of its batches by a few percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from roofml.calibration.prior import Prior
from roofml.latency.doubts import Doubt


@dataclass(frozen=True)
class OlderEngine:
    """Time that a step took beyond that of vLLM V1, µs."""

    step_us: float
    doubling_us: float
    """For every doubling of tensor parallel ranks."""
    request_us: float
    """For every request in the step."""
    pace: float
    """How much longer the rest takes."""


OLDER = {
    "vllm": OlderEngine(500.0, 870.0, 46.0, 1.13),
    "sglang": OlderEngine(500.0, 870.0, 46.0, 1.13),
    "tensorrt-llm": OlderEngine(515.0, 315.0, 7.0, 1.0),
}
SHARE_SD = 0.4
"""Relative standard deviation of those times: hosts differ, and so do releases."""
OLDER_SD = 0.15
"""Relative standard deviation of a step's time besides."""
PORTED_PACE, PORTED_SD = 1.8, 0.55
"""The same for GPUs of other makers, whose kernels of that time were young: 1.3 to 2 times as slow on MI250, 1.2 to 8
on MI300X (products of more than 16 rows most of all), 3 to 10 on Max 1550, in the same collection."""


def with_older_engine(prior: Prior, engine: str, tp: int, *, ported: bool) -> tuple[Prior, float, Doubt]:
    """The prior for an older release of an engine, the pace of its steps, and the doubt that this brings.

    `ported`: on a GPU that it was not first written for.
    """
    older = OLDER[engine]
    shifted = replace(prior, source=f"{prior.source}, an older engine")
    step_us = older.step_us + older.doubling_us * math.log2(tp)
    for name, extra in (("per_step_us", step_us), ("per_request_us", older.request_us)):
        shifted = shifted.longer(name, extra, SHARE_SD * extra)
    sentence = f"an old release of {engine}: what its CPU did between steps is taken from batches of Llama 2 on H100"
    if ported:
        sentence += ", and its kernels on this GPU were young"
        return shifted, older.pace * PORTED_PACE, Doubt("older engine", sentence, PORTED_SD)
    return shifted, older.pace, Doubt("older engine", sentence, OLDER_SD)
