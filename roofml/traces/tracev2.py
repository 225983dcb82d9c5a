"""BLIS TraceV2: `trace.yaml` (header) and `trace.csv` (one row a request), with what the run folder holds beside them.

Times in the file are absolute µs. With a `prefix_group`, `input_tokens` counts only the tokens after the named prefix,
and the prompt has `prefix_length + input_tokens` tokens, as BLIS replays it; without one it counts the whole prompt.
If the server reported its own count (`server_input_tokens` > 0), that is the whole prompt.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.inference_perf import read_inference_perf
from roofml.traces.raw import Generator, RawRun
from roofml.traces.server import ServerOverrides, Settings, resolve_server
from roofml.util.arrays import Bools, Ints
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.yaml_io import read_mapping

COLUMNS = (
    *("request_id", "client_id", "tenant_id", "slo_class", "session_id", "round_index", "prefix_group"),
    *("prefix_length", "streaming", "input_tokens", "output_tokens", "text_tokens", "image_tokens", "audio_tokens"),
    *("video_tokens", "reason_ratio", "model", "deadline_us", "server_input_tokens", "arrival_time_us", "send_time_us"),
    *("first_chunk_time_us", "last_chunk_time_us", "num_chunks", "status", "error_message", "finish_reason"),
)
"""The columns every TraceV2 file has, in this order."""

INSERTED = {"vllm_priority": "slo_class", "slo_target_us": "deadline_us"}
"""Optional column -> the column before it."""

TRAILING = ("x_request_id", "adapter", "think_time_us")
"""Optional columns at the end."""

VERSIONS = (2, 3)
MODES = ("real", "generated", "replayed")
STATUSES = ("ok", "error", "timeout")

HEADER_KEYS = (
    *("trace_version", "time_unit", "created_at", "mode", "warm_up_requests", "server"),
    *("workload_seed", "workload_spec", "session_context_growth", "network", "goodput_slo_targets"),
    *("kv_offload", "observed_kv_metrics"),
)
SERVER_KEYS = {key: key for key in ("model", "tensor_parallel", "max_num_seqs", "block_size", "max_model_len")}
"""Key of the header's `server` -> field of `Server`."""
OTHER_SERVER_KEYS = ("type", "gpu_memory_utilization")

EXP_CONFIG_KEYS = {"model": "model", "tensor_parallelism": "tensor_parallel"} | {
    key: key
    for key in (
        *("max_model_len", "max_num_batched_tokens", "max_num_seqs", "block_size", "num_gpu_blocks"),
        *("gpu", "prefix_caching", "async_scheduling"),
    )
}
"""Key of `exp-config.yaml` -> field of `Server`."""
KV_CACHE_KEYS = {"block_size": "block_size", "num_gpu_blocks": "num_gpu_blocks"}

