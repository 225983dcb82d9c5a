"""Names and precisions: copies resolve to what they are copies of, and a precision replaces the config's."""

from __future__ import annotations

import pytest

from roofml.models.aliases import alias_of, known_aliases
from roofml.models.load import load_model
from roofml.models.precision import FORMATS, with_precision
from roofml.models.spec import has_config
from roofml.util.errors import InputError

BENCHMARKED = (
    "meta-llama/Llama-2-7b-hf",
    "mistralai/Mistral-7B-v0.1",
    "meta-llama/Llama-2-70b-hf",
    "MiniMaxAI/MiniMax-M2.5",
    "nvidia/Llama-3.3-70B-Instruct-FP8",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V4-Flash",
    "huggyllama/llama-7b",
    "nvidia/MiniMax-M2.5-NVFP4",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "RedHatAI/Llama-3.1-8B-Instruct-FP8-dynamic",
    "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8",
    "unsloth/Meta-Llama-3.1-8B-Instruct",
    "amd/Llama-3.1-405B-Instruct-FP8-KV",
    "Qwen/Qwen3-8B-FP8",
)


@pytest.mark.parametrize("name", BENCHMARKED)
def test_models_of_public_benchmarks_resolve_without_a_network(name: str) -> None:
    assert load_model(name).parameters() > 1e9


@pytest.mark.parametrize("repo", sorted(known_aliases()))
def test_every_alias_stands_for_a_config_that_is_there(repo: str) -> None:
    alias = known_aliases()[repo]
    assert has_config(alias.config)
    assert not alias.precision or alias.precision in FORMATS
    assert alias.precision or alias.config != repo.rpartition("/")[2]


def test_an_alias_is_its_config_under_its_own_name() -> None:
    own, copy = load_model("llama-3.1-70b-instruct"), load_model("meta-llama/Llama-3.3-70B-Instruct")
    assert copy.name == "llama-3.3-70b-instruct"
    assert copy.config_sha256 == own.config_sha256
    assert copy.layers == own.layers


def test_a_quantized_copy_has_the_precision_told_beside_it() -> None:
    model = load_model("nvidia/Llama-3.3-70B-Instruct-FP8")
    assert (model.kv_dtype, model.quantization) == ("fp8", "fp8")
    assert {gemm.flops_dtype for gemm in model.gemms(1) if gemm.rows == "tokens"} == {"fp8"}
    assert model.config_sha256 != load_model("llama-3.1-70b-instruct").config_sha256


def test_a_config_of_its_own_comes_before_the_rule_for_its_name() -> None:
    assert load_model("Qwen/Qwen3-30B-A3B-FP8").quantization == "fp8"
    assert load_model("nvidia/MiniMax-M2.5-NVFP4").quantization == "modelopt"


@pytest.mark.parametrize("name", ["nobody/Llama-2-7b-hf-v9", "RedHatAI/nothing-FP8", "nvidia/-FP8", "a/b/c"])
def test_a_name_that_stands_for_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no such path and not in model_configs/"):
        load_model(name)


def test_the_last_part_of_a_name_is_enough_where_it_is_one_alone() -> None:
    assert alias_of("Llama-3.3-70B-Instruct-FP8") == alias_of("nvidia/Llama-3.3-70B-Instruct-FP8")


@pytest.mark.parametrize(
    ("precision", "bytes_a_weight"),
    [("bf16", 2), ("fp8", 1), ("fp8_block", 1), ("int8", 1), ("nvfp4", 0.5625), ("mxfp4", 0.53125), ("int4", 0.515625)],
)
def test_weights_take_the_bytes_of_their_precision(precision: str, bytes_a_weight: float) -> None:
    """By hand: NVFP4 4 bits and 8 for 16, MXFP4 8 for 32, INT4 16 for 128."""
    model = load_model("llama-3.1-8b-instruct", precision)
    gemm = next(gemm for gemm in model.gemms(1) if gemm.rows == "tokens")
    assert gemm.weight_bytes / (gemm.n * gemm.k) == pytest.approx(bytes_a_weight, rel=2e-3)


def test_bf16_undoes_what_the_config_says() -> None:
    model = load_model("qwen3-30b-a3b-fp8", "bf16")
    assert model.weight_bytes(1) == load_model("qwen3-30b-a3b").weight_bytes(1)
    assert load_model("llama-2-7b-hf", "bf16").dtype == "bfloat16"


def test_four_bits_are_for_the_experts_of_a_mixture() -> None:
    model = load_model("qwen3-30b-a3b", "nvfp4")
    for gemm in model.gemms(1):
        assert (gemm.flops_dtype == "fp4") == bool(gemm.experts)
    assert model.layers[0][1] == 48


def test_an_unknown_precision_is_refused_with_those_known() -> None:
    with pytest.raises(InputError, match="precision 'fp6': expected one of bf16, fp8, fp8_block, nvfp4"):
        with_precision(load_model("llama-2-7b-hf"), "fp6")
    with pytest.raises(InputError, match="KV cache type 'fp4': expected one of bfloat16"):
        with_precision(load_model("llama-2-7b-hf"), "fp8", "fp4")
