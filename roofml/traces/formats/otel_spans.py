"""Stock vLLM's OpenTelemetry spans (`--otlp-traces-endpoint`): one `llm_request` a request, as OTLP JSON lines.

A span starts when the request arrived at the engine, by its wall clock: real arrivals. Latencies are seconds, counts
the server's own. Spans are written as requests end. Requests that were aborted leave none. Source: vllm/tracing.py
(SpanAttributes) and v1/engine/output_processor.py, do_tracing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.columns import Columns, Timed, requests_of, run_name
from roofml.traces.formats.fields import as_mapping, items, text
from roofml.traces.formats.peek import peek
from roofml.traces.recording import Recording
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.util.json_stream import json_lines
from roofml.util.names import shown

SPAN = "llm_request"
LATENCY = "gen_ai.latency."
USAGE = "gen_ai.usage."
ATTRIBUTES = (
    f"{LATENCY}time_to_first_token",
    f"{LATENCY}e2e",
    f"{USAGE}prompt_tokens",
    f"{USAGE}completion_tokens",
    "gen_ai.request.n",
)
FIELDS = ("startTimeUnixNano", *ATTRIBUTES)
MODEL = "gen_ai.response.model"
WANTED = frozenset((*ATTRIBUTES, MODEL))
STEPS = b"step.BATCH_SUMMARY"


def detect(path: Path) -> bool:
    """Whether `path` holds spans of requests, and not of the scheduler's steps, by its beginning."""
    head = peek(path).head
    return b'"resourceSpans"' in head and f'"{SPAN}"'.encode() in head and STEPS not in head


def read(path: Path) -> list[Recording]:
    """The requests in `path` as one run. Raises InputError, naming line and attribute, for what vLLM cannot send."""
    columns = Columns(path, "line", FIELDS)
    models: set[str] = set()
    for line, document in json_lines(path):
        for span in _spans(path, line, document):
            if span.get("name") == SPAN:
                models |= _add(path, columns, line, span)
    if not len(columns):
        raise InputError(f"{path}: no span {SPAN}, expected one a request")
    columns.refuse_twice("spanId")
    start = columns.times_us("startTimeUnixNano", 1e-3)
    ttft, e2e = (columns.times_us(name, 1e6) for name in ATTRIBUTES[:2])
    several: Bools = columns.numbers("gen_ai.request.n") > 1
    ok: Bools = np.isfinite(ttft) & np.isfinite(e2e) & ~several
    requests, findings = requests_of(
        columns,
        Timed(start, start + ttft, start + e2e, ok),
        {
            "input_tokens": np.zeros(len(columns), np.int64),
            "server_input_tokens": columns.counts(f"{USAGE}prompt_tokens"),
            "output_tokens": np.where(ok, columns.counts(f"{USAGE}completion_tokens"), 0),
        },
        "spans",
    )
    if several.any():
        findings.append(_several_answers(int(several.sum()), len(columns)))
    completed = int(ok.sum())
    hints = {path.name: {"model": next(iter(models))}} if len(models) == 1 else {}
    return [
        Recording(
            name=run_name(path),
            source=str(path),
            format="otel-spans",
            requests=len(columns),
            completed=completed,
            each=requests,
            hints=hints,
            findings=(*findings, _by_server()),
            refused=None if completed else "no request succeeded",
        )
    ]


def _spans(path: Path, line: int, document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    where = f"line {line}: "
    for resource in items(path, document, "resourceSpans", where):
        for scope in items(path, as_mapping(path, resource, where), "scopeSpans", where):
            for span in items(path, as_mapping(path, scope, where), "spans", where):
                yield as_mapping(path, span, where)


def _add(path: Path, columns: Columns, line: int, span: Mapping[str, Any]) -> set[str]:
    """Add a request; the name of its model, if the span has one."""
    where = f"line {line}: "
    found: dict[str, object] = {}
    attribute: Any
    for attribute in items(path, span, "attributes", where):
        try:
            key: object = attribute["key"]
            if key in WANTED:
                value: Any = attribute["value"]
                typed = value.get("doubleValue")
                found[str(key)] = typed if typed is not None else _value(path, where, str(key), value)
        except (TypeError, KeyError, AttributeError):
            raise InputError(f"{path}: {where}attributes: {shown(attribute)}, expected a key and a value") from None
    start: object = span.get("startTimeUnixNano")
    columns.add(line, (_number(start), *(found.get(name) for name in ATTRIBUTES)))
    columns.add_id(span.get("spanId") or f"line {line}, {len(columns)}")
    model = text(found.get(MODEL))
    return {model} if model else set()


def _value(path: Path, where: str, name: str, value: object) -> object:
    """A typed value, {"intValue": "5"}: 64-bit integers are texts in OTLP JSON."""
    typed = as_mapping(path, value, where + name)
    kind, inside = next(iter(typed.items()), ("", None))
    if kind == "intValue":
        return _number(inside)
    if kind not in ("doubleValue", "stringValue"):
        raise InputError(f"{path}: {where}{name} is {shown(cast('object', typed))}, expected a number")
    return inside


def _number(value: object) -> object:
    """A whole number that may be written as a text of digits."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value


def _several_answers(number: int, requests: int) -> Finding:
    return Finding(
        "several-answers",
        "warning",
        f"{number} of {requests} requests asked for several answers at once (n > 1), which no replay does.",
        {"requests": number, "of": requests},
        "They load the server as one, and are not measured.",
    )


def _by_server() -> Finding:
    return Finding(
        "engine-side-times",
        "info",
        "The server timed its requests itself: arrivals, TTFT and E2E are the engine's, without the client's network.",
        {},
        "A fit finds less time outside of the engine than a client would see.",
    )
