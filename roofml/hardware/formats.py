"""Formats of weights that kernels are measured for: what each computes in and reads, and which stand in for which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelFormat:
    """One kind of kernel for matrix products, by its weights and the type it computes in."""

    flops_dtype: str
    """Key of `Gpu.flops_per_us`."""
    weight_bytes: float
    """Bytes of an element of the weights with its part of the scales."""
    stands_in: tuple[str, ...]
    """Formats whose measured kernels stand in where this one's are not measured, the most alike first."""


FORMATS = {
    "bfloat16": KernelFormat("bfloat16", 2.0, ()),
    "fp8": KernelFormat("fp8", 1.0, ("fp8_block", "bfloat16")),
    "fp8_block": KernelFormat("fp8", 1.0, ("fp8", "bfloat16")),
    "int8": KernelFormat("int8", 1.0, ("fp8", "bfloat16")),
    "nvfp4": KernelFormat("fp4", 0.5625, ("mxfp4_mxfp8", "fp8_block", "fp8", "bfloat16")),
    "mxfp4_mxfp8": KernelFormat("fp8", 0.53125, ("nvfp4", "fp8_block", "fp8", "bfloat16")),
    "mxfp4_fp4": KernelFormat("fp4", 0.53125, ("nvfp4", "mxfp4_mxfp8", "fp8_block", "fp8", "bfloat16")),
    "mxfp4": KernelFormat("bfloat16", 0.53125, ("int4", "bfloat16")),
    "int4": KernelFormat("bfloat16", 0.5625, ("mxfp4", "bfloat16")),
    "nvfp4_only": KernelFormat("bfloat16", 0.5625, ("mxfp4", "int4", "bfloat16")),
    "fp8_only": KernelFormat("bfloat16", 1.0, ("int4", "mxfp4", "bfloat16")),
    "int8_only": KernelFormat("bfloat16", 1.0, ("int4", "mxfp4", "bfloat16")),
}
"""Kernel format -> what it is. `fp8` has a scale for a tensor or a row and includes quantizing the activations,
`fp8_block` one for 128 x 128 elements; NVFP4 an 8-bit scale for 16 elements, MXFP4 one for 32, `int4` a 16-bit scale
for 32. Names that end in `_only`, and `mxfp4` and `int4`, are of weights alone, unpacked to the activation type
(Marlin, Triton)."""

WEIGHTS_ALONE = {
    "fp8": "fp8_only", "fp8_block": "fp8_only", "nvfp4": "nvfp4_only", "mxfp4_mxfp8": "mxfp4", "mxfp4_fp4": "mxfp4",
}  # fmt: skip
"""Format -> the one that serves its checkpoints on a GPU that does not compute in its type: vLLM unpacks the weights
(Marlin; FP8 since 0.5, NVFP4 see vllm#56603)."""

SD_OF_THE_SAME_WIDTH = 0.15
"""Relative sd of kernels that stand in for others of as many bytes: FP8 in blocks took 0.87 to 1.02 of FP8's time on an
H100 and a B200 (vLLM 0.25)."""
SD_OF_ANOTHER_WIDTH = 0.25
"""Of those that read another number of bytes."""


def stand_in(format: str, measured: set[str]) -> tuple[str, float]:
    """The measured format that serves for `format`, and the relative sd that this adds: 0 for itself.

    Of an unknown format it is bfloat16, which every table has.
    """
    if format in measured:
        return format, 0.0
    known = FORMATS.get(format)
    for other in known.stands_in if known else ():
        if other in measured:
            alike = known is not None and FORMATS[other].weight_bytes == known.weight_bytes
            return other, SD_OF_THE_SAME_WIDTH if alike else SD_OF_ANOTHER_WIDTH
    return "bfloat16", SD_OF_ANOTHER_WIDTH
