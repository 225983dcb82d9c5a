"""Formats of weights and cache from what checkpoints say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roofml.models.load import load_model
from roofml.models.quantization import matcher, read_quantization
from roofml.models.spec import ModelSpec, model_from_config
from roofml.models.weights import WeightFormat
from roofml.util.errors import InputError, NotSupportedError

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [0],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 64,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
    "torch_dtype": "bfloat16",
}
FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "tensor"}
FP4_WEIGHTS = {"num_bits": 4, "type": "float", "group_size": 16}
INT4_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}


def model(quantization: dict[str, Any] | None, **changes: Any) -> ModelSpec:
    return model_from_config({**CONFIG, **changes, "quantization_config": quantization}, "tiny")


def formats(spec: ModelSpec, layer: int = 1) -> dict[str, str]:
    """Name of the format of each product of a layer (0 is dense, 1 a mixture) and of the LM head."""
    found: dict[str, str] = {}
    chosen, _ = spec.layers[layer]
    names = {module: form.name for module, form in chosen.formats}
    for part in chosen.projections(spec.hidden_size):
        found[part.gemm] = names.get(part.module, "")
    found["lm_head"] = spec.head_format.name if spec.head_format else ""
    return found


def groups(*found: dict[str, Any], ignore: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {f"group_{i}": group for i, group in enumerate(found)},
        "ignore": ["lm_head"] if ignore is None else ignore,
        **more,
    }


@pytest.mark.parametrize(
    ("form", "n", "k", "size"),
    [
        (WeightFormat("bfloat16", 16, "bfloat16"), 3, 5, 30),
        (WeightFormat("fp8", 8, "fp8", (128, 128), 32), 256, 130, 256 * 130 + 2 * 2 * 4),
        (WeightFormat("fp8", 8, "fp8", (1, 0), 32), 256, 128, 256 * 128 + 256 * 4),
        (WeightFormat("fp8", 8, "fp8", (0, 0), 32), 256, 128, 256 * 128 + 4),
        (WeightFormat("nvfp4", 4, "fp4", (1, 16), 8), 64, 64, 64 * 64 // 2 + 64 * 4),
        (WeightFormat("mxfp4", 4, "bfloat16", (1, 32), 8), 64, 64, 64 * 64 // 2 + 64 * 2),
        (WeightFormat("int4", 4, "bfloat16", (1, 128), 20), 8, 256, 8 * 256 // 2 + 8 * 2 * 20 // 8),
    ],
)
def test_bytes_of_a_matrix_with_its_scales(form: WeightFormat, n: int, k: int, size: int) -> None:
    assert form.bytes(n, k) == size


FP8_GROUP = {"targets": ["Linear"], "weights": FP8_WEIGHTS, "input_activations": FP8_WEIGHTS}
W4A16_EXPERTS = {"model.layers.1.mlp.experts": {"quant_algo": "W4A16_NVFP4"}, "lm_head": {"quant_algo": "FP8"}}


def products(experts: str, attention: str = "", lm_head: str = "", down: str | None = None) -> dict[str, str]:
    """The formats of a mixture layer's products; the router's is the model's own always."""
    return {
        "qkv": attention,
        "attention_output": attention,
        "router": "",
        "expert_gate_up": experts,
        "expert_down": experts if down is None else down,
        "lm_head": lm_head,
    }


@pytest.mark.parametrize(
    ("quantization", "mixture"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, products("fp8", "fp8")),
        ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.self_attn"]}, products("fp8")),
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}, products("fp8", "fp8")),
        (groups(FP8_GROUP), products("fp8", "fp8")),
        (
            groups({"targets": ["Linear"], "weights": INT4_WEIGHTS}, ignore=["lm_head", "re:.*self_attn.*"]),
            products("int4"),
        ),
        (
            groups(FP8_GROUP, {"targets": ["re:.*experts.*down_proj"], "weights": FP4_WEIGHTS}),
            products("fp8", "fp8", down="nvfp4"),
        ),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True}, products("int4", "int4", "int4")),
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
            products("mxfp4"),
        ),
        ({"quant_algo": "NVFP4", "ignore": ["lm_head", "model.layers.1.self_attn*"]}, products("nvfp4")),
        ({"quant_method": "modelopt", "quantized_layers": W4A16_EXPERTS}, products("nvfp4", lm_head="fp8")),
    ],
)
def test_which_products_a_scheme_quantizes(quantization: dict[str, Any], mixture: dict[str, str]) -> None:
    assert formats(model(quantization)) == mixture


@pytest.mark.parametrize(
    ("quantization", "flops_dtype"),
    [
        (groups({"targets": ["Linear"], "weights": FP8_WEIGHTS, "input_activations": FP8_WEIGHTS}), "fp8"),
        (groups({"targets": ["Linear"], "weights": FP8_WEIGHTS}), "bfloat16"),
        (groups({"targets": ["Linear"], "weights": INT4_WEIGHTS}), "bfloat16"),
        (groups({"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int"},
                 "input_activations": {"num_bits": 8, "type": "int"}}), "int8"),
        (groups({"targets": ["Linear"], "weights": FP4_WEIGHTS, "input_activations": FP4_WEIGHTS}), "fp4"),
        (groups({"targets": ["Linear"], "weights": FP4_WEIGHTS}), "bfloat16"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "bfloat16"),
    ],
)  # fmt: skip
def test_weight_only_formats_compute_in_the_activation_type(quantization: dict[str, Any], flops_dtype: str) -> None:
    down = {gemm.flops_dtype for gemm in model(quantization).gemms(1) if gemm.name in {"down", "expert_down"}}
    assert down == {flops_dtype}


