"""Experience: what the fits that taught overheads and corrections have seen, and how far others are from it.

They are of bfloat16 models served by vLLM 0.15.1. Sizes are what deployments unlike them were off by on measured points
of others (docs/points.md), TPOT, beyond what their kernel tables explain.
"""

from __future__ import annotations

from roofml.latency.doubts import Doubt
from roofml.models.operations import StateOp
from roofml.models.spec import ModelSpec
from roofml.traces.engine_version import ASSUMED, Release, said

FORMAT_SD = 0.07
"""Relative: dense models in FP8."""
EXPERTS_SD = 0.13
"""Mixtures whose experts are in FP8 or FP4: routing, and the kernels that a release chose for them."""
PARTIAL_SD = 0.12
"""Layers that read part of their context by an indexer or merged entries, or a recurrent state."""
RELEASE_SD = 0.04
"""Another minor release of vLLM."""


def unseen(model: ModelSpec, release: Release) -> tuple[Doubt, ...]:
    """Ways in which a deployment is unlike those that were fitted, each with its size."""
    found: list[Doubt] = []
    formats = {gemm.kernel: bool(gemm.experts) for gemm in model.gemms(1) if gemm.kernel != "bfloat16"}
    if any(formats.values()):
        found.append(Doubt("experts' format", "no mixture with experts of this format was fitted", EXPERTS_SD))
    elif formats:
        found.append(Doubt("format", "no model with weights of this format was fitted", FORMAT_SD))
    if any(isinstance(op, StateOp) or op.top_k or op.compression > 1 for op in model.mixers(1)):
        found.append(Doubt("layers", "no model with such recurrent or selective layers was fitted", PARTIAL_SD))
    if release[:2] != ASSUMED[:2]:
        found.append(Doubt("release", f"the fits are of vLLM {said(ASSUMED)}", RELEASE_SD))
    return tuple(found)
