"""Decoders of the first years: LayerNorms and biases, two-matrix MLPs, learned positions or none.

Field names differ by class; `Architecture.names` maps them to today's. LM heads with a bias have it in `Stack.small`.
"""

from __future__ import annotations

from roofml.models.architectures.common import Stack, attention_of, heads_of, mlp_of
from roofml.models.architectures.fields import Fields
from roofml.models.attention import Attention
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer

GPT2_NAMES = (
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
    ("intermediate_size", "n_inner"),
)
MPT_NAMES = (
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("max_position_embeddings", "max_seq_len"),
)
BLOOM_NAMES = (
    ("hidden_size", "n_embed"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "seq_length"),
)
FALCON_NAMES = (
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("num_kv_heads", "n_head_kv"),
)
CHATGLM_NAMES = (
    ("num_hidden_layers", "num_layers"),
    ("intermediate_size", "ffn_hidden_size"),
    ("head_dim", "kv_channels"),
    ("vocab_size", "padded_vocab_size"),
    ("max_position_embeddings", "seq_length"),
)
OPT_NAMES = (("intermediate_size", "ffn_dim"),)


def wide_mlp(fields: Fields, *, bias: bool) -> FeedForward:
    """A two-matrix MLP, four times as wide as the hidden state where the config says nothing."""
    width = fields.size("intermediate_size", 4 * fields.size("hidden_size"))
    return FeedForward(width, gated=False, bias=bias)


def opt(fields: Fields) -> Stack:
    """OPT: biases everywhere, learned positions (two more than the context has), embeddings as wide as the layers."""
    hidden = fields.size("hidden_size")
    fields.refuse("word_embed_proj_dim", hidden)
    if not fields.flag("do_layer_norm_before", True):
        raise fields.refusal("do_layer_norm_before", "norms after the blocks")
    bias = fields.flag("enable_bias", True)
    attention = attention_of(fields, bias=bias, output_bias=bias)
    layer = Layer(attention, mlp_of(fields, gated=False, bias=bias), norm_bias=True)
    positions = (fields.size("max_position_embeddings") + 2) * hidden
    return Stack([layer] * fields.layers(), positions + 2 * hidden)


def gpt_j(fields: Fields) -> Stack:
    """GPT-J: attention without bias and MLP with, side by side after one LayerNorm; the LM head has a bias."""
    attention = attention_of(fields, bias=False)
    layer = Layer(attention, wide_mlp(fields, bias=True), norms=1, norm_bias=True)
    return Stack([layer] * fields.layers(), 2 * fields.size("hidden_size") + fields.size("vocab_size"))


def gpt_neox(fields: Fields) -> Stack:
    """GPT-NeoX and Pythia: biases everywhere, two LayerNorms."""
    bias = fields.flag("attention_bias", True)
    attention = attention_of(fields, bias=bias, output_bias=bias)
    layer = Layer(attention, mlp_of(fields, gated=False, bias=True), norm_bias=True)
    return Stack([layer] * fields.layers(), 2 * fields.size("hidden_size"))


def phi(fields: Fields) -> Stack:
    """Phi 1 to 2: biases everywhere, attention and MLP side by side after one LayerNorm; the LM head has a bias."""
    fields.refuse("qk_layernorm", False)
    attention = attention_of(fields, bias=True, output_bias=True)
    layer = Layer(attention, mlp_of(fields, gated=False, bias=True), norms=1, norm_bias=True)
    return Stack([layer] * fields.layers(), 2 * fields.size("hidden_size") + fields.size("vocab_size"))


def falcon(fields: Fields) -> Stack:
    """Falcon: one KV head (7B), or grouped ones and a LayerNorm each for attention and MLP (40B, 180B)."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    new, bias = fields.flag("new_decoder_architecture"), fields.flag("bias")
    if hidden % heads:
        raise fields.error("num_attention_heads", f"a divisor of hidden_size {hidden}")
    if new:
        _, kv_heads = heads_of(fields, kv_field="num_kv_heads")
    else:
        kv_heads = 1 if fields.flag("multi_query", True) else heads
    both = new and fields.count("num_ln_in_parallel_attn", 2) == 2
    norms = 2 if both or not fields.flag("parallel_attn", True) else 1
    attention = Attention(heads, kv_heads, hidden // heads, bias=bias, output_bias=bias)
    width = fields.size("ffn_hidden_size", 4 * hidden)
    layer = Layer(attention, FeedForward(width, gated=False, bias=bias, field="ffn_hidden_size"), norms, norm_bias=True)
    return Stack([layer] * fields.layers(), 2 * hidden)


def gpt_bigcode(fields: Fields) -> Stack:
    """StarCoder: one KV head, biases everywhere, learned positions."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads = 1 if fields.flag("multi_query", True) else heads
    attention = Attention(heads, kv_heads, hidden // heads, bias=True, output_bias=True)
    layer = Layer(attention, wide_mlp(fields, bias=True), norm_bias=True)
    return Stack([layer] * fields.layers(), fields.size("max_position_embeddings") * hidden + 2 * hidden)


def mpt(fields: Fields) -> Stack:
    """MPT: no biases (LayerNorms included), positions by ALiBi."""
    if not fields.flag("no_bias", True):
        raise fields.refusal("no_bias", "biases")
    if fields.config.get("attn_config") is not None:
        options = fields.inner("attn_config")
        options.refuse("attn_type", "multihead_attention")
        options.refuse("qk_ln", False)
        if not options.flag("alibi", True):
            raise options.refusal("alibi", "learned positions")
    hidden = fields.size("hidden_size")
    width = fields.size("expansion_ratio", 4) * hidden
    layer = Layer(attention_of(fields, bias=False), FeedForward(width, gated=False, field="expansion_ratio"))
    return Stack([layer] * fields.layers(), hidden)


def bloom(fields: Fields) -> Stack:
    """BLOOM: biases everywhere, a LayerNorm after the embedding, positions by ALiBi."""
    attention = attention_of(fields, bias=True, output_bias=True)
    layer = Layer(attention, wide_mlp(fields, bias=True), norm_bias=True)
    return Stack([layer] * fields.layers(), 4 * fields.size("hidden_size"))


def chatglm(fields: Fields) -> Stack:
    """ChatGLM 2 to GLM-4: Llama's layers with a fused gate, a bias on queries, keys and values, grouped heads."""
    fields.refuse("post_layer_norm", True)
    for field in ("add_bias_linear", "apply_residual_connection_post_layernorm"):
        fields.refuse(field, False)
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("multi_query_group_num") if fields.flag("multi_query_attention") else heads
    attention = Attention(heads, kv_heads, fields.size("head_dim"), bias=fields.flag("add_qkv_bias"))
    layer = Layer(attention, mlp_of(fields))
    return Stack([layer] * fields.layers(), fields.size("hidden_size"))


def baichuan(fields: Fields) -> Stack:
    """Baichuan 1 and 2: Llama's layers without grouped heads or biases; 13B has ALiBi."""
    heads = fields.size("num_attention_heads")
    attention = Attention(heads, heads, fields.size("hidden_size") // heads)
    return Stack([Layer(attention, mlp_of(fields))] * fields.layers(), fields.size("hidden_size"))


def internlm2(fields: Fields) -> Stack:
    """InternLM 2: Llama's layers, one fused product for queries, keys and values."""
    bias = fields.flag("bias")
    attention = attention_of(fields, bias=bias, output_bias=bias)
    return Stack([Layer(attention, mlp_of(fields))] * fields.layers(), fields.size("hidden_size"))
