"""What BLIS reads in a Hugging Face `config.json`.

BLIS has its own simplifications: a head is hidden size / heads, and a missing field is 0. So this module reads the raw
config and not a ModelSpec. Source: sim/latency/config.go of inference-sim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

DTYPE_BYTES = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "int8": 1.0,
    "uint8": 1.0,
    "fp8": 1.0,
    "int4": 1.0,
    "nf4": 1.0,
}
"""Bytes of one element in BLIS. Any other name counts as 0, which its step time refuses."""

_BITS_IN_NAME = re.compile(r"(?:^|[.\-_/])w(\d+)a\d+(?:$|[.\-_])", re.IGNORECASE)
_FP8_IN_NAME = re.compile(r"(?:^|[.\-_/])fp8(?:$|[.\-_])", re.IGNORECASE)


@dataclass(frozen=True)
class BlisModel:
    """The fields of BLIS's ModelConfig. Sizes are in elements; a field that the config lacks is 0."""

    name: str
    layers: int
    hidden_size: int
    vocab_size: int
    heads: int
    kv_heads: int
    head_dim: int
    """Explicit `head_dim`: BLIS keeps it for KV capacity; its step time uses hidden size / heads."""
    intermediate_size: int
    hidden_act: str
    experts: int
    experts_per_token: int
    expert_width: int
    shared_expert_width: int
    """Width of all shared experts together."""
    interleave_step: int
    """Every (step + 1)-th layer is a mixture of experts and the others are dense; 0 if all layers are alike."""
    dense_width: int
    """Width of the dense layers of an interleaved model."""
    first_dense_layers: int
    """`first_k_dense_replace`: BLIS reads it and does not use it in its step time."""
    kv_lora_rank: int
    rope_head_dim: int
    dtype_bytes: float
    """Bytes of one activation or KV element."""
    quantized_bytes: float
    """Bytes of one quantized weight; 0 if weights have the type of activations."""
    max_position_embeddings: int

    @property
    def weight_bytes(self) -> float:
        """Bytes of one weight."""
        return self.quantized_bytes if self.quantized_bytes > 0 else self.dtype_bytes

    @property
    def is_moe(self) -> bool:
        """Whether BLIS takes the model for a mixture of experts. A model with one expert counts as dense."""
        return self.experts >= 2

    @property
    def is_mla(self) -> bool:
        """Whether the KV cache holds one compressed latent per token."""
        return self.kv_lora_rank > 0

    @property
    def effective_head_dim(self) -> int:
        """Head size that BLIS uses for KV capacity, in elements. Its step time does not use it."""
        return self.head_dim if self.head_dim > 0 else self.hidden_size // self.heads

    @property
    def moe_layers(self) -> int:
        """Number of layers with experts. Without interleaving BLIS takes all layers of a mixture for such layers."""
        if not self.is_moe:
            return 0
        return self.layers // (self.interleave_step + 1) if self.interleave_step > 0 else self.layers

    def kv_bytes_per_token(self, tp: int) -> float:
        """Bytes of one token of context on one GPU: 2·KV heads·head size/TP a layer, or one unsplit latent."""
        if self.is_mla:
            return self.layers * (self.kv_lora_rank + self.rope_head_dim) * self.dtype_bytes
        return self.layers * 2 * self.kv_heads * self.effective_head_dim * self.dtype_bytes / tp


def blis_model(config: Mapping[str, Any], name: str) -> BlisModel:
    """Return `config`, a parsed `config.json`, as BLIS parses it. A multimodal config is read through `text_config`.

    It raises nothing: BLIS takes a field that is missing or has another type for 0, and refuses the model later
    (`deployment.check_deployment`).
    """
    text = config.get("text_config")
    raw: dict[str, Any] = {**config, **cast("dict[str, Any]", text)} if isinstance(text, dict) else dict(config)

    def number(*keys: str) -> int:
        """Return the first of `keys` that holds a number other than 0, as an integer; 0 if none does."""
        for key in keys:
            value = raw.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and int(value) != 0:
                return int(value)
        return 0

    heads = number("num_attention_heads")
    intermediate_size = number("intermediate_size", "ffn_hidden_size")
    experts = number("num_local_experts")
    if experts <= 1:
        routed = (number(key) for key in ("num_routed_experts", "n_routed_experts", "num_experts"))
        experts = next((count for count in routed if count > 1), experts)
    expert_width = number("moe_intermediate_size")
    shared = number("shared_expert_intermediate_size")
    if shared <= 0:
        shared = max(number("n_shared_experts"), 0) * (expert_width or intermediate_size)
    dtype = raw["torch_dtype"] if isinstance(raw.get("torch_dtype"), str) else raw.get("dtype")
    act = raw.get("hidden_act")
    return BlisModel(
        name=name,
        layers=number("num_hidden_layers"),
        hidden_size=number("hidden_size"),
        vocab_size=number("vocab_size"),
        heads=heads,
        kv_heads=number("num_key_value_heads", "num_kv_heads", "multi_query_group_num") or heads,
        head_dim=number("head_dim"),
        intermediate_size=intermediate_size,
        hidden_act=act if isinstance(act, str) else "",
        experts=experts,
        experts_per_token=number("num_experts_per_tok"),
        expert_width=expert_width,
        shared_expert_width=shared,
        interleave_step=number("interleave_moe_layer_step"),
        dense_width=number("intermediate_size_mlp"),
        first_dense_layers=number("first_k_dense_replace"),
        kv_lora_rank=number("kv_lora_rank"),
        rope_head_dim=number("qk_rope_head_dim"),
        dtype_bytes=DTYPE_BYTES.get(dtype, 0.0) if isinstance(dtype, str) else 0.0,
        quantized_bytes=_quantized_bytes(raw.get("quantization_config")) or _bytes_from_name(name),
        max_position_embeddings=number("max_position_embeddings"),
    )


def _quantized_bytes(quantization: object) -> float:
    """Return the bytes of one weight by `bits`, fp8 or the first group of compressed-tensors; 0 if none says it."""
    if not isinstance(quantization, dict):
        return 0.0
    fields = cast("dict[str, Any]", quantization)
    bits = fields.get("bits")
    if isinstance(bits, str):
        bits = int(bits) if re.fullmatch(r"[+-]?\d+", bits) else 0
    if isinstance(bits, int | float) and not isinstance(bits, bool) and int(bits) > 0:
        return int(bits) / 8
    method = str(fields.get("quant_method", "")).lower()
    if method == "fp8":
        return 1.0
    groups = fields.get("config_groups")
    if method == "compressed-tensors" and isinstance(groups, dict):
        by_name = cast("dict[str, Any]", groups)
        for key in sorted(by_name):
            group: object = by_name[key]
            weights: object = cast("dict[str, Any]", group).get("weights") if isinstance(group, dict) else None
            width: object = cast("dict[str, Any]", weights).get("num_bits") if isinstance(weights, dict) else None
            if isinstance(width, int | float) and not isinstance(width, bool) and width > 0:
                return width / 8
    return 0.0


def _bytes_from_name(name: str) -> float:
    """Return the bytes of one weight by the model's name (w4a16: 0.5, fp8: 1); 0 if the name does not say."""
    match = _BITS_IN_NAME.search(name)
    if match and int(match.group(1)) > 0:
        return int(match.group(1)) / 8
    return 1.0 if _FP8_IN_NAME.search(name) else 0.0
