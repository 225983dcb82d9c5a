"""Reader: steps as OpenTelemetry's JSON export, one document a line.

A line is `{"resourceSpans": [{"scopeSpans": [{"scope", "spans": [{"events": [...]}]}]}]}`; a sampled step is an event
`step.BATCH_SUMMARY` of a span of the scope `vllm.scheduler.step`. Other scopes and events are ignored. If
the server also wrote `step.REQUEST_SNAPSHOT` events, one for each request of the step, they give its contexts.
Source: the OTLP/JSON encoding (64-bit integers are strings) and the attribute names of instrumented vLLM.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.limits import MOST_REQUESTS
from roofml.traces.steps.table import FIELDS, LONG_CONTEXT, Contexts, SampledSteps, table_of
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, first_bytes, open_file, refuse

SCOPE = "vllm.scheduler.step"
SUMMARY = "step.BATCH_SUMMARY"
SNAPSHOT = "step.REQUEST_SNAPSHOT"
PROMPT, COMPUTED, NEW = (
    "request.num_prompt_tokens",
    "request.num_computed_tokens",
    "request.scheduled_tokens_this_step",
)
REQUESTS = b'"llm_request"'
"""A span that stock vLLM writes for a request (`roofml.traces.formats.otel_spans`)."""
HEAD = 65_536
"""Bytes by which a file is told."""
LONGEST_LINE = 64 * 2**20
"""Most characters of a line in a file with one document a line."""


def detect(path: Path) -> bool:
    """Whether `path` is an export of spans, by its beginning, that does not begin with spans of requests alone."""
    head = first_bytes(path, HEAD)
    requests_alone = REQUESTS in head and SUMMARY.encode() not in head
    return b'"resourceSpans"' in head[:1024] and not requests_alone


WHOLE = re.compile(r"-?[0-9]{1,19}")


@dataclass
class _Events:
    """The events of the lines read so far."""

    lines: list[int] = field(default_factory=list[int])
    columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in FIELDS})
    snapshots: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict[int, list[tuple[int, int, int]]])
    """Step -> its requests as (prompt, computed, new) tokens."""


def read(path: Path) -> SampledSteps:
    """The steps in `path`. Raises InputError naming line and attribute if one is missing or of another type."""
    events = _Events()
    try:
        with io.TextIOWrapper(open_file(path, MOST_BYTES_OF_A_TABLE), encoding="utf-8") as text:
            for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), ""), 1):
                if line.strip():
                    _collect(f"{path}: line {number}", number, _document(path, number, line), events)
                if len(events.lines) > MOST_REQUESTS:
                    raise InputError(f"{path}: line {number}: more than {MOST_REQUESTS} steps")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        refuse(path, error)
    if not events.lines:
        raise InputError(f"{path}: no {SUMMARY} event of the scope {SCOPE}")
    columns: dict[str, Ints] = {name: np.array(values, np.int64) for name, values in events.columns.items()}
    snapshot = _contexts(columns, events) if events.snapshots else None
    return table_of(str(path), columns, "line", np.array(events.lines), snapshot)


def _document(path: Path, number: int, line: str) -> object:
    if len(line) == LONGEST_LINE:
        raise InputError(f"{path}: line {number}: longer than {LONGEST_LINE} characters, expected one export a line")
    try:
        return cast("object", json.loads(line))
    except (json.JSONDecodeError, RecursionError, ValueError):
        raise InputError(f"{path}: line {number}: not JSON; expected one export a line, is the file cut?") from None


def _collect(place: str, number: int, document: object, events: _Events) -> None:
    for event in _events(place, document):
        name: object = event.get("name")
        if name != SUMMARY and name != SNAPSHOT:  # a set would need a name that can be hashed
            continue
        attributes = _attributes(place, event)
        if name == SUMMARY:
            events.lines.append(number)
            for key, attribute in FIELDS.items():
                events.columns[key].append(_whole(place, attribute, attributes))
        else:
            step = _whole(place, "step.id", attributes)
            request = (*(_whole(place, attribute, attributes) for attribute in (PROMPT, COMPUTED, NEW)),)
            events.snapshots.setdefault(step, []).append(cast("tuple[int, int, int]", request))


def _events(place: str, document: object) -> Iterator[Mapping[str, Any]]:
    for resource in _list(place, document, "resourceSpans"):
        for scope in _list(place, resource, "scopeSpans"):
            if _mapping(place, scope, "scope").get("name") == SCOPE:
                for span in _list(place, scope, "spans"):
                    for event in _list(place, span, "events"):
                        if not isinstance(event, dict):
                            raise InputError(f"{place}: events: expected mappings")
                        yield cast("dict[str, Any]", event)


def _mapping(place: str, parent: object, key: str) -> Mapping[str, Any]:
    """The mapping under `key`; empty where the exporter left an empty one out."""
    value: object = cast("dict[str, Any]", parent).get(key, {}) if isinstance(parent, dict) else None
    if not isinstance(value, dict):
        raise InputError(f"{place}: {key}: expected a mapping")
    return cast("dict[str, Any]", value)


def _list(place: str, parent: object, key: str) -> list[Any]:
    """The list under `key`; empty where the exporter left an empty one out."""
    if not isinstance(parent, dict):
        raise InputError(f"{place}: expected a mapping with {key}")
    value = cast("dict[str, Any]", parent).get(key, [])
    if not isinstance(value, list):
        raise InputError(f"{place}: {key}: expected a list")
    return cast("list[Any]", value)


def _attributes(place: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Attribute -> its typed value, e.g. {"intValue": "5"}."""
    result: dict[str, Any] = {}
    for item in _list(place, event, "attributes"):
        pair = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        if not isinstance(pair.get("key"), str) or not isinstance(pair.get("value"), dict):
            raise InputError(f"{place}: attributes: expected pairs of key and value")
        if pair["key"] in result:
            raise InputError(f"{place}: attribute {for_line(pair['key'])[:60]} is there twice")
        result[pair["key"]] = pair["value"]
    return result


