"""DBRX and Phi-3.5-MoE: mixtures behind LayerNorms."""

from __future__ import annotations

from roofml.models.architectures.common import Stack, attention_of
from roofml.models.architectures.fields import Fields
from roofml.models.architectures.mixture import experts_of
from roofml.models.attention import Attention
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer


def dbrx(fields: Fields) -> Stack:
    """DBRX: LayerNorms without bias, sizes of heads and experts in `attn_config` and `ffn_config`."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    attention, ffn = fields.inner("attn_config"), fields.inner("ffn_config")
    kv_heads = attention.size("kv_n_heads")
    if heads % kv_heads or hidden % heads:
        raise attention.error("kv_n_heads", f"a divisor of n_heads {heads}, which divides d_model {hidden}")
    experts = ffn.size("moe_num_experts")
    mixture = FeedForward(
        ffn.size("ffn_hidden_size"), experts, ffn.experts_per_token(experts, "moe_top_k"), field="ffn_hidden_size"
    )
    layer = Layer(Attention(heads, kv_heads, hidden // heads), mixture)
    return Stack([layer] * fields.layers(), hidden)


def phi_moe(fields: Fields) -> Stack:
    """Phi-3.5-MoE: LayerNorms with bias, biases on attention; the LM head may have one."""
    bias = fields.flag("attention_bias")
    attention = attention_of(fields, bias=bias, output_bias=bias, window=_window(fields))
    layer = Layer(attention, experts_of(fields, "intermediate_size", "num_local_experts"), norm_bias=True)
    head = fields.size("vocab_size") if fields.flag("lm_head_bias") else 0
    return Stack([layer] * fields.layers(), 2 * fields.size("hidden_size") + head)


def _window(fields: Fields) -> int:
    """The window, unless it is as long as the context."""
    window = fields.optional_size("sliding_window")
    return window if window < fields.size("max_position_embeddings") else 0
