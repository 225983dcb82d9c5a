"""Weight matrices of a layer: their shape, how tensor parallelism cuts them, and the format of their elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from roofml.util.errors import InputError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2}
"""Bytes of one element of the activation types modelled."""

KV_DTYPE_BYTES = {**DTYPE_BYTES, "fp8": 1}
"""Bytes of one element of the KV cache types modelled."""


@dataclass(frozen=True)
class WeightFormat:
    """How a weight matrix is stored and in which type its product is computed.

    Weight-only formats (int4, mxfp4) are unpacked before the product: `flops_dtype` is then the activation type.
    """

    name: str
    bits: int
    """Bits of one element."""
    flops_dtype: str
    """Key of `Gpu.flops_per_us`: the rate at which the product runs."""
    block: tuple[int, int] = (0, 0)
    """Rows and columns of the matrix that share one scale; 0 = all of them."""
    scale_bits: int = 0
    """Bits of the scale (and zero point) of one block."""

    @property
    def kernel(self) -> str:
        """The kind of kernel that serves it, as kernel tables name it (`roofml/hardware/formats.py`)."""
        if self.bits == 16:
            return "bfloat16"
        alone = self.flops_dtype in DTYPE_BYTES
        if self.bits < 8 and self.name.startswith("int"):
            return "int4"
        if self.name == "mxfp4":
            return {"fp8": "mxfp4_mxfp8", "fp4": "mxfp4_fp4"}.get(self.flops_dtype, "mxfp4")
        if alone:
            return f"{self.name}_only"
        blocks = self.block[0] > 1 and self.block[1] > 1
        return "fp8_block" if self.name == "fp8" and blocks else self.name

    def bytes(self, n: int, k: int) -> int:
        """Bytes of an n x k matrix with its scales: n·k·bits/8 + ceil(n/rows)·ceil(k/columns)·scale_bits/8."""
        rows, columns = self.block[0] or n, self.block[1] or k
        scales = -(-n // rows) * -(-k // columns) * self.scale_bits
        return -(-(n * k * self.bits + scales) // 8)


def plain(dtype: str) -> WeightFormat:
    """Unquantized weights in the model's own type."""
    return WeightFormat(dtype, 8 * DTYPE_BYTES[dtype], dtype)


Split = Literal["columns", "rows", "replicated"]


@dataclass(frozen=True)
class Projection:
    """One weight matrix W (n x k, y = W·x) of a layer as the checkpoint stores it. Sizes are in elements.

    Tensor parallelism cuts n ("columns"), cuts k ("rows", an all-reduce follows) or keeps W whole on every rank.
    Cuts fall between `units` (heads; 0: single elements). With `replicate`, units fewer than ranks are copied, as vLLM
    copies KV heads.
    """

    module: str
    """Name inside the layer as `transformers` gives it; quantization configs list these names."""
    gemm: str
    """Name of the product. Matrices of one layer with the same name here run as one fused product."""
    n: int
    k: int
    split: Split = "columns"
    units: int = 0
    field: str = "hidden_size"
    """The config field that has to divide by the tensor-parallel size."""
    replicate: bool = False
    bias: bool = False
    experts: int = 0
    """Number of such matrices, one for each expert; 0: a single matrix."""
    quantizable: bool = True
    """False for routers and tiny gates, which engines keep in the activation type whatever the config says."""

    @property
    def parameters(self) -> int:
        """Elements of the matrix (of all experts' matrices) and its bias."""
        return max(self.experts, 1) * (self.n * self.k + (self.n if self.bias else 0))

    def shape(self, tp: int) -> tuple[int, int]:
        """(n, k) on one rank. Raises InputError naming the field where the cut is impossible."""
        if self.split == "replicated":
            return self.n, self.k
        whole = self.n if self.split == "columns" else self.k
        units = self.units or whole
        if units % tp == 0:
            part = whole // tp
        elif self.replicate and tp % units == 0:
            part = whole // units
        else:
            raise InputError(f"{self.field} {units} does not divide by tensor parallel size {tp}")
        return (part, self.k) if self.split == "columns" else (self.n, part)
