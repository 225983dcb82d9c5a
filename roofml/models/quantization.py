"""Quantization: the formats of weight matrices and KV cache, as a checkpoint describes them.

The description is `quantization_config` in `config.json`, or the `hf_quant_config.json` that some publishers put beside
it. Supported methods: fp8, fbgemm_fp8, compressed-tensors, modelopt, gptq, awq, mxfp4. Any other is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from roofml.models.weights import WeightFormat
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown

MXFP4 = WeightFormat("mxfp4", 4, "", (1, 32), 8)
"""OCP microscaling FP4: 32 elements share an 8-bit exponent; engines unpack it to the activation type."""


@dataclass(frozen=True)
class Rule:
    """One format for the modules that match any of the patterns."""

    patterns: tuple[str, ...]
    format: WeightFormat


@dataclass(frozen=True)
class Quantization:
    """What a checkpoint quantizes. The first rule that matches a module holds; ignored modules stay as they are."""

    method: str
    rules: tuple[Rule, ...] = ()
    ignored: tuple[str, ...] = ()
    kv_dtype: str | None = None

    @cached_property
    def _matchers(self) -> tuple[list[tuple[_Patterns, WeightFormat]], _Patterns]:
        rules = [(_Patterns.of(rule.patterns), rule.format) for rule in self.rules]
        return rules, _Patterns.of(self.ignored)

    def format_of(self, names: tuple[str, ...]) -> WeightFormat | None:
        """The format of a module known under any of `names`; None if it is not quantized."""
        rules, ignored = self._matchers
        if any(ignored.match(name) for name in names):
            return None
        for patterns, format in rules:
            if any(patterns.match(name) for name in names):
                return format
        return None


@dataclass(frozen=True)
class _Patterns:
    """The patterns of a list. Checkpoints write out a thousand names of modules, which are looked up, not searched."""

    plain: frozenset[str]
    others: tuple[re.Pattern[str], ...]

    @staticmethod
    def of(patterns: tuple[str, ...]) -> _Patterns:
        plain = frozenset(
            pattern
            for pattern in patterns
            if len(pattern) <= LONGEST_PATTERN and PLAIN.fullmatch(pattern) and pattern != "Linear"
        )
        return _Patterns(plain, tuple(matcher(pattern) for pattern in dict.fromkeys(patterns) if pattern not in plain))

    def match(self, name: str) -> bool:
        """Whether a pattern is in the name, as whole path components."""
        if self.plain and not self.plain.isdisjoint(_parts(name)):
            return True
        return any(pattern.search(name) for pattern in self.others)


@lru_cache(maxsize=100_000)
def _parts(name: str) -> tuple[str, ...]:
    """Every run of whole path components of a name: layers.0.mlp has layers, layers.0, layers.0.mlp, 0, 0.mlp, mlp."""
    parts = name.split(".")
    ends = range(1, len(parts) + 1)
    return tuple(".".join(parts[start:end]) for start in range(len(parts)) for end in ends if end > start)


NONE = Quantization("none")


LONGEST_PATTERN = 1000
MOST_REPETITIONS = 4
"""Of a pattern, unbounded ones: with more, or with one in another, a search can take years."""
REPETITION = re.compile(r"[*+]|\{[0-9]*,[0-9]*\}")
PLAIN = re.compile(r"[\w-]+(\.[\w-]+)*")
"""A pattern that is a name, or a part of one."""
NESTED = re.compile(r"(?:[*+]|\{[0-9]*,[0-9]*\}|\|)[^()]*\)+(?:[*+]|\{)")


@lru_cache(maxsize=100_000)
def matcher(pattern: str) -> re.Pattern[str]:
    """A pattern of an ignore or target list as a regular expression to search module names with.

    "re:..." is a regular expression from the start of the name; "Linear" is every module but the LM head; anything
    else is whole path components, where * stands for any text.
    """
    if len(pattern) > LONGEST_PATTERN or len(REPETITION.findall(pattern)) > MOST_REPETITIONS or NESTED.search(pattern):
        raise NotSupportedError(
            f"quantization_config: {shown(pattern)}: expected at most {LONGEST_PATTERN} characters and "
            f"{MOST_REPETITIONS} repetitions, none within another"
        )
    if pattern.startswith("re:"):
        try:
            return re.compile("^(?:" + pattern[3:] + ")")
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(f"quantization_config: {shown(pattern)} is no regular expression: {error}") from None
    if pattern == "Linear":
        return re.compile(r"^(?!(.*\.)?(lm_head|head)$)")
    text = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.compile(r"(^|\.)" + text + r"(\.|$)")


@dataclass
class _Config:
    """The quantization mapping being read, with the model's name and type for messages and defaults."""

    name: str
    values: Mapping[str, Any]
    dtype: str
    path: str = "quantization_config"
    """Keys that lead to the mapping, joined by dots."""

    def error(self, key: str, expected: str) -> InputError:
        value = repr(self.values.get(key))[:80]
        return InputError(f"{self.name}: {self.path}.{key}: expected {expected}, found {value}")

    def refusal(self, key: str) -> NotSupportedError:
        value = repr(self.values.get(key))[:80]
        return NotSupportedError(f"{self.name}: {self.path}.{key}: {value} is not supported yet")

    def strings(self, *keys: str) -> tuple[str, ...]:
        """The list of strings under the first of `keys` that has a value; empty if none has."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
                raise self.error(key, "a list of module names")
            return tuple(cast("list[str]", value))
        return ()

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer between -1 and 2^16 (group sizes, bits)."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= 65536 or value == 0:
            raise self.error(key, "a positive integer (or -1)")
        return value

    def mapping(self, key: str) -> _Config | None:
        """The mapping under `key`; None if it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "a mapping")
        return _Config(self.name, cast("dict[str, Any]", value), self.dtype, f"{self.path}.{key}")


