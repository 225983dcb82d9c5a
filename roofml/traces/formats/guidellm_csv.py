"""GuideLLM's benchmarks.csv: aggregates alone, one row a benchmark under three header rows (group, what, statistic)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.formats.columns import run_name
from roofml.traces.formats.fields import count, number, text
from roofml.traces.formats.peek import peek
from roofml.traces.formats.traps import remote_client, weighted_tpot
from roofml.traces.recording import LoadSaid, Recording
from roofml.util.errors import InputError
from roofml.util.reading import read_text

GROUPS = {"Run Info", "Benchmark", "Request Counts"}
"""Groups of columns that every such file has."""
HEADER_ROWS = 3
METRICS = {
    ("Time to First Token", "Successful ms"): ("ttft", 1e3),
    ("Inter Token Latency", "Successful ms"): ("tpot", 1e3),
    ("Request Latency", "Successful Sec"): ("e2e", 1e6),
}
"""Group and what of a column -> our name, and its unit in µs."""
Row = Mapping[tuple[str, str, str], str]


def detect(path: Path) -> bool:
    """Whether `path` is a GuideLLM CSV, by its first header row."""
    return set(peek(path).columns) >= GROUPS


def read(path: Path) -> list[Recording]:
    """The benchmarks in `path`, aggregates alone. Raises InputError naming row and column for what is none."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not valid CSV: {error}") from None
    header, body = rows[:HEADER_ROWS], [row for row in rows[HEADER_ROWS:] if row]
    if len(header) < HEADER_ROWS or len({len(row) for row in header}) != 1 or not body:
        raise InputError(f"{path}: expected {HEADER_ROWS} header rows and one row a benchmark")
    names = list(zip(*header, strict=True))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: column {' / '.join(filter(None, twice))[:80]!r} is there twice")
    recordings: list[Recording] = []
    for place, row in enumerate(body):
        if len(row) != len(names):
            raise InputError(f"{path}: row {HEADER_ROWS + 1 + place}: {len(row)} cells, expected {len(names)}")
        recordings.append(_recording(path, dict(zip(cast("list[tuple[str, str, str]]", names), row, strict=True))))
    return recordings


def _recording(path: Path, row: Row) -> Recording:
    cells = {" / ".join(filter(None, key)): _parsed(value) for key, value in row.items()}
    aggregates: dict[str, float] = {}
    for (group, what), (name, factor) in METRICS.items():
        for theirs, ours in (("Mean", "mean"), ("Median", "median")):
            value = number(path, cells, f"{group} / {what} / {theirs}")
            if value:
                aggregates[f"{name}_{ours}"] = factor * value
    for column, name, factor in (
        ("Timings / Duration / Sec", "duration_us", 1e6),
        ("Server Throughput / Successful Requests/Sec / Mean", "requests_per_s", 1.0),
        ("Token Throughput / Successful Output Tokens/Sec / Mean", "output_tokens_per_s", 1.0),
    ):
        value = number(path, cells, column)
        if value:
            aggregates[name] = factor * value
    completed = count(path, cells, "Request Counts / Successful") or 0
    backend = _object(cells.get("Run Info / Backend"))
    kind = text(cells.get("Benchmark / Strategy"))
    model = text(backend.get("model"))
    platform = _object(cells.get("Runtime Info / Metadata")).get("platform")
    tokens = [
        number(path, cells, f"Token Metrics / Successful {kind} Tokens / Mean") or None for kind in ("Input", "Output")
    ]
    sent = count(path, cells, "Request Counts / Total") or completed
    closed = kind in ("synchronous", "concurrent")
    # The CSV names the strategy and not its rate; what was achieved of an open loop is near it.
    rate = np.inf if closed or kind == "throughput" else None
    return Recording(
        name=run_name(path),
        source=str(path),
        format="guidellm",
        requests=sent,
        completed=completed,
        aggregates=aggregates,
        load=LoadSaid(1 if kind == "synchronous" else None, rate, None, *tokens),
        hints={path.name: {"model": model}} if model else {},
        findings=(*remote_client(backend.get("target"), platform), weighted_tpot()),
        refused=None if completed else "no request succeeded",
    )


def _parsed(cell: str) -> object:
    """A cell as its number or its text; a list or an object stays text until it is asked for."""
    try:
        return float(cell)
    except ValueError:
        return cell or None


def _object(cell: object) -> dict[str, Any]:
    """The object that a cell holds as JSON; empty where it holds none."""
    try:
        parsed: object = json.loads(cell) if isinstance(cell, str) else None
    except (ValueError, RecursionError):
        parsed = None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
