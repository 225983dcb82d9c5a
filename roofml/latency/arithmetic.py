"""Weights in a type that a GPU does not compute in: they are unpacked, and that is said."""

from __future__ import annotations

from roofml.hardware.gpu import Gpu
from roofml.models.spec import ModelSpec


def weight_only(model: ModelSpec, gpu: Gpu) -> list[str]:
    """One sentence for each format of the model's weights that `gpu` unpacks before the product (`Gpu.computes_in`)."""
    formats = [format for layer, _ in model.layers for _, format in layer.formats]
    if model.head_format is not None:
        formats.append(model.head_format)
    said = {
        f"{format.name} weights run weight-only, with products in {gpu.computes_in(format.flops_dtype)}: "
        f"{gpu.name} has no {format.flops_dtype.upper()} arithmetic": None
        for format in formats
        if gpu.computes_in(format.flops_dtype) != format.flops_dtype
    }
    return list(said)
