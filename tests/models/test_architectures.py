"""Readers of classes that differ: what each makes of a small config, by hand, and what each refuses."""

from __future__ import annotations

from typing import Any

import pytest

from roofml.models.load import load_model
from roofml.models.operations import AttentionOp, StateOp
from roofml.models.spec import ModelSpec, model_from_config
from roofml.util.errors import InputError, NotSupportedError

COMMON: dict[str, Any] = {"vocab_size": 100, "torch_dtype": "bfloat16", "tie_word_embeddings": False}


def read(architecture: str, **fields: Any) -> ModelSpec:
    return model_from_config({"architectures": [architecture], **COMMON, **fields}, "small")


def test_opt_by_hand() -> None:
    """Layer: 4·8² + 4·8 attention, 2·8·32 + 40 MLP, 2 norms of 16; positions 18·8, norm 16, tied embedding 800."""
    fields = {"hidden_size": 8, "ffn_dim": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = read("OPTForCausalLM", **fields, max_position_embeddings=16, tie_word_embeddings=True)
    assert model.parameters() == 3 * (256 + 32 + 512 + 40 + 32) + 18 * 8 + 16 + 800
    with pytest.raises(NotSupportedError, match="word_embed_proj_dim: 4 is not supported yet"):
        read("OPTForCausalLM", **fields, max_position_embeddings=16, word_embed_proj_dim=4)


def test_falcon_shares_keys_and_values_among_all_heads_or_groups() -> None:
    fields = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 128}
    one = read("FalconForCausalLM", **fields, multi_query=True)
    grouped = read("FalconForCausalLM", **fields, new_decoder_architecture=True, num_kv_heads=4)
    assert [op.kv_heads for op in one.mixers(1) if isinstance(op, AttentionOp)] == [1]
    assert [op.kv_heads for op in grouped.mixers(1) if isinstance(op, AttentionOp)] == [4]


def test_fields_are_read_under_the_names_of_their_class() -> None:
    """By hand: GPT-J has n_embd, n_layer, n_head; 28 layers of 4·4096² and 8·4096² weights, and the MLP's biases."""
    model = load_model("gpt-j-6b")
    assert (model.hidden_size, model.num_layers, model.max_position_embeddings) == (4096, 28, 2048)
    layer = 12 * 4096**2 + 5 * 4096 + 2 * 4096
    assert model.parameters() == 28 * layer + 2 * 50400 * 4096 + 50400 + 2 * 4096


@pytest.mark.parametrize(
    ("name", "full", "windowed"),
    [
        ("olmo-3-1125-32b", 16, 48),
        ("exaone-4.0-32b", 16, 48),
        ("c4ai-command-r7b-12-2024", 8, 24),
        ("muse-glimmer-30b", 13, 39),
    ],
)
def test_three_layers_of_four_have_a_window(name: str, full: int, windowed: int) -> None:
    ops = [op for op in load_model(name).mixers(1) if isinstance(op, AttentionOp)]
    assert sum(op.count for op in ops if not op.window) == full
    assert sum(op.count for op in ops if op.window) == windowed


def test_a_window_as_long_as_the_context_is_none() -> None:
    ops = [op for op in load_model("phi-3.5-mini-instruct").mixers(1) if isinstance(op, AttentionOp)]
    assert [op.window for op in ops] == [0]
    ops = [op for op in load_model("phi-3-medium-4k-instruct").mixers(1) if isinstance(op, AttentionOp)]
    assert [op.window for op in ops] == [2047]


@pytest.mark.parametrize(
    ("name", "attention", "state"), [("kimi-k3", 24, 69), ("glm-5.3-flash", 11, 34), ("granite-4.0-h-small", 4, 36)]
)
def test_hybrids_have_so_many_layers_of_each_kind(name: str, attention: int, state: int) -> None:
    ops = load_model(name).mixers(1)
    assert sum(op.count for op in ops if isinstance(op, AttentionOp)) == attention
    assert sum(op.count for op in ops if isinstance(op, StateOp)) == state


def test_what_is_left_out_is_said() -> None:
    assert any("attn_res_block_size" in text for text in load_model("kimi-k3").assumptions)
    assert any("index_kpool" in text for text in load_model("glm-5.3-flash").assumptions)
    assert any("experts per token = 8 of 12" in text for text in load_model("longcat-flash-chat").assumptions)


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("MPTForCausalLM", {"d_model": 64, "no_bias": False}, "no_bias: biases is not supported yet"),
        ("MPTForCausalLM", {"d_model": 64, "attn_config": {"alibi": False}}, "alibi: learned positions"),
        ("MPTForCausalLM", {"d_model": 64, "attn_config": {"qk_ln": True}}, "attn_config: qk_ln: True is not"),
        ("PhiForCausalLM", {"qk_layernorm": True}, "qk_layernorm: True is not supported yet"),
        ("ChatGLMModel", {"add_bias_linear": True}, "add_bias_linear: True is not supported yet"),
        ("Ernie4_5_MoeForCausalLM", {"use_bias": True}, "use_bias: biases is not supported yet"),
        ("DeepseekV41ForCausalLM", {"engram_layer_ids": [1]}, r"engram_layer_ids: \[1\] is not supported yet"),
    ],
)
def test_an_option_that_is_not_modelled_is_refused_by_name(
    architecture: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotSupportedError, match=message):
        read(architecture, **fields)


@pytest.mark.parametrize("architecture", ["GraniteMoeHybridForCausalLM", "Glm5NextForConditionalGeneration"])
def test_a_hybrid_needs_its_layers_kinds(architecture: str) -> None:
    with pytest.raises(InputError, match="layer_types: expected a list of 2 layer types"):
        read(architecture, hidden_size=64, num_hidden_layers=2)
