"""Dense decoders: grouped-query attention and one MLP in every layer. A new model of this kind is one table row."""

from __future__ import annotations

from roofml.models.architectures.common import Stack, attention_of, mlp_of, window_pattern
from roofml.models.architectures.fields import Fields
from roofml.models.layer import Layer


def llama(
    fields: Fields,
    *,
    qkv_bias: bool | None = None,
    qk_norm: bool = False,
    norms: int = 2,
    bias_default: bool = False,
    output_bias: bool | None = None,
    window: int = 0,
) -> Stack:
    """The Llama pattern: pre-norm GQA and gated MLP.

    With `qkv_bias` None, `attention_bias` (default `bias_default`) holds for the query, key and value projections, and
    for the output projection unless `output_bias` is given. `window` is the class's default of `sliding_window`, which
    then holds for every layer; one as long as the context is none.
    """
    bias = fields.flag("attention_bias", bias_default) if qkv_bias is None else qkv_bias
    on_output = (bias if qkv_bias is None else False) if output_bias is None else output_bias
    width = fields.optional_size("sliding_window") if "sliding_window" in fields.config else window
    if window and "sliding_window" not in fields.config:
        fields.assumed.append(f"sliding_window = {window} (not in the config: the class's default)")
    if width >= fields.size("max_position_embeddings"):
        width = 0
    attention = attention_of(fields, bias=bias, output_bias=on_output, qk_norm=qk_norm, window=width)
    layer = Layer(attention, mlp_of(fields, bias=fields.flag("mlp_bias")), norms)
    return Stack([layer] * fields.layers(), fields.size("hidden_size"))


def llama_full(fields: Fields, *, qkv_bias: bool | None = None, qk_norm: bool = False) -> Stack:
    """The Llama pattern with full attention; a window counts only if `use_sliding_window` turns it on (Qwen).

    The window then holds from layer `max_window_layers` on, or in the layers that `layer_types` names.
    """
    layers = fields.layers()
    windows = [0] * layers
    if fields.flag("use_sliding_window"):
        first = fields.count("max_window_layers", layers)
        windows = window_pattern(
            fields, layers, ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
        )
    bias = fields.flag("attention_bias") if qkv_bias is None else qkv_bias
    output_bias = bias if qkv_bias is None else False
    mlp = mlp_of(fields, bias=fields.flag("mlp_bias"))
    stack = [
        Layer(attention_of(fields, bias=bias, output_bias=output_bias, qk_norm=qk_norm, window=window), mlp)
        for window in windows
    ]
    return Stack(stack, fields.size("hidden_size"))


def olmo2(fields: Fields) -> Stack:
    """OLMo 2: norms after attention and MLP, query and key norms over all heads."""
    bias = fields.flag("attention_bias")
    attention = attention_of(fields, bias=bias, output_bias=bias, wide_qk_norm=True)
    return Stack([Layer(attention, mlp_of(fields))] * fields.layers(), fields.size("hidden_size"))


def cohere(fields: Fields) -> Stack:
    """Command R: attention and MLP side by side after one norm; query and key norms with a weight for every head."""
    bias = fields.flag("attention_bias")
    wide = fields.flag("use_qk_norm")
    attention = attention_of(fields, bias=bias, output_bias=bias, wide_qk_norm=wide)
    return Stack([Layer(attention, mlp_of(fields), norms=1)] * fields.layers(), fields.size("hidden_size"))


def starcoder2(fields: Fields) -> Stack:
    """StarCoder 2: two-matrix MLP, LayerNorms with bias, biases everywhere."""
    bias = fields.flag("use_bias", True)
    window = fields.optional_size("sliding_window")
    attention = attention_of(fields, bias=bias, output_bias=bias, window=window)
    layer = Layer(attention, mlp_of(fields, gated=False, bias=bias), norm_bias=True)
    return Stack([layer] * fields.layers(), 2 * fields.size("hidden_size"))


def nemotron(fields: Fields) -> Stack:
    """Nemotron-4 and Minitron: two-matrix MLP, LayerNorms with bias."""
    bias = fields.flag("attention_bias")
    attention = attention_of(fields, bias=bias, output_bias=bias)
    layer = Layer(attention, mlp_of(fields, gated=False, bias=fields.flag("mlp_bias")), norm_bias=True)
    return Stack([layer] * fields.layers(), 2 * fields.size("hidden_size"))


def gemma(fields: Fields, *, norms: int = 2, pattern: int = 0, qk_norm: bool = False) -> Stack:
    """Gemma 1 to 3: with `pattern` p every p-th layer attends to all, the others to a sliding window."""
    layers = fields.layers()
    period = fields.size("sliding_window_pattern", pattern) if pattern == 6 else pattern
    default = ["full_attention" if not period or (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]
    windows = window_pattern(fields, layers, default) if pattern else [0] * layers
    bias = fields.flag("attention_bias")
    mlp = mlp_of(fields)
    stack = [
        Layer(attention_of(fields, bias=bias, output_bias=bias, qk_norm=qk_norm, window=window), mlp, norms)
        for window in windows
    ]
    return Stack(stack, fields.size("hidden_size"))
