"""Kernels of a format that was not measured: which stand in, by how much they are scaled, and how unsure that is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GPU, ROUND

from roofml.hardware import stand_ins
from roofml.hardware.formats import FORMATS, WEIGHTS_ALONE, stand_in
from roofml.hardware.ideal import with_floor
from roofml.models.load import load_model
from roofml.models.quantization import read_quantization
from roofml.models.weights import WeightFormat, plain
from roofml.util.package_data import data_folder


def test_every_format_names_stand_ins_that_are_formats_and_ends_with_bfloat16() -> None:
    for name, kind in FORMATS.items():
        assert set(kind.stands_in) <= set(FORMATS)
        assert (*kind.stands_in, name)[-2 if kind.stands_in else 0] in {"bfloat16", name}
    assert {FORMATS[name].flops_dtype for name in WEIGHTS_ALONE.values()} == {"bfloat16"}


def test_a_measured_format_serves_itself_and_an_unknown_one_is_bfloat16() -> None:
    assert stand_in("fp8", {"fp8", "bfloat16"}) == ("fp8", 0.0)
    other, sd = stand_in("int1", {"bfloat16"})
    assert (other, sd > 0) == ("bfloat16", True)


def test_kernels_as_wide_come_first_and_are_less_unsure() -> None:
    alike, near = stand_in("fp8", {"fp8_block", "bfloat16"})
    other, far = stand_in("fp8", {"bfloat16"})
    assert (alike, other) == ("fp8_block", "bfloat16")
    assert 0 < near < far


@pytest.mark.parametrize(
    ("config", "kernel"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, "fp8_block"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}, "nvfp4_only"),
        ({"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"}, "int8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8_only"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_a_checkpoint_says_its_kernels(config: dict[str, object], kernel: str) -> None:
    (rule, *_) = read_quantization(config, "toy", "bfloat16").rules
    assert rule.format.kernel == kernel
    assert kernel in FORMATS


def test_unquantized_weights_run_the_plain_kernels() -> None:
    assert {plain("bfloat16").kernel, plain("float16").kernel} == {"bfloat16"}


def test_every_shipped_config_has_kernels_that_are_known() -> None:
    for folder in data_folder("model_configs").glob("*/config.json"):
        assert {gemm.kernel for gemm in load_model(str(folder)).gemms(1)} <= set(FORMATS)


def test_unpacked_weights_are_read_faster_but_not_computed_faster() -> None:
    """Kernels without a launch: the same share of a roofline whose slope for memory is a quarter."""
    slowdown, sd = stand_ins.product(ROUND, GPU, "int4", 8192, 8192)
    own, own_sd = stand_ins.product(ROUND, GPU, "bfloat16", 8192, 8192)
    assert sd > own_sd
    n, m = 8192 * 8192, ROUND.gemm.tokens
    times = [
        value * np.maximum(2 * m * n / 1e9, n * FORMATS[kind].weight_bytes / 3e6)
        for value, kind in ((slowdown, "int4"), (own, "bfloat16"))
    ]
    assert times[0][0] < 0.4 * times[1][0]
    assert times[0][-1] == pytest.approx(times[1][-1])


@given(st.floats(1, 50), st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0, 20))
def test_the_launch_stays_and_the_rest_goes_as_ideal_times_do(
    slowdown: float, ideal: float, other: float, floor: float
) -> None:
    found = with_floor(np.array([slowdown]), np.array([ideal]), np.array([other]), floor)[0] * ideal
    kept = min(floor, slowdown * other)
    assert found == pytest.approx(kept + (slowdown * other - kept) * ideal / other, rel=1e-9)
    assert found >= kept * (1 - 1e-12)


def test_a_gpu_without_fp8_units_unpacks_the_weights() -> None:
    """ROUND's GPU has no rate for FP8: a product of FP8 weights takes the arithmetic of bfloat16."""
    assert GPU.computes_in("fp8") == "bfloat16"
    assert GPU.computes_in("tf32") == "tf32"
    assert WeightFormat("fp8", 8, "fp8", (128, 128), 32).kernel == "fp8_block"
    assert WEIGHTS_ALONE["fp8_block"] == "fp8_only"
