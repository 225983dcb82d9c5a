"""Precision: one format for the weights of a model that replaces what its config says.

For `--precision`, and for quantized copies whose repositories are known by name alone (`model_configs/aliases.yaml`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from roofml.models.layer import Layer
from roofml.models.quantization import MXFP4, fp8_format, nvfp4_format
from roofml.models.spec import ModelSpec
from roofml.models.weights import KV_DTYPE_BYTES, WeightFormat, plain
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.names import shown

FORMATS: dict[str, Callable[[str], WeightFormat | None]] = {
    "bf16": lambda dtype: None,
    "fp8": lambda dtype: fp8_format((1, 0)),
    "fp8_block": lambda dtype: fp8_format((128, 128)),
    "nvfp4": lambda dtype: nvfp4_format(dtype, weight_only=False),
    "mxfp4": lambda dtype: replace(MXFP4, flops_dtype=dtype),
    "int4": lambda dtype: WeightFormat("int4", 4, dtype, (1, 128), 16),
    "int8": lambda dtype: WeightFormat("int8", 8, "int8", (1, 0), 32),
}
"""Precision -> the format of a matrix: FP8 with a scale a row, or for blocks of 128 x 128; NVFP4 with 16 elements a
scale and arithmetic in FP4; MXFP4 and INT4 (groups of 128) weight-only; INT8 with activations of INT8."""
OF_EXPERTS = frozenset({"nvfp4", "mxfp4", "int4"})
"""Precisions that publishers of mixtures give the routed experts alone (gpt-oss, Kimi-K2.5, MiniMax-M2.5-NVFP4)."""
DTYPE = "bfloat16"
"""Type of the activations where the precision is bf16."""

KERNELS = {
    "bf16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "int4": "int4",
    "int8": "int8",
}
"""Precision -> the kind of kernel that serves it (`WeightFormat.kernel`)."""


def _main_format(model: ModelSpec) -> str:
    """The kind of kernel that multiplies most of the weights' elements."""
    elements: Counter[str] = Counter()
    for layer, count in model.layers:
        formats = dict(layer.formats)
        for part in layer.projections(model.hidden_size):
            elements[formats.get(part.module, plain(model.dtype)).kernel] += count * part.parameters
    return max(elements, key=lambda kernel: (elements[kernel], kernel))


def with_precision(model: ModelSpec, precision: str, kv_dtype: str = "") -> ModelSpec:
    """The model with its weights in `precision`, and its KV cache in `kv_dtype` unless that is empty.

    Every matrix of its layers has that format, but routers and tiny gates; embeddings and LM head are in the model's
    own type. In a mixture, formats of 4 bits hold for the routed experts. A model whose weights are in that format for
    the most part stays as its config has it. Raises InputError for an unknown name.
    """
    if precision not in FORMATS:
        raise InputError(f"precision {shown(precision)}: expected one of {', '.join(FORMATS)}")
    if kv_dtype and kv_dtype not in KV_DTYPE_BYTES:
        raise InputError(f"KV cache type {shown(kv_dtype)}: expected one of {', '.join(KV_DTYPE_BYTES)}")
    if _main_format(model) == KERNELS[precision]:
        return replace(model, kv_dtype=kv_dtype) if kv_dtype else model
    dtype = DTYPE if precision == "bf16" else model.dtype
    format = FORMATS[precision](dtype)
    parts = [part for layer, _ in model.layers for part in layer.projections(model.hidden_size)]
    experts_alone = precision in OF_EXPERTS and any(part.experts for part in parts)
    layers: Counter[Layer] = Counter()
    for layer, count in model.layers:
        modules = (
            part.module
            for part in layer.projections(model.hidden_size)
            if part.quantizable and (part.experts or not experts_alone)
        )
        formats = () if format is None else tuple((module, format) for module in dict.fromkeys(modules))
        layers[replace(layer, formats=formats)] += count
    kept = dtype if model.kv_dtype == model.dtype else model.kv_dtype
    return replace(
        model,
        layers=tuple(layers.items()),
        dtype=dtype,
        kv_dtype=kv_dtype or kept,
        head_format=None,
        quantization="none" if precision == "bf16" else precision,
        config_sha256=digest(model.config_sha256, precision, kv_dtype),
    )
