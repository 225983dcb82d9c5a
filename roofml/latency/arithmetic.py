"""The arithmetic of quantized weights on a GPU that has no units for their type: weight-only, as vLLM serves them."""

from __future__ import annotations

from dataclasses import replace

from roofml.hardware.gpu import TYPICAL, Gpu
from roofml.models.spec import ModelSpec
from roofml.models.weights import WeightFormat

UNPACKED = ("fp4", "fp8")
"""Types whose weights vLLM's Marlin kernels unpack before the product where the GPU cannot multiply them: NVFP4 and
MXFP4 before Blackwell (vllm issue 56603), FP8 on Ampere (vLLM's documentation of FP8: W8A16 by Marlin)."""
WEIGHT_ONLY = "run weight-only"


def served_on(model: ModelSpec, gpu: Gpu) -> ModelSpec:
    """The model with products in its own type where `gpu` lacks the type of the weights; `assumptions` say so.

    Marlin runs on NVIDIA's GPUs alone: on others the missing rate is an error where it is asked for.
    """
    if gpu.kernels_of == TYPICAL:
        return model
    said: dict[str, None] = {}

    def unpacked(format: WeightFormat | None) -> WeightFormat | None:
        if format is None or format.flops_dtype not in UNPACKED or format.flops_dtype in gpu.flops_per_us:
            return format
        arithmetic = format.flops_dtype.upper()
        said[f"{format.name} weights {WEIGHT_ONLY}, with {model.dtype} products: {gpu.name} has no {arithmetic}"] = None
        return replace(format, flops_dtype=model.dtype)

    layers = tuple(
        (replace(layer, formats=tuple((name, unpacked(format) or format) for name, format in layer.formats)), count)
        for layer, count in model.layers
    )
    head = unpacked(model.head_format)
    if not said:
        return model
    return replace(model, layers=layers, head_format=head, assumptions=(*model.assumptions, *said))
