"""Gemma 4: full and windowed layers of different head sizes, and an MLP beside the mixture of experts."""

from __future__ import annotations

from roofml.models.architectures.common import Stack, heads_of, mlp_of, window_pattern
from roofml.models.architectures.fields import Fields
from roofml.models.attention import Attention
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer


def gemma4(fields: Fields) -> Stack:
    """Full layers have `global_head_dim` and `num_global_key_value_heads`; with `attention_k_eq_v` no value matrix.

    With `enable_moe_block` every layer adds a mixture to its MLP, which becomes the mixture's shared expert here.
    """
    for field in ("hidden_size_per_layer_input", "num_kv_shared_layers", "use_double_wide_mlp"):
        fields.refuse(field, 0, False)
    layers, hidden = fields.layers(), fields.size("hidden_size")
    default = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)]
    windows = window_pattern(fields, layers, default)
    heads, kv_heads = heads_of(fields)
    bias = fields.flag("attention_bias")
    shared = fields.flag("attention_k_eq_v")
    size = fields.size("head_dim")
    global_size = fields.size("global_head_dim", size, "not in the config: as head_dim")
    global_kv_heads = fields.size("num_global_key_value_heads", kv_heads, "not in the config: as num_key_value_heads")
    full = Attention(
        heads, global_kv_heads, global_size, bias=bias, output_bias=bias, qk_norm=True, keys_are_values=shared
    )
    mlp, norms = mlp_of(fields), 4
    if fields.flag("enable_moe_block"):
        experts = fields.size("num_experts")
        mlp = FeedForward(
            fields.size("moe_intermediate_size"),
            experts,
            fields.experts_per_token(experts, "top_k_experts"),
            shared_width=mlp.width,
            small=hidden + experts,  # the router's scales, and one for each expert
            field="moe_intermediate_size",
            shared_field="intermediate_size",
            shared_module="mlp",
        )
        norms = 7
    stack = [
        Layer(
            full
            if not window
            else Attention(heads, kv_heads, size, bias=bias, output_bias=bias, qk_norm=True, window=window),
            mlp,
            norms,
        )
        for window in windows
    ]
    return Stack(stack, hidden)
