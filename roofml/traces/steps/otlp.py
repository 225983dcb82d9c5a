"""Reader: steps as OpenTelemetry's JSON export, one document a line.

A line is `{"resourceSpans": [{"scopeSpans": [{"scope", "spans": [{"events": [...]}]}]}]}`; a sampled step is an event
`step.BATCH_SUMMARY` of a span of the scope `vllm.scheduler.step`. Other scopes and events are left alone. Where the
server also wrote `step.REQUEST_SNAPSHOT` events, one for each request of the step, they give its contexts.
Source: the OTLP/JSON encoding (64-bit integers are strings) and the attribute names of instrumented vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.steps.table import FIELDS, LONG_CONTEXT, Contexts, SampledSteps, table_of
from roofml.util.arrays import Ints
from roofml.util.errors import InputError

SCOPE = "vllm.scheduler.step"
SUMMARY = "step.BATCH_SUMMARY"
SNAPSHOT = "step.REQUEST_SNAPSHOT"
PROMPT, COMPUTED, NEW = (
    "request.num_prompt_tokens",
    "request.num_computed_tokens",
    "request.scheduled_tokens_this_step",
)
LONGEST_LINE = 256 * 2**20
"""Characters of a line past which a file is not one document a line."""


def detect(path: Path) -> bool:
    """A file whose first line is an export of spans, by its first kilobyte."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"resourceSpans"' in file.read(1024)


@dataclass
class _Found:
    """What the lines so far held."""

    lines: list[int] = field(default_factory=list[int])
    columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in FIELDS})
    snapshots: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict[int, list[tuple[int, int, int]]])
    """Step -> its requests as (prompt, computed, new tokens)."""


def read(path: Path) -> SampledSteps:
    """The steps in `path`. Raises InputError naming line and attribute of what is missing or of another type."""
    found = _Found()
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), ""), 1):
                if line.strip():
                    _take(f"{path}: line {number}", number, _document(path, number, line), found)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    if not found.lines:
        raise InputError(f"{path}: no {SUMMARY} event of the scope {SCOPE}")
    columns: dict[str, Ints] = {name: np.array(values, np.int64) for name, values in found.columns.items()}
    snapshot = _contexts(columns, found) if found.snapshots else None
    return table_of(str(path), columns, "line", np.array(found.lines), snapshot)


def _document(path: Path, number: int, line: str) -> object:
    if len(line) == LONGEST_LINE:
        raise InputError(f"{path}: line {number}: longer than {LONGEST_LINE} characters, expected one export a line")
    try:
        return cast("object", json.loads(line))
    except (json.JSONDecodeError, RecursionError, ValueError):
        raise InputError(f"{path}: line {number}: not JSON; expected one export a line, is the file cut?") from None


def _take(where: str, number: int, document: object, found: _Found) -> None:
    for event in _events(where, document):
        name = event.get("name")
        if name not in {SUMMARY, SNAPSHOT}:
            continue
        attributes = _attributes(where, event)
        if name == SUMMARY:
            found.lines.append(number)
            for key, attribute in FIELDS.items():
                found.columns[key].append(_whole(where, attribute, attributes))
        else:
            step = _whole(where, "step.id", attributes)
            request = (*(_whole(where, attribute, attributes) for attribute in (PROMPT, COMPUTED, NEW)),)
            found.snapshots.setdefault(step, []).append(cast("tuple[int, int, int]", request))


def _events(where: str, document: object) -> Iterator[Mapping[str, Any]]:
    for resource in _list(where, document, "resourceSpans"):
        for scope in _list(where, resource, "scopeSpans"):
            if _mapping(where, scope, "scope").get("name") == SCOPE:
                for span in _list(where, scope, "spans"):
                    for event in _list(where, span, "events"):
                        if not isinstance(event, dict):
                            raise InputError(f"{where}: events: expected mappings")
                        yield cast("dict[str, Any]", event)


def _mapping(where: str, parent: object, key: str) -> Mapping[str, Any]:
    """The mapping under `key`; empty where the exporter left an empty one out."""
    value: object = cast("dict[str, Any]", parent).get(key, {}) if isinstance(parent, dict) else None
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key}: expected a mapping")
    return cast("dict[str, Any]", value)


def _list(where: str, parent: object, key: str) -> list[Any]:
    """The list under `key`; empty where the exporter left an empty one out."""
    if not isinstance(parent, dict):
        raise InputError(f"{where}: expected a mapping with {key}")
    value = cast("dict[str, Any]", parent).get(key, [])
    if not isinstance(value, list):
        raise InputError(f"{where}: {key}: expected a list")
    return cast("list[Any]", value)


def _attributes(where: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Attribute -> its typed value, e.g. {"intValue": "5"}."""
    result: dict[str, Any] = {}
    for item in _list(where, event, "attributes"):
        pair = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        if not isinstance(pair.get("key"), str) or not isinstance(pair.get("value"), dict):
            raise InputError(f"{where}: attributes: expected pairs of key and value")
        result[pair["key"]] = pair["value"]
    return result


def _whole(where: str, attribute: str, attributes: Mapping[str, Any]) -> int:
    """An attribute of type int. OTLP/JSON writes 64-bit integers as strings; some exporters as numbers."""
    if attribute not in attributes:
        raise InputError(f"{where}: attribute {attribute} is missing")
    value = attributes[attribute].get("intValue")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where}: {attribute}: expected an intValue, found {str(attributes[attribute])[:60]}")
    try:
        number = int(value)
    except ValueError:
        number = 2**63
    if not -(2**63) <= number < 2**63:
        raise InputError(f"{where}: {attribute} is {str(value)[:40]!r}, expected a whole number of 64 bits")
    return number


def _contexts(columns: Mapping[str, Ints], found: _Found) -> Contexts:
    """Sums over the requests of each step whose every request has a snapshot.

    vLLM counts computed tokens before a step or, once the step is scheduled, with it. Several new tokens of a request
    whose prompt is already computed, which no step can have, show that a file counts with it.
    """
    requests = [r for step in found.snapshots.values() for r in step]
    with_step = any(new > 1 and computed >= prompt for prompt, computed, new in requests)
    sums = np.full((4, len(columns["id"])), np.nan)
    for row, step in enumerate(columns["id"]):
        listed = [r for r in found.snapshots.get(int(step), []) if r[2] > 0]
        if len(listed) != columns["prefill_requests"][row] + columns["decode_requests"][row]:
            continue
        sums[:, row] = 0
        for prompt, computed, new in listed:
            context = max(0, computed - new) if with_step else computed
            if context < prompt:
                sums[0, row] += new * (context + (new + 1) / 2)
                sums[1, row] += context
            else:
                sums[2, row] += context
                sums[3, row] += max(0, context - LONG_CONTEXT)
    return Contexts(*sums)