def fp8_format(block: tuple[int, int] = (0, 0), *, weight_only: str = "") -> WeightFormat:
    """FP8 weights with FP32 scales; with `weight_only` the product runs in that type."""
    return WeightFormat("fp8", 8, weight_only or "fp8", block, 32)


def nvfp4_format(dtype: str, *, weight_only: bool, group: int = 16) -> WeightFormat:
    """NVIDIA FP4: 16 elements share an FP8 scale."""
    return WeightFormat("nvfp4", 4, dtype if weight_only else "fp4", (1, group), 8)


def _block(config: _Config, key: str) -> tuple[int, int]:
    value = config.values.get(key)
    if value is None:
        return (0, 0)
    items = cast("list[object]", value) if isinstance(value, list) else []
    if len(items) != 2 or not all(isinstance(i, int) and not isinstance(i, bool) and 0 < i <= 65536 for i in items):
        raise config.error(key, "two positive integers, rows and columns of a block")
    return cast("tuple[int, int]", tuple(items))


def _fp8(config: _Config) -> Quantization:
    """DeepSeek's and Qwen's FP8: all linear layers in blocks with a scale each. Experts may be FP4 (DeepSeek V4)."""
    scheme = config.values.get("activation_scheme", "dynamic")
    if scheme not in ("dynamic", "static"):
        raise config.refusal("activation_scheme")
    rules = [Rule(("Linear",), fp8_format(_block(config, "weight_block_size")))]
    experts = config.values.get("expert_dtype")
    if experts == "fp4":
        rules.insert(0, Rule(("experts",), _with_type(MXFP4, config.dtype)))
    elif experts not in (None, "fp8"):
        raise config.refusal("expert_dtype")
    layers = config.mapping("quantized_layers")
    if layers is not None:
        rules[:0] = _layer_rules(layers)
    return Quantization("fp8", tuple(rules), config.strings("modules_to_not_convert", "ignored_layers"))


def _with_type(format: WeightFormat, dtype: str) -> WeightFormat:
    return WeightFormat(format.name, format.bits, dtype, format.block, format.scale_bits)


