"""AIPerf's profile_export_aiperf.json and .csv: aggregates of one run, and what the tool was asked to do."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.columns import run_name
from roofml.traces.formats.fields import as_mapping, count, items, mapping, number, text
from roofml.traces.formats.peek import peek
from roofml.traces.raw import Generator
from roofml.traces.recording import LoadSaid, Recording
from roofml.util.errors import InputError
from roofml.util.reading import first_bytes, is_file, read_json_object, read_text

METRICS = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "inter_chunk_latency": "itl",
    "request_latency": "e2e",
}
STATISTICS = {"avg": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
UNIT_US = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6, "sec": 1e6}
BURSTINESS = {"poisson": 1.0, "constant": np.inf}
"""Arrival pattern or type of a phase -> burstiness as `vllm bench serve` has it."""
CSV_COLUMNS = ("Metric", "avg", "min", "max")
TAIL = 4096
"""Bytes at the start of a file in which one of the metrics must stand."""


def detect(path: Path) -> bool:
    """Whether `path` is AIPerf's aggregates, JSON or CSV, by the names of its metrics."""
    seen = peek(path)
    if seen.paths:
        ours = any(f'"{name}"'.encode() in first_bytes(path, TAIL) for name in METRICS)
        return not seen.is_list and ours and re.search(rb'"unit"\s*:\s*"[^"]*"\s*,\s*"avg"', seen.head) is not None
    return seen.columns[: len(CSV_COLUMNS)] == CSV_COLUMNS


def beside(path: Path) -> Recording | None:
    """The aggregates in the folder of a file of records, if there are some."""
    for name in ("profile_export_aiperf.json", f"{run_name(path)}_aiperf.json"):
        summary = path.parent / name
        if is_file(summary) and detect(summary):
            return read(summary)
    return None


def read(path: Path) -> Recording:
    """The aggregates in `path`. Raises InputError, naming file and field, for what AIPerf cannot have written."""
    report = read_json_object(path) if peek(path).paths else _of_csv(path)
    if not mapping(path, report, "request_latency") and not mapping(path, report, "request_count"):
        raise InputError(f"{path}: request_latency and request_count are missing, expected AIPerf's metrics")
    found: dict[str, float] = {}
    for theirs, ours in METRICS.items():
        metric = mapping(path, report, theirs)
        if not metric:
            continue
        unit: object = metric.get("unit")
        if unit not in UNIT_US:
            raise InputError(f"{path}: {theirs}.unit is {unit!r:.40}, expected one of {', '.join(UNIT_US)}")
        for statistic, name in STATISTICS.items():
            value = number(path, metric, statistic, f"{theirs}.")
            if value is not None:
                found[f"{ours}_{name}"] = UNIT_US[str(unit)] * value
    completed, failed = (_count(path, report, name) for name in ("request_count", "error_request_count"))
    for theirs, ours, factor in (
        ("benchmark_duration", "duration_us", 1e6),
        ("request_throughput", "requests_per_s", 1.0),
        ("output_token_throughput", "output_tokens_per_s", 1.0),
    ):
        value = number(path, mapping(path, report, theirs), "avg", f"{theirs}.")
        if value:
            found[ours] = factor * value
    asked = mapping(path, report, "input_config")
    model, gpus = _model(path, asked), _gpus(path, report)
    hints = ({"model": model} if model else {}) | ({"gpu": gpus[0]} if len(gpus) == 1 else {})
    lengths = [
        number(path, mapping(path, report, f"{kind}_sequence_length"), "avg") or None for kind in ("input", "output")
    ]
    cancelled = report.get("was_cancelled") is True
    return Recording(
        name=run_name(path),
        source=str(path),
        format="aiperf",
        requests=completed + failed,
        completed=completed,
        aggregates=found,
        load=_load(path, asked, lengths),
        hints={path.name: hints} if hints else {},
        generator=_generator(path, asked),
        findings=(*_telemetry(gpus), *_turns(path, asked), *([_cancelled()] if cancelled else [])),
        refused=None if completed else "no request succeeded",
    )


def _count(path: Path, report: Mapping[str, Any], name: str) -> int:
    return count(path, mapping(path, report, name), "avg", f"{name}.") or 0


def _load(path: Path, asked: Mapping[str, Any], lengths: list[float | None]) -> LoadSaid:
    """The load that the tool was asked for: `loadgen` up to 2025, `phases` in 0.10."""
    load = mapping(path, asked, "loadgen", "input_config.")
    kind = text(load.get("arrival_pattern")) or text(load.get("request_rate_mode"))
    for place, phase in enumerate(items(path, asked, "phases", "input_config.")):
        settings = as_mapping(path, phase, f"input_config.phases[{place}]")
        if settings.get("exclude_from_results") is not True:
            load, kind = settings, text(settings.get("type"))
    clients = count(path, load, "concurrency", "input_config.load.")
    rate = number(path, load, "request_rate", "input_config.load.") or number(path, load, "rate", "input_config.load.")
    burstiness = next((value for name, value in BURSTINESS.items() if kind and name in kind), None)
    return LoadSaid(clients, rate if rate else np.inf if clients else None, burstiness if rate else None, *lengths)


