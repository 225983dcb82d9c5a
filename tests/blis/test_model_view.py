"""BLIS's view of a config, against what BLIS printed for 17 models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden_runs import config_of

from roofml.blis.model_view import blis_model

FIELDS = {
    "NumLayers": "layers",
    "HiddenDim": "hidden_size",
    "VocabSize": "vocab_size",
    "NumHeads": "heads",
    "NumKVHeads": "kv_heads",
    "HeadDim": "head_dim",
    "IntermediateDim": "intermediate_size",
    "HiddenAct": "hidden_act",
    "NumLocalExperts": "experts",
    "NumExpertsPerTok": "experts_per_token",
    "MoEExpertFFNDim": "expert_width",
    "SharedExpertFFNDim": "shared_expert_width",
    "InterleaveMoELayerStep": "interleave_step",
    "DenseIntermediateDim": "dense_width",
    "FirstKDenseReplace": "first_dense_layers",
    "KVLoraRank": "kv_lora_rank",
    "QKRopeHeadDim": "rope_head_dim",
    "BytesPerParam": "dtype_bytes",
    "WeightBytesPerParam": "quantized_bytes",
}


def test_every_field_of_every_model_is_what_blis_printed(shared: Path) -> None:
    printed = json.loads((shared / "golden" / "blis_model_configs.json").read_text())
    assert len(printed) == 17
    for key, entry in printed.items():
        model = blis_model(config_of(shared, key), entry["model_name_used_for_weight_fallback"])
        seen = {go: getattr(model, field) for go, field in FIELDS.items()}
        assert seen == entry["parsed_all_fields"], key
        assert model.weight_bytes == entry["effective_weight_bytes_per_param"], key
        assert model.quantized_bytes == entry["weight_bytes_after_name_fallback"], key
        assert model.effective_head_dim == entry["effective_head_dim"], key
        assert (model.is_moe, model.is_mla) == (entry["is_moe"], entry["is_mla"]), key
        assert model.max_position_embeddings == entry["max_position_embeddings"], key
        by_tp = entry["kv_bytes_per_token_by_tp"]
        assert {tp: model.kv_bytes_per_token(int(tp)) for tp in by_tp} == by_tp, key


@pytest.mark.parametrize(
    ("quantization", "name", "weight_bytes"),
    [
        (None, "model", 2.0),
        ({"bits": 4}, "model", 0.5),
        ({"bits": "8"}, "model", 1.0),
        ({"bits": "four", "quant_method": "gptq"}, "model", 2.0),
        ({"quant_method": "FP8"}, "model", 1.0),
        ({"quant_method": "compressed-tensors", "config_groups": {"b": {"weights": {"num_bits": 8}},
          "a": {"weights": {"num_bits": 4}}}}, "model", 0.5),
        ({"quant_method": "compressed-tensors", "config_groups": []}, "model", 2.0),
        (None, "org/model-w4a16", 0.5),
        (None, "model-FP8-dynamic", 1.0),
        (None, "modelfp8x", 2.0),
    ],
)  # fmt: skip
def test_weight_width_from_the_quantization_config_then_from_the_name(
    quantization: dict[str, Any] | None, name: str, weight_bytes: float
) -> None:
    config = {"torch_dtype": "bfloat16", "quantization_config": quantization}
    assert blis_model(config, name).weight_bytes == weight_bytes


def test_what_is_missing_or_of_another_type_counts_as_nothing() -> None:
    model = blis_model({"hidden_size": "4096", "num_hidden_layers": True, "torch_dtype": 2}, "odd")
    assert (model.hidden_size, model.layers, model.dtype_bytes, model.hidden_act) == (0, 0, 0.0, "")


def test_one_expert_is_a_dense_model_and_mixtures_may_alternate() -> None:
    assert not blis_model({"num_local_experts": 1}, "one").is_moe
    every_third = {"num_local_experts": 8, "interleave_moe_layer_step": 2, "num_hidden_layers": 48}
    assert blis_model(every_third, "mixed").moe_layers == 16
