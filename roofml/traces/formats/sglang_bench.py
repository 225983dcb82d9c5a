"""Reader: what `sglang.bench_serving --output-file` writes: a JSON object a line for each run, appended.

Source: sglang/python/sglang/bench_serving.py. Times are in ms, those of --output-details in seconds. It is sglang's
server unless `backend` says another. With the API of another, `output_lens` are the tokens asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats import values
from roofml.traces.formats.documents import read_documents, run_name
from roofml.traces.formats.lists import (
    SEVERAL_TOKENS,
    Lists,
    bundled,
    check_unit,
    read_aggregates,
    read_lists,
    read_load,
)
from roofml.traces.formats.peek import peek
from roofml.traces.formats.values import Object
from roofml.traces.recording import Facts, Recording
from roofml.util.errors import InputError

ENGINES = {
    **dict.fromkeys(("sglang", "sglang-native", "sglang-oai", "sglang-oai-chat"), "sglang"),
    **dict.fromkeys(("vllm", "vllm-chat"), "vllm"),
    "trt": "tensorrt-llm",
}
"""`backend` -> engine."""
NATIVE = ("sglang", "sglang-native")
"""Backends whose answers say how many tokens they have."""
SERVER_KEYS = {
    "model_path": "model",
    "tp_size": "tensor_parallel",
    "max_running_requests": "max_num_seqs",
    "chunked_prefill_size": "max_num_batched_tokens",
    "page_size": "block_size",
    "context_length": "max_model_len",
    "version": "engine_version",
    "pp_size": "pipeline_parallel_size",
    "dp_size": "data_parallel_size",
    "speculative_algorithm": "speculative_config",
}
"""Key of `server_info` -> field of `Server`, or name of what is not modelled."""
OTHER_TEXTS = ("sharegpt_output_len", "random_input_len", "random_output_len", "random_range_ratio")


def detect(path: Path) -> bool:
    """Whether `path` is such a file, by the names in its first object."""
    shown = peek(path)
    if not shown.has("backend", "dataset_name", "request_rate"):
        return False
    return shown.has("server_info") or any(shown.has(name) for name in OTHER_TEXTS) or shown.has("completed")


def read(path: Path) -> list[Recording]:
    """The runs in `path`, a line each. Raises InputError naming line and field."""
    return [_run(path, source, document) for source, document in read_documents(path)]


def _run(path: Path, source: str, document: Object) -> Recording:
    completed = values.count(source, document, "completed")
    if completed is None:
        raise InputError(f"{source}: completed is missing, expected what sglang's bench_serving writes")
    backend = values.word(document, "backend") or ""
    info = _info(document)
    lists = read_lists(source, document)
    aggregates = read_aggregates(source, document) if completed else {}
    sent = max(completed, lists.requests if lists is not None else 0)
    findings = bundled(aggregates)
    unfit = SEVERAL_TOKENS if findings else None
    if lists is not None:
        check_unit(source, lists, aggregates, sent)
    if backend not in NATIVE and completed:
        findings.append(_asked_lengths(backend))
    if backend in NATIVE and lists is not None:
        findings.append(_even_gaps())
    refused = _refusal(backend, info, document) if completed else f"all {sent or 'its'} requests failed"
    return Recording(
        name=run_name(path),
        source=source,
        format="sglang-bench",
        requests=sent,
        completed=completed,
        each=_each(lists) if completed else None,
        aggregates=aggregates,
        load=read_load(source, document, completed),
        facts={path.name: _facts(backend, info)},
        findings=tuple(findings),
        refused=refused,
        unfit=unfit,
    )


def _each(lists: Lists | None) -> Any:
    return None if lists is None else lists.each(np.zeros(lists.requests, np.bool_))


def _info(document: Object) -> Mapping[str, Any]:
    info: object = document.get("server_info")
    return cast("dict[str, Any]", info) if isinstance(info, dict) else {}


def _refusal(backend: str, info: Mapping[str, Any], document: Object) -> str | None:
    """Why the run is none of one engine that is known here; None where it is."""
    if ("prefill" in info and "decode" in info) or info.get("disaggregation_mode") in ("prefill", "decode"):
        return "prefill and decode ran on different servers (server_info): it is no one engine's run"
    if backend not in ENGINES:
        return f"backend {backend[:40]!r}: expected one of {', '.join(ENGINES)}"
    if document.get("accept_length"):
        return "the server speculated (accept_length), which no replay of a run does"
    return None


def _facts(backend: str, info: Mapping[str, Any]) -> Facts:
    """What it says of the server, which has served the client's warm-up requests."""
    found: dict[str, object] = {"fresh": False}
    if backend in ENGINES:
        found["engine"] = ENGINES[backend]
    for key, name in SERVER_KEYS.items():
        if info.get(key) is not None:
            found[name] = info[key]
    if isinstance(info.get("disable_radix_cache"), bool):
        found["prefix_caching"] = not info["disable_radix_cache"]
    tokens: object = info.get("max_total_num_tokens") or info.get("max_total_tokens")
    size: object = info.get("page_size")
    if isinstance(tokens, int) and isinstance(size, int) and tokens >= size > 0:
        found["num_gpu_blocks"] = tokens // size
    return found


def _asked_lengths(backend: str) -> Finding:
    return Finding(
        "asked-lengths",
        "warning",
        f"With backend {backend} output_lens are the tokens that were asked for, not those that were made.",
        {"backend": backend},
        "They are right where the client sent ignore_eos (its default for random lengths), else TPOT is wrong.",
    )


def _even_gaps() -> Finding:
    return Finding(
        "gaps-divided-evenly",
        "info",
        "A gap with several tokens is divided evenly among them in itls.",
        {},
        "TPOT is taken as (E2E - TTFT) / (tokens - 1) and does not need gaps.",
    )
