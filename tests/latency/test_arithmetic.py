"""Weights in a type that a GPU does not compute in run weight-only, and it is said."""

from __future__ import annotations

import pytest

from roofml.hardware.gpu import load_gpu
from roofml.latency.arithmetic import weight_only
from roofml.latency.deployment import deploy
from roofml.models.load import load_model


@pytest.mark.parametrize(
    ("precision", "gpu", "said"),
    [
        ("nvfp4", "H100", ["nvfp4 weights run weight-only, with products in bfloat16: H100 has no FP4 arithmetic"]),
        ("fp8", "A100", ["fp8 weights run weight-only, with products in bfloat16: A100-SXM has no FP8 arithmetic"]),
        ("nvfp4", "B200", []),
        ("fp8", "L40S", []),
        ("mxfp4", "H100", []),
        ("bf16", "A100", []),
    ],
)
def test_what_a_gpu_does_not_compute_in_is_said(precision: str, gpu: str, said: list[str]) -> None:
    assert weight_only(load_model("llama-3.1-8b-instruct", precision), load_gpu(gpu)) == said


def test_weight_only_halves_the_reading_and_not_the_arithmetic() -> None:
    plain, packed = (deploy("llama-3.1-8b-instruct", "A100", 1, precision=precision) for precision in ("bf16", "fp8"))
    assert packed.weight_only
    assert packed.tables.weights[1] < 0.75 * plain.tables.weights[1]
    assert packed.tables.gemm[2048] > 0.6 * plain.tables.gemm[2048]


def test_a_deployment_doubts_kernels_of_a_relative() -> None:
    (doubt,) = deploy("llama-3.1-8b-instruct", "GH200", 1).doubts
    assert (doubt.sentence, doubt.sd) == ("kernels of H100 stand for GH200's (in kind)", pytest.approx(0.1))
    assert deploy("llama-3.1-8b-instruct", "H100", 1).doubts == ()