def test_layers_that_differ_in_format_are_kept_apart() -> None:
    spec = model({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]})
    assert formats(spec, 0) | {"lm_head": ""} == {
        "qkv": "fp8",
        "attention_output": "fp8",
        "gate_up": "",
        "down": "",
        "lm_head": "",
    }
    assert formats(spec, 1)["expert_down"] == "fp8"


def test_published_sizes() -> None:
    """Checkpoint sizes on the Hub: gpt-oss-20b 12.8 GiB, gpt-oss-120b 60.8 GiB, Qwen2.5-7B-AWQ 5.2 GiB, DeepSeek-V3."""
    for name, gib in (("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8), ("qwen2.5-7b-instruct-awq", 5.2)):
        assert load_model(name).weight_bytes(1) / 2**30 == pytest.approx(gib, abs=0.1)


@pytest.mark.parametrize(
    ("scheme", "kv_dtype"),
    [(None, "bfloat16"), ({"num_bits": 8, "type": "float"}, "fp8"), ("FP8", "fp8")],
)
def test_the_cache_has_a_type_of_its_own(scheme: object, kv_dtype: str) -> None:
    spec = model(groups(FP8_GROUP, kv_cache_scheme=scheme))
    assert spec.kv_dtype == kv_dtype
    assert spec.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "quantization_config.quant_method: 'bitsandbytes' is not supported"),
        ({"quant_method": "gptq", "bits": 5, "group_size": 128}, "quantization_config.bits: 5 is not supported"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"a": 1}}, "quantization_config.dynamic"),
        ({"quant_method": "fp8", "activation_scheme": "odd"}, "activation_scheme: 'odd' is not supported"),
        ({"quant_method": "modelopt", "quant_algo": "INT1"}, "quant_algo: 'INT1' is not supported"),
        (groups({"targets": ["Linear"], "weights": {"num_bits": 4, "type": "complex"}}), "weights.type: 'complex'"),
        (groups({"targets": ["Linear"], "weights": FP8_WEIGHTS}, kv_cache_scheme={"num_bits": 4}), "kv_cache_scheme"),
        (
            {"quant_method": "modelopt", "quantized_layers": {"lm_head": {"quant_algo": "X"}}},
            "quantized_layers.lm_head.quant_algo: 'X'",
        ),
    ],
)
def test_what_is_not_modelled_is_refused_by_its_key(quantization: dict[str, Any], message: str) -> None:
    with pytest.raises(NotSupportedError, match=message):
        model(quantization)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size: expected two positive integers"),
        ({"quant_method": "awq", "bits": "4", "group_size": 128}, "bits: expected a positive integer"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "config_groups: expected a mapping of groups"),
        (groups({"targets": "Linear", "weights": FP8_WEIGHTS}), "group_0.targets: expected a list of module names"),
        (groups({"targets": ["re:("], "weights": FP8_WEIGHTS}), "'re:\\(' is no regular expression"),
    ],
)
def test_nonsense_is_refused_by_its_key(quantization: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(quantization)


def test_a_name_that_promises_quantization_needs_a_config_that_says_which(tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-NVFP4"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(NotSupportedError, match="quantization_config is missing although the name says NVFP4"):
        load_model(str(folder))
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (folder / "hf_quant_config.json").write_text(json.dumps(beside))
    spec = load_model(str(folder))
    assert (spec.quantization, spec.kv_dtype, formats(spec)["expert_down"]) == ("modelopt", "fp8", "nvfp4")


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("gate", "model.layers.0.mlp.gate", True),
        ("gate", "model.layers.0.mlp.gate_proj", False),
        ("model.layers.1", "model.layers.11.mlp.gate_proj", False),
        ("model.layers.0.self_attn*", "model.layers.0.self_attn.q_proj", True),
        ("model.layers.*.self_attn", "model.layers.7.self_attn.q_proj", True),
        ("Linear", "lm_head", False),
        ("Linear", "model.layers.0.mlp.head_proj", True),
        ("re:.*mlp\\.(gate|up)_proj.*", "model.layers.0.mlp.up_proj", True),
        ("mtp*", "model.layers.0.mlp.up_proj", False),
    ],
)
def test_patterns_match_whole_path_components(pattern: str, name: str, found: bool) -> None:
    assert bool(matcher(pattern).search(name)) is found


def test_read_quantization_stands_alone() -> None:
    found = read_quantization({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "any", "float16")
    form = found.format_of(("model.layers.0.mlp.up_proj",))
    assert form == WeightFormat("int4", 4, "float16", (1, 64), 20)
    assert found.format_of(("lm_head",)) is None


@pytest.mark.parametrize(
    "pattern",
    ["re:(a+)+$", "re:(a|aa)+$", "re:((a*))*b", "re:(.*.*)*x", "re:.*.*.*.*.*x", "re:(a{1,50}){1,50}x", "*" * 50,
     "re:" + "x" * 2000, "re:[", "re:a{99999999999}"],
)  # fmt: skip
def test_a_pattern_that_could_search_for_years_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="quantization_config: ") as refused:
        matcher(pattern)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("re:.*mlp\\.(gate|up|gate_up|down)_proj.*", "model.layers.0.mlp.up_proj"),
        (r"re:model\.layers\.(\d+)\.mlp\..*", "model.layers.31.mlp.gate"),
        ("model.layers.*.mlp.experts.*", "model.layers.3.mlp.experts.1"),
    ],
)
def test_patterns_that_publishers_write_are_searched_for(pattern: str, name: str) -> None:
    assert matcher(pattern).search(name)
