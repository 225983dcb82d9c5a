"""What most decoders share: grouped-query attention, an MLP, layer-type lists."""

from __future__ import annotations

from dataclasses import dataclass

from roofml.models.architectures.fields import Fields
from roofml.models.attention import Attention
from roofml.models.feed_forward import FeedForward
from roofml.models.layer import Layer
from roofml.util.errors import InputError

ATTENTION_TYPES = {"full_attention": 0, "sliding_attention": 1}
"""The words of `layer_types` in models that mix full and sliding-window attention."""


@dataclass(frozen=True)
class Stack:
    """What an architecture reads from a config: its layers in order, and parameters outside of them."""

    layers: list[Layer]
    small: int
    """Number of parameters outside of the layers, such as the final norm's."""


def heads_of(
    fields: Fields, field: str = "num_attention_heads", kv_field: str = "num_key_value_heads"
) -> tuple[int, int]:
    """Numbers of query and KV heads; a config that gives no KV heads has as many as query heads."""
    heads = fields.size(field)
    kv_heads = fields.size(kv_field, heads, f"not in the config: as many as {field}")
    if heads % kv_heads:
        raise InputError(f"{fields.name}: {field} {heads} is no multiple of {kv_field} {kv_heads}")
    return heads, kv_heads


def head_dim_of(fields: Fields) -> int:
    """`head_dim`, else hidden_size / num_attention_heads."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if fields.config.get("head_dim") is None and hidden % heads:
        raise InputError(f"{fields.name}: hidden_size {hidden} does not divide by num_attention_heads {heads}")
    return fields.size("head_dim", hidden // heads, "not in the config: hidden_size / num_attention_heads")


def attention_of(
    fields: Fields,
    *,
    bias: bool,
    output_bias: bool = False,
    qk_norm: bool = False,
    wide_qk_norm: bool = False,
    window: int = 0,
    chunk: int = 0,
    sinks: bool = False,
    query_gate: bool = False,
) -> Attention:
    """Grouped-query attention with its sizes from the usual fields; the options are those of Attention."""
    heads, kv_heads = heads_of(fields)
    return Attention(
        heads,
        kv_heads,
        head_dim_of(fields),
        bias=bias,
        output_bias=output_bias,
        qk_norm=qk_norm,
        wide_qk_norm=wide_qk_norm,
        window=window,
        chunk=chunk,
        sinks=sinks,
        query_gate=query_gate,
    )


def mlp_of(fields: Fields, field: str = "intermediate_size", *, gated: bool = True, bias: bool = False) -> FeedForward:
    """An MLP of the width in the config's `field`."""
    return FeedForward(fields.size(field), gated=gated, bias=bias, field=field)


def window_pattern(fields: Fields, layers: int, default: list[str]) -> list[int]:
    """The window of each layer (0 = full attention) from `layer_types`, or from the class's default pattern."""
    types = fields.words("layer_types", layers, ATTENTION_TYPES)
    if types is None:
        types = default
        fields.assumed.append(
            f"layer_types = {default.count('sliding_attention')} of {layers} sliding (class's pattern)"
        )
    if "sliding_attention" not in types:
        return [0] * layers
    window = fields.size("sliding_window")
    return [window if kind == "sliding_attention" else 0 for kind in types]
