"""Reader: meta.json of LLMServingSim's bench: the version, arguments and KV cache of the vLLM engine that it timed.

Newer ones have the GPU and every resolved setting, which weighs more than what was asked for.
Source: casys-kaist/LLMServingSim bench/ at 5daddb2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roofml.traces.formats.fields import mapping
from roofml.traces.formats.peek import peek
from roofml.traces.server_files.said import Said
from roofml.traces.settings import NAMES, NOT_MODELLED
from roofml.util.reading import read_json_object

ENGINE = {
    "model": "model",
    "tensor_parallel_size": "tensor_parallel",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_model_len": "max_model_len",
    "enable_prefix_caching": "prefix_caching",
    "kv_cache_dtype": "kv_dtype",
    "async_scheduling": "async_scheduling",
}
"""Argument of the engine -> field of `Server`."""
KV_CACHE = {
    "num_gpu_blocks": "num_gpu_blocks",
    "block_size": "block_size",
    "enable_prefix_caching": "prefix_caching",
}
RESOLVED = {
    "scheduler_config": ("max_num_seqs", "max_num_batched_tokens", "async_scheduling"),
    "model_config": ("max_model_len",),
}
"""Section of the resolved configuration -> arguments that it settles."""
OF_SCHEDULER = ("scheduler_config", "model_config", "compilation_config")
"""Sections that hold settings of the schedule by their own names."""


def detect(path: Path) -> bool:
    """Whether `path` is such a file, by the names of its fields."""
    seen = peek(path)
    return not seen.is_list and seen.has("schema_version", "vllm_version", "engine_kwargs")


def facts(path: Path) -> Said:
    """What the file says of the server. Raises InputError, naming the field, for what it cannot say."""
    meta = read_json_object(path)
    asked, cache = mapping(path, meta, "engine_kwargs"), mapping(path, meta, "kv_cache")
    resolved = mapping(path, meta, "resolved_config")
    found: dict[str, object] = {}
    found |= _named(asked, ENGINE)
    found |= {name: asked[name] for name in NOT_MODELLED if asked.get(name) is not None}
    for section, names in RESOLVED.items():
        found |= _named(mapping(path, resolved, section, "resolved_config."), {name: ENGINE[name] for name in names})
    for section in OF_SCHEDULER:
        settings = mapping(path, resolved, section, "resolved_config.")
        found |= {name: settings[name] for name in NAMES if settings.get(name) is not None}
    found |= _named(cache, KV_CACHE)
    kv_dtype = found.get("kv_dtype")
    if isinstance(kv_dtype, str) and kv_dtype.startswith("fp8"):
        found["kv_dtype"] = "fp8"
    for name, value in (
        ("engine_version", meta.get("vllm_version")),
        ("gpu", mapping(path, meta, "hardware").get("device_name")),
        ("model", meta.get("model")),
    ):
        if value is not None:
            found.setdefault(name, value)
    return Said(found)


def _named(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, object]:
    return {ours: settings[theirs] for theirs, ours in names.items() if settings.get(theirs) is not None}
