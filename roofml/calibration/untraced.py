"""Untraced: what is believed of a deployment of which there is no trace, beyond what fits of other models say.

Those fits are of bfloat16 models on H100 behind an engine that schedules ahead, with short contexts and prompts that
were nearly all in the cache. What else a server does was read off measured points of others (docs/points.md). Each
number is of few cells: of those on other GPUs or of other models the error without it is in docs/points.md.
"""

from __future__ import annotations

from roofml.calibration.prior import Prior
from roofml.latency.deployment import Deployment
from roofml.traces.engine_version import schedules_ahead

SUSTAINED = {"prefill_gemm": 1.2, "prefill_attention": 1.2, "long_context": 0.4}
"""Component -> how much longer it takes in a server than kernels measured alone, which run at clocks that the power
limit does not allow for long: prompts of 1,000 to 8,000 tokens took 1.2 to 1.35 times what kernels say on H200
(Llama-3.3-70B in FP8 at four sizes of tensor parallelism). `long_context` was fitted to one overloaded server; on
contexts of 5,000 to 190,000 tokens most of it is not there (MiniMax-M2.5 on three GPUs)."""
SUSTAINED_SD = 0.15
"""Relative."""

BLACKWELL = ("B200", "B300", "GB200", "GB300")
DECODING = (
    "decode_gemm",
    "decode_attention",
    "weights",
    "expert_weights",
    "kv_cache",
    "attention_items",
    "communication",
)
OVERLAPPED = 0.88
"""Kernels of a decode step on those GPUs take this share of what they take one by one: in a CUDA graph each begins
while the one before it ends (programmatic dependent launch). MiniMax-M2.5 in FP8 and in NVFP4 and DeepSeek-V4-Flash on
B200, 1 to 64 requests, steps of 5 to 20 ms, say 0.88, 0.89 and 0.85 of themselves."""
OVERLAPPED_SD = 0.06

WAITING_US = 400.0
"""Time of a step that the GPU waits while the CPU takes its result and forms the next batch, where the engine does not
schedule ahead: Llama-3.3-70B in FP8 on 1 to 8 H200 by vLLM 0.11, 4 to 16 requests."""
WAITING_SD = 0.4
"""Relative."""

STATIC_FP8 = 1.04
"""How much longer reading weights of a dense model in FP8 takes than its products measured alone: the same points."""
STATIC_FP8_SD = 0.04


def untraced(prior: Prior, deployment: Deployment) -> Prior:
    """The prior for a deployment that is predicted, and not fitted, by what fits of other models say of it."""
    found = prior.slower(SUSTAINED, SUSTAINED_SD)
    model, gpu, engine = deployment.model, deployment.gpu, deployment.engine
    if gpu.name in BLACKWELL:
        found = found.slower(dict.fromkeys(DECODING, OVERLAPPED), 0.0).widened({}, OVERLAPPED_SD**2)
    if {gemm.kernel for gemm in model.gemms(1) if gemm.rows == "tokens" and not gemm.experts} == {"fp8"}:
        found = found.slower({"weights": STATIC_FP8}, STATIC_FP8_SD)
    if not schedules_ahead(engine.name, engine.version):
        found = found.longer("per_step_us", WAITING_US, WAITING_SD * WAITING_US)
    return found