def _generator(path: Path, asked: Mapping[str, Any]) -> Generator | None:
    """Whether every request was made to go on to the same length."""
    source = mapping(path, asked, "input", "input_config.")
    pairs: dict[str, object] = {}
    for pair in items(path, source, "extra", "input_config.input."):
        if isinstance(pair, list) and len(cast("list[Any]", pair)) == 2:
            name, value = cast("list[Any]", pair)
            pairs[str(name)] = value
    ignored = pairs.get("ignore_eos")
    prompt = mapping(path, source, "prompt", "input_config.input.")
    lengths = mapping(path, prompt, "output_tokens", "input_config.input.prompt.")
    mean = number(path, lengths, "mean", "input_config.input.prompt.output_tokens.")
    same = mean is not None and mean == int(mean) and mean > 0 and not lengths.get("stddev")
    if ignored is None and not same:
        return None
    forced = ignored is True or ignored == "true"
    return Generator(path.name, forced if ignored is not None else None, int(mean or 0) if same else None)


def _model(path: Path, asked: Mapping[str, Any]) -> str | None:
    names = items(path, mapping(path, asked, "endpoint", "input_config."), "model_names", "input_config.endpoint.")
    newer = items(path, mapping(path, asked, "models", "input_config."), "items", "input_config.models.")
    if newer:
        return text(as_mapping(path, newer[0], "input_config.models.items[0]").get("name"))
    return text(names[0]) if names else None


def _gpus(path: Path, report: Mapping[str, Any]) -> list[str]:
    """Names of the GPUs that the tool watched."""
    names: set[str] = set()
    endpoints = mapping(path, mapping(path, report, "telemetry_data"), "endpoints", "telemetry_data.")
    for endpoint in endpoints:
        gpus = mapping(path, mapping(path, endpoints, endpoint, "telemetry_data.endpoints."), "gpus")
        names |= {text(as_mapping(path, gpu, "telemetry_data").get("gpu_name")) or "" for gpu in gpus.values()}
    return sorted(names - {""})


def _telemetry(names: list[str]) -> list[Finding]:
    """The finding about GPUs that were watched, of which one kind served."""
    if len(names) < 2:
        return []
    listed = ", ".join(names[:5])
    return [
        Finding(
            "telemetry-gpus",
            "info",
            f"The tool watched GPUs: {listed}. Which of them served is not said.",
            {"gpus": names[:5]},
            "Give --gpu if it is one of them.",
        )
    ]


def _turns(path: Path, asked: Mapping[str, Any]) -> list[Finding]:
    """The finding about requests that carry their conversation."""
    sets = items(path, asked, "datasets", "input_config.")
    several = any(
        isinstance(each, dict) and cast("dict[str, Any]", each).get("format") == "multi_turn" for each in sets
    )
    if not several:
        return []
    summary = "Requests are turns of conversations: prompts begin with what was said before, a hit where it is cached."
    advice = "How many tokens were hits is not in the aggregates: a replay of the mean lengths has too much to do."
    return [Finding("later-turns", "warning", summary, {}, advice)]


def _cancelled() -> Finding:
    return Finding(
        "cancelled",
        "warning",
        "The run was cancelled before its end.",
        {},
        "What was running then is not in the file; it loaded the server.",
    )


def _of_csv(path: Path) -> dict[str, Any]:
    """The two tables of the CSV as the JSON has them."""
    report: dict[str, Any] = {}
    header: list[str] = []
    try:
        for number_of_line, row in enumerate(csv.reader(io.StringIO(read_text(path)), strict=True), 1):
            if not row:
                header = []
            elif not header:
                header = row
            elif header[0] != "Metric":
                break  # a table of GPUs
            else:
                if len(row) != len(header):
                    raise InputError(f"{path}: line {number_of_line}: {len(row)} cells, expected {len(header)}")
                name = re.fullmatch(r"(.+?)(?: \(([^()]+)\))?", row[0])
                key = (name[1] if name is not None else row[0]).lower().replace(" ", "_")
                cells = {
                    column: _number(path, number_of_line, cell)
                    for column, cell in zip(header[1:], row[1:], strict=True)
                }
                report[key] = {"unit": name[2] if name is not None else None, "avg": cells.get("Value"), **cells}
    except csv.Error as error:
        raise InputError(f"{path}: not valid CSV: {error}") from None
    if "request_latency" not in report:
        raise InputError(f"{path}: no Request Latency, expected it among the metrics")
    return report


def _number(path: Path, line: int, cell: str) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        raise InputError(f"{path}: line {line}: {cell[:40]!r}, expected a number") from None
