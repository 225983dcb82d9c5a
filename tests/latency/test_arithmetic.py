"""Quantized weights on a GPU without units for their type run weight-only, and it is said."""

from __future__ import annotations

import pytest

from roofml.hardware.gpu import load_gpu
from roofml.latency.arithmetic import served_on
from roofml.latency.deployment import deploy
from roofml.models.load import load_model
from roofml.util.errors import InputError


@pytest.mark.parametrize(
    ("precision", "gpu", "arithmetic"),
    [
        ("nvfp4", "H100", "bfloat16"),
        ("nvfp4", "A100", "bfloat16"),
        ("nvfp4", "B200", "fp4"),
        ("fp8", "A100", "bfloat16"),
        ("fp8", "L40S", "fp8"),
        ("mxfp4", "B200", "bfloat16"),
    ],
)
def test_the_gpu_decides_the_arithmetic(precision: str, gpu: str, arithmetic: str) -> None:
    asked = load_model("llama-3.1-8b-instruct", precision)
    model = served_on(asked, load_gpu(gpu))
    assert {gemm.flops_dtype for gemm in model.gemms(1) if gemm.rows == "tokens"} == {arithmetic}
    assert model.weight_bytes(1) == asked.weight_bytes(1)
    said = [text for text in model.assumptions if "run weight-only" in text]
    assert len(said) == (arithmetic == "bfloat16" and precision != "mxfp4")


def test_a_deployment_says_it_in_a_line() -> None:
    deployment = deploy("llama-3.1-8b-instruct", "H100", 1, precision="nvfp4")
    assert deployment.stand_ins == ["nvfp4 weights run weight-only, with bfloat16 products: H100 has no FP4"]


def test_weight_only_needs_a_gpu_with_such_kernels() -> None:
    with pytest.raises(InputError, match=r"MI300X: tflops.fp4 is missing from its sheet"):
        deploy("llama-3.1-8b-instruct", "MI300X", 1, precision="nvfp4")


def test_kernels_of_a_relative_are_said_with_their_variance() -> None:
    deployment = deploy("llama-3.1-8b-instruct", "GH200", 1)
    assert deployment.stand_ins == ["kernels of H100 stand for GH200's (in kind): ±10 %"]
    assert deploy("llama-3.1-8b-instruct", "H100", 1).stand_ins == []
