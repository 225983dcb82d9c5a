"""Models that mix attention with recurrent layers, or whose layers are irregular: Qwen3-Next, Nemotron-H, DeciLM."""

from __future__ import annotations

from typing import Any, cast

from roofml.models.architectures.common import Stack, attention_of, head_dim_of, mlp_of
from roofml.models.architectures.fields import Fields
from roofml.models.architectures.mixture import experts_of, qwen_experts, sparse_steps
from roofml.models.attention import Attention
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer, Mixer
from roofml.models.state_space import STATE_DTYPE_BYTES, LinearAttention, Mamba
from roofml.util.errors import InputError

LINEAR_OR_FULL = {"linear_attention": 0, "full_attention": 1}


def state_dtype_of(fields: Fields, field: str, model_dtype: str) -> str:
    """Type of the recurrent state: the config's `field`, else the model's own type."""
    if fields.config.get(field) is None:
        return model_dtype
    return fields.word(field, STATE_DTYPE_BYTES)


def qwen_next(fields: Fields, *, sparse: bool = True) -> Stack:
    """Qwen3-Next and Qwen3.5: gated delta layers, every `full_attention_interval`-th one gated attention."""
    layers = fields.layers()
    interval = fields.size("full_attention_interval", 4)
    kinds = fields.words("layer_types", layers, LINEAR_OR_FULL) or [
        "full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)
    ]
    if not fields.flag("attn_output_gate", True):
        raise fields.refusal("attn_output_gate", "attention without gate")
    bias = fields.flag("attention_bias")
    attention = attention_of(fields, bias=bias, output_bias=bias, qk_norm=True, query_gate=True)
    key_heads, value_heads = fields.size("linear_num_key_heads"), fields.size("linear_num_value_heads")
    if value_heads % key_heads:
        raise InputError(
            f"{fields.name}: linear_num_value_heads {value_heads} is no multiple of linear_num_key_heads {key_heads}"
        )
    linear = LinearAttention(
        key_heads,
        value_heads,
        fields.size("linear_key_head_dim"),
        fields.size("linear_value_head_dim"),
        fields.size("linear_conv_kernel_dim"),
        state_dtype_of(fields, "mamba_ssm_dtype", fields.dtype),
    )
    is_mixture = sparse_steps(fields, layers) if sparse else [False] * layers
    mixture = qwen_experts(fields, shared=True) if sparse else mlp_of(fields)
    dense = mixture if all(is_mixture) else mlp_of(fields)
    stack = [
        Layer(linear if kind == "linear_attention" else attention, mixture if moe else dense)
        for kind, moe in zip(kinds, is_mixture, strict=True)
    ]
    return Stack(stack, fields.size("hidden_size"))


NEMOTRON_LETTERS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
NEMOTRON_BLOCKS = {word: letter for letter, word in NEMOTRON_LETTERS.items()}


def nemotron_blocks(fields: Fields) -> list[str]:
    """The kind of each block, from `hybrid_override_pattern` (letters) or `layers_block_type` (words)."""
    if fields.config.get("hybrid_override_pattern") is None:
        value = fields.config.get("layers_block_type")
        if not isinstance(value, list) or not value:
            raise fields.error("layers_block_type", "a list of block types, or hybrid_override_pattern")
        length = len(cast("list[object]", value))
        return fields.words("layers_block_type", length, NEMOTRON_BLOCKS) or []
    pattern = fields.word("hybrid_override_pattern")
    if fields.layers() != len(pattern):
        raise fields.error("hybrid_override_pattern", f"{fields.layers()} letters, as num_hidden_layers says")
    for letter in pattern:
        if letter not in NEMOTRON_LETTERS:
            raise fields.refusal("hybrid_override_pattern", f"block {letter!r}")
    return [NEMOTRON_LETTERS[letter] for letter in pattern]


def nemotron_h(fields: Fields) -> Stack:
    """Nemotron-H: blocks that are each one of Mamba-2, attention, MLP or a mixture, with two-matrix MLPs."""
    blocks = nemotron_blocks(fields)
    bias = fields.flag("mlp_bias")
    mixers: dict[str, Mixer] = {}
    mlps: dict[str, FeedForward] = {}
    if "attention" in blocks:
        mixers["attention"] = attention_of(fields, bias=False)
    if "mamba" in blocks:
        mixers["mamba"] = Mamba(
            fields.size("mamba_num_heads"),
            fields.size("mamba_head_dim"),
            fields.size("n_groups"),
            fields.size("ssm_state_size"),
            fields.size("conv_kernel"),
            state_dtype_of(fields, "mamba_ssm_cache_dtype", fields.dtype),
            conv_bias=fields.flag("use_conv_bias", True),
            bias=fields.flag("use_bias"),
        )
    if "mlp" in blocks:
        mlps["mlp"] = mlp_of(fields, gated=False, bias=bias)
    if "moe" in blocks:
        shared = "moe_shared_expert_intermediate_size"
        mixture = experts_of(
            fields,
            "moe_intermediate_size",
            "n_routed_experts",
            shared=shared,
            shared_width=fields.size(shared) * fields.count("n_shared_experts", 1),
            gated=False,
            bias=bias,
            latent=fields.optional_size("moe_latent_size"),
        )
        mlps["moe"] = mixture
    stack = [Layer(mixers.get(block), mlps.get(block), norms=1) for block in blocks]
    return Stack(stack, fields.size("hidden_size"))


def decilm(fields: Fields) -> Stack:
    """Nemotron-NAS (DeciLM): Llama layers whose heads and widths differ, some without attention or MLP."""
    layers = fields.layers()
    value = fields.config.get("block_configs")
    if not isinstance(value, list) or len(cast("list[object]", value)) != layers:
        raise fields.error("block_configs", f"a list of {layers} blocks")
    heads, hidden = fields.size("num_attention_heads"), fields.size("hidden_size")
    bias, mlp_bias, size = fields.flag("attention_bias"), fields.flag("mlp_bias"), head_dim_of(fields)
    stack: list[Layer] = []
    for i, block in enumerate(cast("list[object]", value)):
        if not isinstance(block, dict):
            raise fields.error("block_configs", "mappings")
        block_fields = Fields(cast("dict[str, Any]", block), f"{fields.name}: block_configs[{i}]")
        attention, ffn = block_fields.inner("attention"), block_fields.inner("ffn")
        for part in (attention, ffn):
            for option in ("replace_with_linear", "sparsify", "num_sink_tokens", "window_length"):
                part.refuse(option, False)
        mixer = None
        if not attention.flag("no_op"):
            group = attention.size("n_heads_in_group")
            if heads % group:
                raise attention.error("n_heads_in_group", f"a divisor of num_attention_heads {heads}")
            mixer = Attention(heads, heads // group, size, bias=bias, output_bias=bias)
        mlp = None
        if not ffn.flag("no_op"):
            mlp = FeedForward(deci_width(ffn, hidden), bias=mlp_bias, field="ffn_mult")
        stack.append(Layer(mixer, mlp, norms=(mixer is not None) + (mlp is not None)))
    return Stack(stack, hidden)


def deci_width(ffn: Fields, hidden: int) -> int:
    """Intermediate size of a DeciLM MLP: 2·ffn_mult·hidden/3, rounded up to a multiple of 256."""
    multiple = ffn.config.get("ffn_mult")
    if isinstance(multiple, bool) or not isinstance(multiple, int | float) or not 0 < multiple < 1000:
        raise ffn.error("ffn_mult", "a number between 0 and 1000")
    return -(-int(2 * multiple * hidden / 3) // 256) * 256