def _fbgemm(config: _Config) -> Quantization:
    """Meta's FP8: a scale for every row of a weight."""
    ignored = config.strings("modules_to_not_convert")
    return Quantization("fbgemm_fp8", (Rule(("Linear",), fp8_format((1, 0))),), ignored)


def _packed(config: _Config, bits: int, group: int, zero_bits: int) -> WeightFormat:
    """Integer weights in groups of `group` columns (-1: a whole row) with an FP16 scale and a zero point."""
    if bits not in {2, 3, 4, 8}:
        raise config.refusal("bits" if "bits" in config.values else "w_bit")
    return WeightFormat(f"int{bits}", bits, config.dtype, (1, 0 if group < 0 else group), 16 + zero_bits)


def _gptq(config: _Config) -> Quantization:
    if config.values.get("dynamic"):
        raise config.refusal("dynamic")
    bits = config.integer("bits")
    rules = [Rule(("Linear",), _packed(config, bits, config.integer("group_size"), bits))]
    if config.values.get("lm_head") is True:
        rules.append(Rule(("lm_head",), rules[0].format))
    return Quantization("gptq", tuple(rules), config.strings("modules_to_not_convert"))


def _awq(config: _Config) -> Quantization:
    bits = config.integer("bits" if "bits" in config.values else "w_bit")
    group = config.integer("group_size" if "group_size" in config.values else "q_group_size")
    return Quantization(
        "awq", (Rule(("Linear",), _packed(config, bits, group, bits)),), config.strings("modules_to_not_convert")
    )


def _mxfp4(config: _Config) -> Quantization:
    """GPT-OSS: only the experts are quantized, whatever the list of exceptions names."""
    format = _with_type(MXFP4, config.dtype)
    return Quantization("mxfp4", (Rule(("experts",), format),), config.strings("modules_to_not_convert"))


def _scheme(weights: _Config, activations: _Config | None) -> WeightFormat:
    """The format of one compressed-tensors group: weights {num_bits, type, strategy, group_size}."""
    bits, kind = weights.integer("num_bits"), weights.values.get("type", "int")
    dtype = weights.dtype
    active_bits = activations.integer("num_bits") if activations is not None else 16
    strategy = weights.values.get("strategy")
    group = weights.values.get("group_size")
    block = (0, 0)
    if strategy == "block":
        block = _block(weights, "block_structure")
    elif strategy == "channel":
        block = (1, 0)
    elif group is not None and strategy != "tensor":
        size = weights.integer("group_size")
        block = (1, 0 if size < 0 else size)
    if kind == "float" and bits == 8:
        return fp8_format(block, weight_only="" if active_bits == 8 else dtype)
    if kind == "float" and bits == 4:
        size = block[1] or 16
        if size == 32:
            return WeightFormat("mxfp4", 4, "fp4" if active_bits == 4 else dtype, block, 8)
        return nvfp4_format(dtype, weight_only=active_bits != 4, group=size)
    if kind == "int" and bits == 8:
        return WeightFormat("int8", 8, "int8" if active_bits == 8 else dtype, block, 16)
    if kind == "int" and bits in {2, 3, 4}:
        if active_bits != 16:
            raise weights.refusal("num_bits")
        return WeightFormat(
            f"int{bits}", bits, dtype, block, 16 + (0 if weights.values.get("symmetric", True) else bits)
        )
    raise weights.refusal("num_bits" if kind in ("int", "float") else "type")


def _groups(config: _Config) -> tuple[Rule, ...]:
    groups = config.mapping("config_groups")
    if groups is None or not groups.values:
        raise config.error("config_groups", "a mapping of groups")
    rules: list[Rule] = []
    for key in groups.values:
        group = groups.mapping(key)
        weights = group.mapping("weights") if group is not None else None
        if group is None or weights is None:
            raise NotSupportedError(f"{config.name}: {groups.path}.{key}: a group without weights is not supported yet")
        rules.append(
            Rule(group.strings("targets") or ("Linear",), _scheme(weights, group.mapping("input_activations")))
        )
    # Groups that name modules come before the group of all linear modules.
    return tuple(sorted(rules, key=lambda rule: "Linear" in rule.patterns))