MOST_DIGITS = 18
"""Digits of the longest whole number that is read; more digits do not fit into 64 bits."""


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file as text, by column, with the line on which each row starts."""

    path: Path
    lines: tuple[int, ...]
    columns: Mapping[str, Sequence[str]]

    def refuse(self, row: int, column: str, expected: str) -> InputError:
        """The error for one bad cell."""
        cell = self.columns[column][row]
        shown = repr(cell if len(cell) <= 40 else cell[:40] + "...")
        return InputError(f"{self.path}: line {self.lines[row]}: {column} is {shown}, expected {expected}")

    def counts(self, column: str) -> Ints:
        """A column of whole numbers of at least 0. Raises InputError naming line and column for anything else."""
        cells = self.columns[column]
        # One test of the joined column is fast; the search for the bad cell is needed only to refuse the file.
        joined = "".join(cells)
        if not (joined.isascii() and joined.isdecimal() and all(cells) and max(map(len, cells)) <= MOST_DIGITS):
            for row, cell in enumerate(cells):
                if not (cell.isascii() and cell.isdecimal() and len(cell) <= MOST_DIGITS):
                    raise self.refuse(row, column, "a whole number of at least 0")
        return np.array([int(cell) for cell in cells], dtype=np.int64)

    def words(self, column: str, allowed: tuple[str, ...]) -> Sequence[str]:
        """A column of fixed words. Raises InputError naming line and column for any other."""
        cells = self.columns[column]
        if not set(cells) <= set(allowed):
            row = next(row for row, cell in enumerate(cells) if cell not in allowed)
            raise self.refuse(row, column, f"one of {', '.join(allowed)}")
        return cells


def detect(path: Path) -> bool:
    """Whether `path` is a TraceV2 run: a folder that holds a trace.csv or trace.yaml, or one of the two files."""
    if path.is_dir():
        return (path / "trace.csv").exists() or (path / "trace.yaml").exists()
    return path.suffix in (".csv", ".yaml") and path.is_file()


def read(path: Path, overrides: ServerOverrides) -> RawRun:
    """The run in folder `path`, or the run that the trace file `path` (.csv or .yaml) belongs to.

    Raises InputError, one line naming file and line or field, for content that cannot be a TraceV2 run.
    """
    if path.is_dir():
        folder, header_path, table_path = path, path / "trace.yaml", path / "trace.csv"
    else:
        folder, header_path, table_path = path.parent, path.with_suffix(".yaml"), path.with_suffix(".csv")
    header = _read_header(header_path)
    table = _read_table(table_path)
    models = sorted(set(table.columns["model"]) - {""})
    if len(models) > 1:
        raise NotSupportedError(
            f"{table_path}: model: {len(models)} different ones, expected the requests of one model"
        )
    files: dict[str, Settings] = {header_path.name: _server_settings(header_path, header["server"], SERVER_KEYS)}
    hints: dict[str, Settings] = {table_path.name: {"model": models[0]} if models else {}}
    for name, keys in (("exp-config.yaml", EXP_CONFIG_KEYS), ("kv-cache.yaml", KV_CACHE_KEYS)):
        if (folder / name).exists():
            settings = read_mapping(folder / name)
            files[name] = _server_settings(folder / name, settings, keys)
            _refuse_unmodelled(folder / name, settings)
    generator: Generator | None = None
    if (folder / "inference-perf.yaml").exists():
        generator, model = read_inference_perf(folder / "inference-perf.yaml")
        hints["inference-perf.yaml"] = {"model": model} if model is not None else {}
    server, server_findings = resolve_server(folder, files, hints, overrides)
    name = (folder.resolve().name if table_path.name == "trace.csv" else table_path.stem) or "run"
    run, request_findings = _requests(table, header["warm_up_requests"])
    return RawRun(
        name=name,
        source=str(folder.resolve() if table_path.name == "trace.csv" else table_path.resolve()),
        server=server,
        generator=generator,
        output_tokens_override=overrides.output_tokens,
        findings=(*server_findings, *_header_findings(header), *request_findings),
        **run,
    )


def _read_header(path: Path) -> dict[str, Any]:
    header = read_mapping(path)
    for key in header:
        if key not in HEADER_KEYS:
            raise InputError(f"{path}: unknown key {key}, expected {', '.join(HEADER_KEYS)}")
    for key in ("trace_version", "time_unit", "mode", "warm_up_requests"):
        if key not in header:
            raise InputError(f"{path}: {key} is missing")
    version, warm_up = header["trace_version"], header["warm_up_requests"]
    if isinstance(version, bool) or version not in VERSIONS:
        raise InputError(f"{path}: trace_version is {version!r}, expected 2 or 3")
    if header["time_unit"] != "us":
        raise InputError(f"{path}: time_unit is {header['time_unit']!r}, expected us")
    if header["mode"] not in MODES:
        raise InputError(f"{path}: mode is {header['mode']!r}, expected {', '.join(MODES)}")
    if isinstance(warm_up, bool) or not isinstance(warm_up, int) or warm_up < 0:
        raise InputError(f"{path}: warm_up_requests is {warm_up!r}, expected a whole number of at least 0")
    for key in ("server", "network"):
        if header.get(key) is None:
            header[key] = {}
        if not isinstance(header[key], dict):
            raise InputError(f"{path}: {key} is {header[key]!r}, expected a mapping")
    server = cast("dict[str, Any]", header["server"])
    for key in server:
        if key not in (*SERVER_KEYS, *OTHER_SERVER_KEYS):
            raise InputError(
                f"{path}: unknown key server.{key}, expected {', '.join((*SERVER_KEYS, *OTHER_SERVER_KEYS))}"
            )
    if server.get("type", "vllm") != "vllm":
        raise NotSupportedError(f"{path}: server.type is {server['type']!r}, expected vllm")
    return header


def _server_settings(path: Path, settings: Mapping[str, Any], keys: Mapping[str, str]) -> Settings:
    for key in keys:
        if key in settings and settings[key] is None:
            raise InputError(f"{path}: {key} has no value")
    return {field: settings[key] for key, field in keys.items() if key in settings}


def _refuse_unmodelled(path: Path, settings: Mapping[str, Any]) -> None:
    for key in ("pipeline_parallelism", "data_parallelism", "expert_parallelism"):
        if settings.get(key, 1) not in (None, 1, False):
            raise NotSupportedError(f"{path}: {key} is {settings[key]!r}; only tensor parallelism is modelled")


def _read_table(path: Path) -> Table:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not raw.strip():
        raise InputError(f"{path}: empty, expected a TraceV2 header line and rows")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}), expected a TraceV2 CSV file") from None
    if "\0" in text:
        raise InputError(f"{path}: holds zero bytes, expected a TraceV2 CSV file")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        names = next(reader)
        _check_columns(path, names)
        line = reader.line_num
        for row in reader:
            # A quoted message may hold line breaks: a row is named by the line it starts on.
            start, line = line + 1, reader.line_num
            if not row:
                continue
            if len(row) != len(names):
                cut = "; the file is cut short" if line == text.count("\n") + (not text.endswith("\n")) else ""
                raise InputError(f"{path}: line {start}: {len(row)} cells, expected {len(names)}{cut}")
            rows.append(row)
            lines.append(start)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None
    if not rows:
        raise InputError(f"{path}: no rows after the header line, expected one a request")
    return Table(path, tuple(lines), dict(zip(names, zip(*rows, strict=True), strict=True)))


def _check_columns(path: Path, names: list[str]) -> None:
    expected: list[str] = []
    for column in COLUMNS:
        expected.append(column)
        expected += [extra for extra, before in INSERTED.items() if before == column and extra in names]
    expected += [extra for extra in TRAILING if extra in names]
    if names == expected:
        return
    missing = [column for column in COLUMNS if column not in names]
    unknown = [name for name in names if name not in expected]
    if len(missing) > len(COLUMNS) // 2:
        raise InputError(f"{path}: line 1: not a TraceV2 header line, expected request_id,client_id,...")
    if missing:
        raise InputError(f"{path}: line 1: column {', '.join(missing)} is missing; expected the 27 of TraceV2")
    if unknown:
        shown = ", ".join(repr(name[:40]) for name in unknown[:5])
        raise InputError(f"{path}: line 1: unknown column {shown}; expected the 27 of TraceV2")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: line 1: column {twice} stands twice")
    place, name = next((place, name) for place, name in enumerate(names) if name != expected[place])
    raise InputError(f"{path}: line 1: column {place + 1} is {name}, expected {expected[place]}")


def _requests(table: Table, warm_up_requests: int) -> tuple[dict[str, Any], list[Finding]]:
    """The arrays of a RawRun, in order of sending, and the findings about them."""
    path, columns = table.path, table.columns
    ids = table.counts("request_id")
    order_of_ids = np.argsort(ids, kind="stable")
    repeats = np.flatnonzero(np.diff(ids[order_of_ids]) == 0)
    if len(repeats):
        row, repeat = order_of_ids[repeats[0] : repeats[0] + 2].tolist()
        stands = f"stands on line {table.lines[row]} too, expected it once"
        raise InputError(f"{path}: line {table.lines[repeat]}: request_id {ids[repeat]} {stands}")
    succeeded = np.array([status == "ok" for status in table.words("status", STATUSES)], dtype=np.bool_)
    streamed = np.array([word == "true" for word in table.words("streaming", ("true", "false"))], dtype=np.bool_)
    send, arrival = table.counts("send_time_us"), table.counts("arrival_time_us")
    first, last = table.counts("first_chunk_time_us"), table.counts("last_chunk_time_us")
    if not succeeded.any():
        raise InputError(f"{path}: status: no successful request among {len(ids)}, expected at least one")
    if len(ids) > 1 and not send.any():
        raise InputError(f"{path}: send_time_us is 0 in every row: nothing was sent, expected a recorded run")
    _check_times(table, succeeded, send, first, last)
    warm_up: Bools = ids < warm_up_requests
    if not (succeeded & streamed & ~warm_up).any():
        raise InputError(f"{path}: no successful streamed request after warm-up, expected at least one")

    order = np.lexsort((ids, send))
    groups, group_of = np.unique(np.array(columns["prefix_group"], dtype=object).astype(str), return_inverse=True)
    group = group_of - (1 if groups[0] == "" else 0)
    chunk_came = succeeded | ((first > 0) & (last > 0))
    arrays: dict[str, Any] = {
        "request_id": ids,
        "send_us": (send - send.min()).astype(np.float64),
        "lag_us": (send - arrival).astype(np.float64),
        "input_tokens": table.counts("input_tokens"),
        "server_input_tokens": table.counts("server_input_tokens"),
        "output_tokens": table.counts("output_tokens"),
        "num_chunks": table.counts("num_chunks"),
        "prefix_group": group.astype(np.int64),
        "prefix_length": table.counts("prefix_length"),
        "ttft_us": np.where(chunk_came, (first - send).astype(np.float64), np.nan),
        "e2e_us": np.where(chunk_came, (last - send).astype(np.float64), np.nan),
        "ok": succeeded,
        "streamed": streamed,
        "warm_up": warm_up,
    }
    findings: list[Finding] = []
    if (np.diff(send) < 0).any():
        findings.append(_reordered(int((np.diff(send) < 0).sum()), len(send)))
    if not streamed.all():
        findings.append(_not_streamed(int((~streamed).sum()), len(send)))
    findings += _not_modelled(table)
    messages = sorted(
        {text for text, good in zip(columns["error_message"], succeeded, strict=True) if text and not good}
    )
    run: dict[str, Any] = {name: array[order] for name, array in arrays.items()}
    return run | {"failure_messages": tuple(" ".join(text.split())[:200] for text in messages[:3])}, findings


def _check_times(table: Table, succeeded: Bools, send: Ints, first: Ints, last: Ints) -> None:
    """Refuse rows whose times contradict each other; a failed request need not have had a chunk (0)."""
    no_first = succeeded & (first == 0)
    early = ((first > 0) | succeeded) & (first <= send)
    backwards = ((last > 0) | succeeded) & (last < first)
    problems: tuple[tuple[Bools, str, Callable[[int], str]], ...] = (
        (no_first, "first_chunk_time_us", lambda row: "the time of the first chunk of a successful request"),
        (early, "first_chunk_time_us", lambda row: f"a time after send_time_us {send[row]}"),
        (backwards, "last_chunk_time_us", lambda row: f"a time not before first_chunk_time_us {first[row]}"),
    )
    for wrong, column, expected in problems:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise table.refuse(row, column, expected(row))


def _header_findings(header: Mapping[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    if header["mode"] != "real":
        summary = f"The header says mode: {header['mode']}: a simulator made these times, not a server."
        advice = "Fit on it only to imitate that simulator."
        findings.append(Finding("simulated", "warning", summary, {"mode": header["mode"]}, advice))
    rtt: object = header["network"].get("measured_rtt_ms")
    if isinstance(rtt, int | float) and rtt > 0:
        summary = f"The client measured {rtt} ms of network round trip, which is part of every TTFT and E2E here."
        advice = (
            "Nothing was changed: a fit counts it as arrival cost. Record from the server's own host to exclude it."
        )
        findings.append(Finding("network-in-times", "info", summary, {"measured_rtt_us": 1000.0 * rtt}, advice))
    if header.get("kv_offload"):
        advice = "Record a run with KV offload switched off."
        findings.append(Finding("kv-offload", "warning", "The server offloaded KV blocks; no replay does.", {}, advice))
    return findings


def _not_modelled(table: Table) -> list[Finding]:
    """The finding about columns with work of the server that the replay does not model."""
    present: dict[str, int] = {}
    for column, kind in (("image_tokens", "images"), ("audio_tokens", "audio"), ("video_tokens", "video")):
        present[kind] = int((table.counts(column) > 0).sum())
    present["later rounds of a session"] = int((table.counts("round_index") > 0).sum())
    present["LoRA adapters"] = sum(1 for cell in table.columns.get("adapter", ()) if cell)
    if "vllm_priority" in table.columns:
        priorities = table.counts("vllm_priority")
        present["other priorities"] = int((priorities != priorities[0]).sum())
    counts = {kind: number for kind, number in present.items() if number}
    if not counts:
        return []
    listed = ", ".join(f"{number} requests with {kind}" for kind, number in counts.items())
    summary = f"The trace holds {listed}, which the replay does not model."
    advice = "They are replayed as plain requests of the same length; use a run without them to fit."
    return [Finding("not-modelled", "warning", summary, counts, advice)]


def _reordered(steps_back: int, requests: int) -> Finding:
    return Finding(
        "rows-reordered",
        "info",
        f"The rows were not in order of sending ({steps_back} of {requests} rows stand after a later one).",
        {"steps_back": steps_back, "requests": requests},
        "They were sorted by send_time_us.",
    )


def _not_streamed(number: int, requests: int) -> Finding:
    return Finding(
        "not-streamed",
        "warning",
        f"{number} of {requests} requests were not streamed, so their TTFT was never measured.",
        {"not_streamed": number, "requests": requests},
        "They are replayed as load but not measured. Record with streaming on.",
    )