def _whole(place: str, attribute: str, attributes: Mapping[str, Any]) -> int:
    """An attribute of type int. OTLP/JSON writes 64-bit integers as strings; some exporters as numbers."""
    if attribute not in attributes:
        raise InputError(f"{place}: attribute {attribute} is missing")
    value = attributes[attribute].get("intValue")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{place}: {attribute}: expected an intValue, found {shown(attributes[attribute])}")
    number = int(value) if isinstance(value, int) or WHOLE.fullmatch(value) else 2**63
    if not -(2**63) <= number < 2**63:
        raise InputError(f"{place}: {attribute} is {shown(value)}, expected a whole number of 64 bits")
    return number


def _contexts(columns: Mapping[str, Ints], events: _Events) -> Contexts:
    """Sums over the requests of each step, for steps with a snapshot of every request.

    vLLM counts the computed tokens of a request before the step or, once the step is scheduled, including it. A request
    with a computed prompt cannot have several new tokens in a step: if a file says so, its counts include the step.
    """
    requests = [request for step in events.snapshots.values() for request in step]
    includes_step = any(new > 1 and computed >= prompt for prompt, computed, new in requests)
    sums = np.full((4, len(columns["id"])), np.nan)
    for row, step in enumerate(columns["id"]):
        scheduled = [request for request in events.snapshots.get(int(step), []) if request[2] > 0]
        if len(scheduled) != columns["prefill_requests"][row] + columns["decode_requests"][row]:
            continue
        sums[:, row] = 0
        for prompt, computed, new in scheduled:
            context = max(0, computed - new) if includes_step else computed
            if context < prompt:
                sums[0, row] += new * (context + (new + 1) / 2)
                sums[1, row] += context
            else:
                sums[2, row] += context
                sums[3, row] += max(0, context - LONG_CONTEXT)
    return Contexts(*sums)
