"""LLMServingSim's bench (casys-kaist): requests.jsonl, as vLLM's engine timed them, with meta.json beside it.

`arrival_time` is wall clock, the other times are monotonic seconds of one engine. TTFT is first token minus queued: no
HTTP and no tokenizer is in it. meta.json says the server: version, engine arguments, KV cache, in newer ones the GPU
and every resolved setting. Source: LLMServingSim bench/ at 5daddb2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.columns import Columns, Timed, requests_of, run_name
from roofml.traces.formats.fields import mapping
from roofml.traces.formats.peek import peek
from roofml.traces.recording import Facts, Recording
from roofml.traces.settings import NAMES, NOT_MODELLED, OFF
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.util.json_stream import json_lines
from roofml.util.reading import is_file, is_folder, read_json_object

FIELDS = ("input_toks", "output_toks", "queued_ts", "first_token_ts", "last_token_ts")
REQUESTS, META = "requests.jsonl", "meta.json"
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
    """Whether `path` is such a list of requests, or a folder that holds one, by the names of its fields."""
    if is_folder(path):
        return is_file(path / REQUESTS) and detect(path / REQUESTS)
    seen = peek(path)
    return not seen.is_list and seen.has("input_toks", "output_toks", "queued_ts", "first_token_ts", "last_token_ts")


def read(path: Path) -> list[Recording]:
    """The run in `path`. Raises InputError, naming file and line, for what no engine can have timed."""
    if is_folder(path):
        path = path / REQUESTS
    columns = Columns(path, "line", FIELDS)
    for line, request in json_lines(path):
        columns.add(line, [request.get(name) for name in FIELDS])
        columns.add_id(request.get("request_id", f"line {line}"))
    if not len(columns):
        raise InputError(f"{path}: no requests, expected at least one")
    columns.refuse_twice("request_id")
    queued, first, last = (columns.times_us(name, 1e6) for name in FIELDS[2:])
    ok: Bools = np.isfinite(first) & np.isfinite(last)
    requests, findings = requests_of(
        columns,
        Timed(queued, first, last, ok),
        {
            "input_tokens": np.zeros(len(columns), np.int64),
            "server_input_tokens": columns.counts("input_toks"),
            "output_tokens": np.where(ok, columns.counts("output_toks"), 0),
        },
    )
    beside = path.with_name(META)
    facts: Facts = meta_facts(beside) if is_file(beside) else {}
    unmodelled = [name for name in NOT_MODELLED if name in facts and (facts[name] is True or facts[name] not in OFF)]
    told = ", ".join(f"{name} {facts[name]}" for name in unmodelled)
    completed = int(ok.sum())
    return [
        Recording(
            name=run_name(path) if path.parent.name in ("", ".") else path.parent.name,
            source=str(path),
            format="llmservingsim",
            requests=len(columns),
            completed=completed,
            each=requests,
            facts={META: facts} if facts else {},
            findings=(*findings, _engine_side()),
            refused=None if completed else "no request succeeded",
            unfit=f"{META} says {told}, which is not modelled" if unmodelled else None,
        )
    ]


def meta_facts(path: Path) -> Facts:
    """What meta.json says of the server. Raises InputError, naming the field, for what it cannot say."""
    meta = read_json_object(path)
    asked, cache = mapping(path, meta, "engine_kwargs"), mapping(path, meta, "kv_cache")
    resolved = mapping(path, meta, "resolved_config")
    facts: dict[str, object] = {}
    facts |= _named(asked, ENGINE)
    facts |= {name: asked[name] for name in NOT_MODELLED if asked.get(name) is not None}
    for section, names in RESOLVED.items():
        facts |= _named(mapping(path, resolved, section, "resolved_config."), {name: ENGINE[name] for name in names})
    for section in OF_SCHEDULER:
        settings = mapping(path, resolved, section, "resolved_config.")
        facts |= {name: settings[name] for name in NAMES if settings.get(name) is not None}
    facts |= _named(cache, KV_CACHE)
    kv_dtype = facts.get("kv_dtype")
    if isinstance(kv_dtype, str) and kv_dtype.startswith("fp8"):
        facts["kv_dtype"] = "fp8"
    for name, value in (
        ("engine_version", meta.get("vllm_version")),
        ("gpu", mapping(path, meta, "hardware").get("device_name")),
        ("model", meta.get("model")),
    ):
        if value is not None:
            facts.setdefault(name, value)
    return facts


def _named(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, object]:
    return {ours: settings[theirs] for theirs, ours in names.items() if settings.get(theirs) is not None}


def _engine_side() -> Finding:
    return Finding(
        "engine-side-times",
        "info",
        "The engine timed its requests itself: TTFT counts from its queue, without HTTP and tokenizer.",
        {},
        "A fit finds less time outside of the engine than a client would see.",
    )
