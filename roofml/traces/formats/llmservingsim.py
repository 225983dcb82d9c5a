"""LLMServingSim's bench (casys-kaist): requests.jsonl, as vLLM's engine timed them, with meta.json beside it.

`arrival_time` is wall clock, the other times are monotonic seconds of one engine. TTFT is first token minus queued: no
HTTP and no tokenizer is in it. meta.json says the server: version, engine arguments, KV cache, in newer ones the GPU
and every resolved setting. Source: LLMServingSim bench/ at 5daddb2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.columns import Columns, Timed, requests_of, run_name
from roofml.traces.formats.peek import peek
from roofml.traces.recording import Facts, Recording
from roofml.traces.server_files import llmservingsim_meta
from roofml.traces.settings import NOT_MODELLED, OFF
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.util.json_stream import json_lines
from roofml.util.reading import is_file, is_folder

FIELDS = ("input_toks", "output_toks", "queued_ts", "first_token_ts", "last_token_ts")
REQUESTS, META = "requests.jsonl", "meta.json"


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
    facts: Facts = llmservingsim_meta.facts(beside).facts if is_file(beside) else {}
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


def _engine_side() -> Finding:
    return Finding(
        "engine-side-times",
        "info",
        "The engine timed its requests itself: TTFT counts from its queue, without HTTP and tokenizer.",
        {},
        "A fit finds less time outside of the engine than a client would see.",
    )