ALGORITHMS: dict[str, Callable[[str], WeightFormat]] = {
    "FP8": lambda dtype: fp8_format(),
    "FP8_PER_CHANNEL_PER_TOKEN": lambda dtype: fp8_format((1, 0)),
    "FP8_PB_WO": lambda dtype: fp8_format((128, 128)),
    "NVFP4": lambda dtype: nvfp4_format(dtype, weight_only=False),
    "W4A16_NVFP4": lambda dtype: nvfp4_format(dtype, weight_only=True),
    "NVFP4_AWQ": lambda dtype: nvfp4_format(dtype, weight_only=False),
    "W4A16_AWQ": lambda dtype: WeightFormat("int4", 4, dtype, (1, 128), 16),
    "W8A8_SQ_PER_CHANNEL": lambda dtype: WeightFormat("int8", 8, "int8", (1, 0), 32),
}
"""`quant_algo` of NVIDIA's model optimizer."""


def _layer_rules(layers: _Config) -> list[Rule]:
    """`quantized_layers`: module name -> {quant_algo}. One rule per algorithm."""
    modules: dict[str, list[str]] = {}
    for module in layers.values:
        entry = layers.mapping(module)
        algorithm = entry.values.get("quant_algo") if entry is not None else None
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise NotSupportedError(
                f"{layers.name}: {layers.path}.{module[:80]}.quant_algo: {shown(algorithm)} is not supported yet"
            )
        modules.setdefault(algorithm, []).append(module)
    return [Rule(tuple(names), ALGORITHMS[algorithm](layers.dtype)) for algorithm, names in modules.items()]


def _modelopt(config: _Config) -> Quantization:
    """NVIDIA's model optimizer, in `quantization_config` or in `hf_quant_config.json`."""
    ignored = config.strings("ignore", "exclude_modules")
    layers, algorithm = config.mapping("quantized_layers"), config.values.get("quant_algo")
    if layers is not None and layers.values:
        rules = tuple(_layer_rules(layers))
    elif config.values.get("config_groups") is not None:
        rules = _groups(config)
    elif isinstance(algorithm, str) and algorithm in ALGORITHMS:
        rules = (Rule(("Linear",), ALGORITHMS[algorithm](config.dtype)),)
    else:
        raise config.refusal("quant_algo")
    return Quantization("modelopt", rules, ignored, _kv_dtype(config))


def _compressed_tensors(config: _Config) -> Quantization:
    return Quantization("compressed-tensors", _groups(config), config.strings("ignore"), _kv_dtype(config))


def _kv_dtype(config: _Config) -> str | None:
    """Type of the KV cache if the checkpoint has scales for it."""
    for key in ("kv_cache_scheme", "kv_cache_quant_algo"):
        value = config.values.get(key)
        if value is None:
            continue
        if isinstance(value, dict):
            scheme = cast("dict[str, Any]", value)
            if (scheme.get("num_bits"), scheme.get("type")) == (8, "float"):
                return "fp8"
        elif value == "FP8":
            return "fp8"
        raise config.refusal(key)
    return None


METHODS: dict[str, Callable[[_Config], Quantization]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "gptq": _gptq,
    "awq": _awq,
    "mxfp4": _mxfp4,
}


def read_quantization(config: Mapping[str, Any], name: str, dtype: str) -> Quantization:
    """The quantization that a `quantization_config` describes. `dtype` is the activation type.

    Raises NotSupportedError naming the key for a method or scheme that is not modelled, InputError for a bad value.
    """
    method = config.get("quant_method")
    if method is None and "quant_algo" in config:
        method = "modelopt"
    if not isinstance(method, str) or method not in METHODS:
        raise NotSupportedError(
            f"{name}: quantization_config.quant_method: {shown(method)} is not supported "
            f"(supported: {', '.join(METHODS)})"
        )
    return METHODS[method](_Config(name, config, dtype))
