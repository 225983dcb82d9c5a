"""NVIDIA AIPerf: profile_export.jsonl, one record a request in order of completion; aggregates by `aiperf_aggregates`.

Starts are wall-clock ns, metrics are numbers with their unit. A record's lengths are of re-tokenized text, unless it
has the server's `usage_*`. Of an error the metrics are {} and the end is the start. Later turns of a conversation carry
what was said before. Source: ai-dynamo/aiperf docs and records at 2025-11 and 0.10.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats import aiperf_aggregates as aggregates
from roofml.traces.formats.columns import NEVER, NONE, Columns, Timed, requests_of, run_name
from roofml.traces.formats.fields import mapping
from roofml.traces.formats.peek import peek
from roofml.traces.formats.traps import bundled_chunks, late_client, later_turns, retokenized
from roofml.traces.recording import LoadSaid, Recording
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.util.json_stream import json_lines
from roofml.util.names import shown
from roofml.util.reading import is_file, is_folder

FIELDS = (
    *("request_start_ns", "credit_issued_ns", "time_to_first_token", "request_latency", "input_sequence_length"),
    *("output_sequence_length", "usage_prompt_tokens", "usage_completion_tokens", "usage_prompt_cache_read_tokens"),
    *("chunks", "failed", "warm_up", "turn_index"),
)
TIMES = ("time_to_first_token", "request_latency")
COUNTS = (
    *("input_sequence_length", "output_sequence_length"),
    *("usage_prompt_tokens", "usage_completion_tokens", "usage_prompt_cache_read_tokens"),
)
UNIT_US = {"ns": 1e-3, "us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6, "sec": 1e6, None: 1e3}
"""Unit of a time -> µs. AIPerf writes ms; another tool's record without a unit is taken as that."""
LEAST_SAMPLE = 0.999
"""Share of the requests of the aggregates that the records must be to be the whole run."""


def detect(path: Path) -> bool:
    """Whether `path` is AIPerf's records or aggregates, or a folder that holds some, by the names of their fields."""
    if is_folder(path):
        return any(_is_records(each) or aggregates.detect(each) for each in _files(path))
    return _is_records(path) or aggregates.detect(path)


def read(path: Path) -> list[Recording]:
    """The run in `path`: its records where there are some, else its aggregates.

    Raises InputError, naming file and line or field, for what AIPerf cannot have written.
    """
    if not is_folder(path):
        return [_records(path) if _is_records(path) else aggregates.read(path)]
    files = _files(path)
    records = [each for each in files if _is_records(each)]
    if records:
        return [_records(each) for each in records]
    # The CSV is the same run with fewer digits.
    sums = [each for each in files if aggregates.detect(each)]
    documents = [each for each in sums if peek(each).paths]
    return [aggregates.read(each) for each in documents or sums]


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if (".json" in each.name or ".csv" in each.name) and is_file(each))


def _is_records(path: Path) -> bool:
    seen = peek(path)
    if seen.is_list or not seen.paths:
        return False
    first = seen.head.lstrip().split(b"\n", 1)[0]
    return b'"request_start_ns"' in first and b'"metrics"' in first and b'"metadata"' in first


