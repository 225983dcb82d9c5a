"""ModelSpec: every architecture fact the physics needs, read from a Hugging Face `config.json`.

A model is a stack of layers; equal layers are counted, not repeated. What a config says that is not modelled yet is
refused by the name of its field: a wrong number is worse than none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from roofml.errors import InputError, NotSupportedError
from roofml.files import data_folder

DTYPE_BYTES = {"bfloat16": 2, "float16": 2}
"""Bytes of one element of the weight and activation types modelled."""


@dataclass(frozen=True)
class Attention:
    """Softmax attention with grouped queries (MHA: kv_heads = heads; MQA: kv_heads = 1). Sizes in elements."""

    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    qk_norm: bool = False


@dataclass(frozen=True)
class FeedForward:
    """Gated MLP: gate, up and down projections. With `experts` > 0 a mixture of such MLPs behind a router."""

    width: int
    """Intermediate size of the MLP, or of one expert."""
    experts: int = 0
    experts_per_token: int = 0


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only transformer. `layers` holds (layer, how many of them) pairs."""

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[tuple[Layer, int], ...]
    tied_embeddings: bool
    dtype: str
    max_position_embeddings: int
    config_sha256: str = ""

    @property
    def num_layers(self) -> int:
        return sum(count for _, count in self.layers)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one weight, activation or KV element."""
        return DTYPE_BYTES[self.dtype]

    def kv_bytes_per_token(self, tp: int) -> int:
        """Bytes that one token of context takes in the KV cache of one GPU, all layers: 2·Hkv/tp·head_dim each."""
        return sum(
            count * 2 * (layer.attention.kv_heads // tp) * layer.attention.head_dim * self.dtype_bytes
            for layer, count in self.layers
        )

    def check_tensor_parallel(self, tp: int) -> None:
        """Raise InputError unless heads, KV heads and widths divide by `tp`, as vLLM requires."""
        if tp < 1:
            raise InputError(f"{self.name}: tensor parallel size {tp}: expected at least 1")
        for layer, _ in self.layers:
            sizes = {
                "num_attention_heads": layer.attention.heads,
                "num_key_value_heads": layer.attention.kv_heads,
                "intermediate_size": layer.feed_forward.width,
            }
            for field, size in sizes.items():
                if size % tp:
                    raise InputError(f"{self.name}: {field} {size} does not divide by tensor parallel size {tp}")


LLAMA_LIKE = {
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "MixtralForCausalLM",
}
"""Architectures of one pattern: grouped-query attention, gated MLP or a uniform mixture of them, RMS norms."""

DEFAULT_KV_HEADS_IS_HEADS = "num_key_value_heads"


def model_from_config(config: Mapping[str, Any], name: str, config_sha256: str = "") -> ModelSpec:
    """The ModelSpec of a parsed `config.json`.

    Raises NotSupportedError naming the field for an architecture or option that is not modelled, InputError for a
    missing or impossible value.
    """
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise InputError(f"{name}: architectures: expected a list with the model class")
    architecture = str(cast("list[object]", architectures)[0])
    if architecture not in LLAMA_LIKE:
        raise NotSupportedError(f"{name}: architectures: {architecture} is not supported yet")
    if config.get("quantization_config") is not None:
        raise NotSupportedError(f"{name}: quantization_config is not supported yet")

    def size(field: str, default: int | None = None) -> int:
        value = config.get(field)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise InputError(f"{name}: {field}: expected a positive integer, found {value!r}")
        return value

    if config.get("sliding_window") is not None and config.get("use_sliding_window", True):
        raise NotSupportedError(f"{name}: sliding_window is not supported yet")
    moe = architecture in {"MixtralForCausalLM", "Qwen3MoeForCausalLM"}
    if moe and (config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1):
        raise NotSupportedError(f"{name}: mlp_only_layers / decoder_sparse_step are not supported yet")
    dtype = config.get("torch_dtype", config.get("dtype"))
    if dtype not in DTYPE_BYTES:
        raise NotSupportedError(f"{name}: torch_dtype: {dtype!r}, expected one of {', '.join(DTYPE_BYTES)}")

    hidden_size, heads = size("hidden_size"), size("num_attention_heads")
    if config.get("head_dim") is None and hidden_size % heads:
        raise InputError(f"{name}: hidden_size {hidden_size} does not divide by num_attention_heads {heads}")
    attention = Attention(
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", hidden_size // heads),
        bias=architecture == "Qwen2ForCausalLM" or bool(config.get("attention_bias", False)),
        qk_norm=architecture.startswith("Qwen3"),
    )
    if attention.heads % attention.kv_heads:
        raise InputError(
            f"{name}: num_attention_heads {heads} is no multiple of num_key_value_heads {attention.kv_heads}"
        )
    if moe:
        experts = size("num_local_experts" if architecture == "MixtralForCausalLM" else "num_experts")
        width = size("intermediate_size" if architecture == "MixtralForCausalLM" else "moe_intermediate_size")
        feed_forward = FeedForward(width, experts, size("num_experts_per_tok"))
        if feed_forward.experts_per_token > experts:
            raise InputError(f"{name}: num_experts_per_tok {feed_forward.experts_per_token} exceeds {experts} experts")
    else:
        feed_forward = FeedForward(size("intermediate_size"))
    return ModelSpec(
        name=name,
        architecture=architecture,
        hidden_size=hidden_size,
        vocab_size=size("vocab_size"),
        layers=((Layer(attention, feed_forward), size("num_hidden_layers")),),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        dtype=str(dtype),
        max_position_embeddings=size("max_position_embeddings"),
        config_sha256=config_sha256,
    )


def load_model(model: str) -> ModelSpec:
    """The ModelSpec of `model`: a name in `model_configs/`, a Hub repository whose config is there, or a path.

    Raises InputError when there is no such config or it is not a model config.
    """
    path = config_path(model)
    try:
        raw = path.read_bytes()
        config: object = json.loads(raw)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected a JSON object")
    name = path.parent.name if path.name == "config.json" else path.stem
    return model_from_config(cast("dict[str, Any]", config), name, hashlib.sha256(raw).hexdigest())


def config_path(model: str) -> Path:
    """Where the config of `model` lies: a path as given, else `model_configs/<last part, lower case>/config.json`."""
    path = Path(model)
    if path.is_file():
        return path
    if (path / "config.json").is_file():
        return path / "config.json"
    name = model.rsplit("/", 1)[-1].lower()
    folder = data_folder("model_configs")
    known = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if name not in known:
        raise InputError(f"model {model!r}: no such path and not in model_configs/ (known: {', '.join(known)})")
    return folder / name / "config.json"
