"""ModelSpec: every architecture fact the physics needs, read from a Hugging Face `config.json`.

A model is a stack of layers; equal layers are counted, not repeated. An option of a config that is not modelled is
refused, and the error names its field: a wrong number is worse than none. `roofml.models.architectures` says how each
class of models is read, `roofml.models.quantization` in which format its weights are stored.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from roofml.models.architectures import ARCHITECTURES, Architecture
from roofml.models.architectures.fields import Fields
from roofml.models.attention import Attention as Attention
from roofml.models.attention import LatentAttention
from roofml.models.feed_forward import FeedForward as FeedForward
from roofml.models.kv_size import token_bytes
from roofml.models.layer import Layer as Layer
from roofml.models.operations import Gemm, MixerOp, StateOp
from roofml.models.positions import longest_context
from roofml.models.quantization import NONE, Quantization, read_quantization
from roofml.models.weights import DTYPE_BYTES as DTYPE_BYTES
from roofml.models.weights import KV_DTYPE_BYTES, Projection, WeightFormat, plain
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown
from roofml.util.outside_text import for_line
from roofml.util.package_data import data_folder
from roofml.util.reading import as_object, is_file, is_there, parse_json, read_bytes

VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this number before it splits it over the ranks."""


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only language model. `layers` holds (layer, number of such layers) pairs in any order."""

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[tuple[Layer, int], ...]
    tied_embeddings: bool
    dtype: str
    """Type of activations and of weights that are not quantized."""
    max_position_embeddings: int
    longest_context: int = 0
    """Tokens of a request that its positions reach; 0: as many as `max_position_embeddings`."""
    config_sha256: str = ""
    kv_dtype: str = ""
    """Type of the KV cache; empty = `dtype`. `dataclasses.replace` can set it as vLLM's --kv-cache-dtype does."""
    expert_parallel: int = 1
    """Ranks that whole experts are dealt to, as vLLM's --enable-expert-parallel does over tp x dp; 1: every expert is
    cut over the tensor-parallel ranks. `dataclasses.replace` can set it."""
    small_parameters: int = 0
    """Parameters outside of layers and embeddings: the final norm."""
    head_format: WeightFormat | None = None
    """Format of the LM head if it is quantized."""
    quantization: str = "none"
    """The method named in the config."""
    assumptions: tuple[str, ...] = ()
    """Values that the config does not give, each as "field = value (why)"."""

    @property
    def num_layers(self) -> int:
        """Number of layers of all kinds."""
        return sum(count for _, count in self.layers)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one activation or unquantized weight element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def embedding_parameters(self) -> int:
        """Elements of the input embedding (and of the LM head)."""
        return self.vocab_size * self.hidden_size

    def parameters(self) -> int:
        """All parameters of the language model and its embeddings (tied ones once), without draft layers and vision."""
        layers = sum(count * layer.parameters(self.hidden_size) for layer, count in self.layers)
        embeddings = (1 if self.tied_embeddings else 2) * self.embedding_parameters
        return layers + embeddings + self.small_parameters

    def active_parameters(self) -> int:
        """Parameters that one token uses: all but the experts it is not sent to. Both embeddings are counted."""
        idle = sum(count * layer.idle_parameters(self.hidden_size) for layer, count in self.layers)
        return self.parameters() - idle

    @property
    def allreduces(self) -> int:
        """Number of all-reduces in a step under tensor parallelism: after the embedding, every mixer and every MLP."""
        return 1 + sum(count * ((layer.mixer is not None) + (layer.mlp is not None)) for layer, count in self.layers)

    def gemms(self, tp: int) -> tuple[Gemm, ...]:
        """The weight matrix products of a step on one of `tp` ranks, equal ones of all layers counted together.

        They are fused as in vLLM (query, key and value; gate and up) and in the order of the forward pass, the LM head
        last.
        Raises InputError naming the field that does not divide by `tp`.
        """
        self.check_tensor_parallel(tp)
        counts: Counter[Gemm] = Counter()
        for layer, count in self.layers:
            for gemm in self._layer_gemms(layer, tp):
                counts[gemm] += count
        gemms = [replace(gemm, count=count) for gemm, count in counts.items()]
        head = self.head_format or plain(self.dtype)
        n = self._vocabulary(tp)
        size = head.bytes(n, self.hidden_size)
        gemms.append(Gemm("lm_head", n, self.hidden_size, 1, "sampled", size, head.flops_dtype, kernel=head.kernel))
        return tuple(gemms)

    def _layer_gemms(self, layer: Layer, tp: int) -> list[Gemm]:
        """One Gemm per fused group and format, each counted once."""
        formats = dict(layer.formats)
        fused: dict[tuple[str, WeightFormat], Gemm] = {}
        for part in layer.projections(self.hidden_size):
            weight = formats.get(part.module, plain(self.dtype))
            n, k = self._shape(part, tp)
            chosen = layer.mlp.experts_per_token if part.experts and layer.mlp else 0
            ranks = self.expert_parallel if part.experts else 1
            size = weight.bytes(n, k)
            key = (part.gemm, weight)
            if key in fused and fused[key].k == k:
                fused[key] = replace(fused[key], n=fused[key].n + n, weight_bytes=fused[key].weight_bytes + size)
            else:
                fused[key] = Gemm(
                    part.gemm, n, k, 1, "tokens", size, weight.flops_dtype, part.experts, chosen, ranks, weight.kernel
                )
        return list(fused.values())

    def _shape(self, part: Projection, tp: int) -> tuple[int, int]:
        """(n, k) of a matrix on one rank: a whole expert where experts are dealt to ranks."""
        return (part.n, part.k) if part.experts and self.expert_parallel > 1 else part.shape(tp)

    def mixers(self, tp: int) -> tuple[MixerOp, ...]:
        """The attention operations and state updates of a step on one of `tp` ranks, equal ones counted together."""
        self.check_tensor_parallel(tp)
        counts: Counter[Any] = Counter()
        for layer, count in self.layers:
            if layer.mixer is not None:
                counts[layer.mixer] += count
        kv_dtype = self.kv_dtype or self.dtype
        return tuple(mixer.operation(count, tp, self.dtype, kv_dtype) for mixer, count in counts.items())

    def _vocabulary(self, tp: int) -> int:
        """Rows of the embedding on one rank."""
        padded = -(-self.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING
        if padded % tp:
            raise InputError(
                f"{self.name}: vocab_size {self.vocab_size} (padded to {padded}) does not divide by "
                f"tensor parallel size {tp}"
            )
        return padded // tp

    def weight_bytes(self, tp: int) -> int:
        """Bytes of all weights on one of `tp` ranks: matrices, embeddings, norms and biases.

        Quantized latent attention keeps a second copy of its key and value up-projection in the activation type, which
        decoding uses in absorbed form.
        """
        gemms = sum(gemm.resident_bytes for gemm in self.gemms(tp))
        embedding = 0 if self.tied_embeddings else self._vocabulary(tp) * self.hidden_size * self.dtype_bytes
        small = self.small_parameters
        absorbed = 0
        for layer, count in self.layers:
            small += count * layer.small_parameters(self.hidden_size)
            for part in layer.projections(self.hidden_size):
                n, k = self._shape(part, tp)
                if part.bias:
                    held = part.experts // (self.expert_parallel if part.experts else 1)
                    small += count * n * max(1, held)
                if isinstance(layer.mixer, LatentAttention) and part.gemm == "latent_up" and layer.formats:
                    absorbed += count * n * k if part.module in dict(layer.formats) else 0
        return gemms + embedding + (small + absorbed) * self.dtype_bytes

    def kv_bytes_per_token(self, tp: int) -> int:
        """Bytes that one token takes in the KV cache of one of `tp` ranks, all layers, while it is inside every window.

        Grouped-query attention: 2·Hkv/tp·head_dim elements a layer; latent attention: kv_lora_rank + rope elements on
        every rank. Recurrent layers take nothing per token: see `state_bytes`.
        """
        near, far = token_bytes(self.mixers(tp))
        return sum(near.values()) + far

    def state_bytes(self, tp: int) -> int:
        """Bytes of recurrent state that one running request keeps on one of `tp` ranks, all layers."""
        return sum(op.count * op.state_bytes for op in self.mixers(tp) if isinstance(op, StateOp))

    def check_tensor_parallel(self, tp: int) -> None:
        """Raise InputError unless heads and widths divide by `tp`, as vLLM requires (fewer KV heads are copied)."""
        if tp < 1:
            raise InputError(f"{self.name}: tensor parallel size {tp}: expected at least 1")
        self._vocabulary(tp)
        for layer, _ in self.layers:
            for part in layer.projections(self.hidden_size):
                ranks = self.expert_parallel
                if part.experts % ranks:
                    raise InputError(
                        f"{self.name}: {part.experts} experts do not divide by expert parallel size {ranks}"
                    )
                try:
                    self._shape(part, tp)
                except InputError as error:
                    raise InputError(f"{self.name}: {error}") from None


def model_from_config(
    config: Mapping[str, Any], name: str, config_sha256: str = "", quant_config: object = None
) -> ModelSpec:
    """The ModelSpec of a parsed `config.json`; `quant_config` is a parsed `hf_quant_config.json`, if there is one.

    Raises NotSupportedError naming the field for an architecture or option that is not modelled, InputError for a
    missing or impossible value.
    """
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise InputError(f"{name}: architectures: expected a list with the model class")
    model_class = cast("list[object]", architectures)[0]
    if not isinstance(model_class, str) or model_class not in ARCHITECTURES:
        near = _near(str(model_class), ARCHITECTURES) or f"{len(ARCHITECTURES)} others are"
        raise NotSupportedError(f"{name}: architectures: {shown(model_class)} is not supported ({near})")
    architecture = ARCHITECTURES[model_class]
    language = config.get("text_config")
    if language is None:
        language = config
    elif not isinstance(language, dict):
        raise InputError(f"{name}: text_config: expected a mapping, found {language!r:.60}")
    fields = Fields(architecture.renamed(cast("Mapping[str, Any]", language)), name, config)
    dtype = fields.dtype
    quantization = _quantization(fields, dtype, quant_config)
    stack = architecture.read(fields)
    layers: Counter[Layer] = Counter()
    for index, layer in enumerate(stack.layers):
        layers[_formatted(layer, index, fields.size("hidden_size"), architecture, quantization)] += 1
    return ModelSpec(
        name=name,
        architecture=model_class,
        hidden_size=fields.size("hidden_size"),
        vocab_size=fields.size("vocab_size"),
        layers=tuple(layers.items()),
        tied_embeddings=_tied(fields, architecture),
        dtype=dtype,
        max_position_embeddings=fields.size("max_position_embeddings"),
        longest_context=longest_context(fields),
        config_sha256=config_sha256,
        kv_dtype=quantization.kv_dtype or dtype,
        small_parameters=stack.small,
        head_format=quantization.format_of(("lm_head", "head", "language_model.lm_head")),
        quantization=quantization.method,
        assumptions=tuple(dict.fromkeys(fields.assumed)),
    )


def _tied(fields: Fields, architecture: Architecture) -> bool:
    """`tie_word_embeddings` of the language model, else of the wrapper, else the class's default."""
    for source in (fields, Fields(fields.outer, fields.name)):
        if source.config.get("tie_word_embeddings") is not None:
            return source.flag("tie_word_embeddings")
    return architecture.tied


QUANTIZED_NAME = re.compile(r"(?i)(?<![a-z0-9])(nvfp4|mxfp4|fp4|fp8|int4|int8|awq|gptq|w4a16|w8a8)(?![a-z0-9])")


def _quantization(fields: Fields, dtype: str, quant_config: object) -> Quantization:
    """The quantization from `quantization_config`, else from `hf_quant_config.json`, else none.

    Raises NotSupportedError where there is none although the model's name promises one.
    """
    for config in (fields.outer, fields.config):
        value: object = config.get("quantization_config")
        if isinstance(value, dict):
            experts = {"expert_dtype": fields.config.get("expert_dtype")}
            return read_quantization({**experts, **cast("dict[str, Any]", value)}, fields.name, dtype)
        if value is not None:
            raise InputError(f"{fields.name}: quantization_config: expected a mapping, found {value!r:.60}")
    if isinstance(quant_config, dict):
        inner = cast("dict[str, Any]", quant_config).get("quantization")
        if not isinstance(inner, dict):
            raise InputError(f"{fields.name}: hf_quant_config.json: quantization: expected a mapping")
        return read_quantization({"quant_method": "modelopt", **cast("dict[str, Any]", inner)}, fields.name, dtype)
    promised = QUANTIZED_NAME.search(fields.name)
    if promised:
        raise NotSupportedError(
            f"{fields.name}: quantization_config is missing although the name says {promised[0]}: "
            "put the model's hf_quant_config.json beside its config.json (roofml pull does)"
        )
    return NONE


PREFIXES = ("model.", "language_model.model.", "model.language_model.", "backbone.", "")
"""Prefixes of "layers.N." in the names of checkpoints."""


def _formatted(layer: Layer, index: int, hidden: int, architecture: Architecture, quantization: Quantization) -> Layer:
    """The layer with the format of each of its quantized modules."""
    if not quantization.rules:
        return layer
    formats: dict[str, WeightFormat] = {}
    for part in layer.projections(hidden):
        if not part.quantizable or part.module in formats:
            continue
        format = quantization.format_of(_names(part, index, architecture))
        if format is not None:
            formats[part.module] = format
    return replace(layer, formats=tuple(formats.items()))


def _names(part: Projection, index: int, architecture: Architecture) -> tuple[str, ...]:
    """The names that checkpoints may give a matrix."""
    module = part.module
    for start, renamed in architecture.renames:
        if module == start or module.startswith(f"{start}."):
            module = renamed + module[len(start) :]
            break
    return tuple(f"{prefix}layers.{index}.{module}" for prefix in PREFIXES)


QUANT_FOLDER = "hf_quant_configs"
"""Beside a folder of configs that are files of their own names: their `hf_quant_config.json`, under the same names."""


def read_model(model: str) -> ModelSpec:
    """The ModelSpec of `model` as its own config has it: a name in `model_configs/`, a Hub repository, or a path.

    Raises InputError when there is no such config or it is not a model config. `names.load_model` knows other names.
    """
    path = config_path(model)
    raw = read_bytes(path)
    config, quant_config = as_object(parse_json(raw, path), path), None
    in_folder = path.name == "config.json"
    quant_path = path.with_name("hf_quant_config.json") if in_folder else path.parent.parent / QUANT_FOLDER / path.name
    if is_there(quant_path):
        quant_raw = read_bytes(quant_path)
        quant_config = as_object(parse_json(quant_raw, quant_path), quant_path)
        raw += quant_raw  # the same config.json may come in several quantizations
    name = (path.parent.name or path.resolve().parent.name) if in_folder else path.stem
    return model_from_config(config, for_line(name) or "model", hashlib.sha256(raw).hexdigest(), quant_config)


def config_path(model: str) -> Path:
    """Path of the config of `model`: a path as given, else `model_configs/<last part, lower case>/config.json`."""
    if not model.strip():
        raise InputError("model '': expected a name in model_configs/, a Hub repository or a path")
    path = Path(model)
    if is_file(path):
        return path
    if is_there(path / "config.json"):
        return path / "config.json"
    name = model.rsplit("/", 1)[-1].lower()
    folder = data_folder("model_configs")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if name not in names:
        near = _near(name, names) or f"{len(names)} others are"
        raise InputError(f"model {shown(model)}: no such path and not in model_configs/ ({near})")
    return folder / name / "config.json"


def has_config(model: str) -> bool:
    """Whether `model` is a path of a config, or its last part a folder of `model_configs/`."""
    try:
        config_path(model)
    except InputError:
        return False
    return True


def _near(name: str, known: Iterable[str]) -> str:
    """The names most like one that is not known, of the many that are."""
    return ", ".join(f"{like}?" for like in get_close_matches(name[:100], list(known), 5))


__all__ = [
    "DTYPE_BYTES",
    "KV_DTYPE_BYTES",
    "Attention",
    "FeedForward",
    "Layer",
    "ModelSpec",
    "config_path",
    "has_config",
    "model_from_config",
    "read_model",
]