def _records(path: Path) -> Recording:
    columns = Columns(path, "line", FIELDS)
    for line, record in json_lines(path):
        _add(path, columns, line, record)
    if not len(columns):
        raise InputError(f"{path}: no records, expected at least one")
    columns.refuse_twice("x_request_id")
    warm_up: Bools = columns.numbers("warm_up") == 1
    start = columns.times_us("request_start_ns", 1e-3)
    ttft, e2e = (columns.times_us(name, 1.0) for name in TIMES)
    ok: Bools = (columns.numbers("failed") == 0) & np.isfinite(e2e)
    streamed = ~ok | np.isfinite(ttft)
    counted, made = columns.counts("output_sequence_length"), columns.counts("usage_completion_tokens")
    output = np.where(ok, np.where(made > 0, made, counted), 0)
    chunks, cached = columns.counts("chunks"), columns.counts("usage_prompt_cache_read_tokens")
    says_cached = bool(np.isfinite(columns.numbers("usage_prompt_cache_read_tokens")).any())
    requests, findings = requests_of(
        columns,
        Timed(start, start + ttft, start + e2e, ok, streamed),
        {
            "input_tokens": columns.counts("input_sequence_length"),
            "server_input_tokens": columns.counts("usage_prompt_tokens"),
            "output_tokens": output,
            "num_chunks": chunks if chunks.any() else NONE,
            "cached_tokens": cached if says_cached else NONE,
            "warm_up": warm_up if warm_up.any() else NEVER,
        },
        "records",
    )
    measured = ok & ~warm_up
    summary = aggregates.beside(path)
    if not (made > 0)[measured].all():
        advice = "Use --use-server-token-count, or AIPerf 0.10, whose usage_* are the server's."
        findings.append(retokenized("AIPerf", advice))
    turns = int((columns.counts("turn_index") > 0).sum())
    if turns:
        findings.append(later_turns(turns, len(columns)))
    findings += bundled_chunks(chunks, output, measured)
    findings += late_client(start - columns.times_us("credit_issued_ns", 1e-3), e2e[measured], "its workers were busy")
    sent, completed = int((~warm_up).sum()), int(measured.sum())
    unfit: str | None = None
    if summary is not None and sent < LEAST_SAMPLE * summary.requests:
        unfit = f"it holds {sent} of the {summary.requests} requests of {Path(summary.source).name}"
        findings.append(_cut(sent, summary))
    return Recording(
        name=run_name(path),
        source=str(path),
        format="aiperf",
        requests=sent,
        completed=completed,
        each=requests,
        aggregates=summary.aggregates if summary is not None else {},
        load=summary.load if summary is not None else LoadSaid(),
        hints=summary.hints if summary is not None else {},
        generator=summary.generator if summary is not None else None,
        findings=(*findings, *(summary.findings if summary is not None else ())),
        refused=None if completed else "no request succeeded",
        unfit=unfit,
    )


def _add(path: Path, columns: Columns, line: int, record: Mapping[str, Any]) -> None:
    where = f"line {line}: "
    metadata, metrics = mapping(path, record, "metadata", where), mapping(path, record, "metrics", where)
    gaps = metrics.get("inter_chunk_latency")
    between: object = cast("dict[str, Any]", gaps).get("value") if isinstance(gaps, dict) else None
    columns.add(
        line,
        (
            metadata.get("request_start_ns"),
            metadata.get("credit_issued_ns"),
            *_numbers(path, where, metrics),
            len(cast("list[Any]", between)) + 1 if isinstance(between, list) else None,
            record.get("error") is not None or metadata.get("was_cancelled") is True or not metrics,
            metadata.get("benchmark_phase", "profiling") != "profiling",
            metadata.get("turn_index"),
        ),
    )
    columns.add_id(metadata.get("x_request_id") or f"line {line}")


def _numbers(path: Path, where: str, metrics: Mapping[str, Any]) -> list[object]:
    """The times, in µs, and the counts of a record; None where it has none."""
    found: list[object] = []
    for name in TIMES:
        metric: Any = metrics.get(name)
        try:
            usual = metric["unit"] == "ms"
            found.append(1e3 * metric["value"] if usual else _time_us(path, where, metrics, name))
        except (TypeError, KeyError):  # none, or not as it should be
            found.append(_time_us(path, where, metrics, name))
    for name in COUNTS:
        metric = metrics.get(name)
        found.append(metric if metric is None else _value(path, where, metrics, name))
    return found


def _value(path: Path, where: str, metrics: Mapping[str, Any], name: str) -> object:
    metric: object = metrics.get(name)
    if metric is None:
        return None
    if not isinstance(metric, dict):
        raise InputError(f"{path}: {where}metrics.{name} is {shown(metric)}, expected a value and its unit")
    return cast("dict[str, Any]", metric).get("value")


def _time_us(path: Path, where: str, metrics: Mapping[str, Any], name: str) -> object:
    value = _value(path, where, metrics, name)
    if value is None:
        return None
    unit: object = metrics[name].get("unit")
    factor = UNIT_US.get(unit) if isinstance(unit, str | None) else None
    if factor is None:
        raise InputError(f"{path}: {where}metrics.{name}.unit is {shown(unit)}, expected ns, us, ms or s")
    return value * factor if isinstance(value, int | float) else value


def _cut(records: int, summary: Recording) -> Finding:
    name = Path(summary.source).name
    return Finding(
        "sampled-requests",
        "warning",
        f"The file holds {records} records, but {name} is of {summary.requests} requests.",
        {"listed": records, "requests": summary.requests},
        "The load of the others is not known, so a replay has too little to do.",
    )
