"""BLIS TraceV2: `trace.yaml` (header) and `trace.csv` (one row a request), with what the run folder holds beside them.

Times in the file are absolute µs. With a `prefix_group`, `input_tokens` counts only the tokens after the named prefix,
and the prompt has `prefix_length + input_tokens` tokens, as BLIS replays it; without one it counts the whole prompt.
If the server reported its own count (`server_input_tokens` > 0), that is the whole prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.csv_table import Table, read_table
from roofml.traces.finding import Finding
from roofml.traces.formats.peek import peek
from roofml.traces.inference_perf import read_inference_perf
from roofml.traces.limits import MOST_REQUESTS, MOST_RTT_MS, MOST_TOKENS
from roofml.traces.overview import Overview
from roofml.traces.raw import Generator, RawRun
from roofml.traces.request_times import Stamps, faults, judge_times, reordered, told
from roofml.traces.server import ServerOverrides, Settings, resolve_server
from roofml.traces.settings import NAMES, refuse_unmodelled
from roofml.util.arrays import Bools
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.names import shown
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_folder, is_there, open_file
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

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
VERSIONS = (2, 3)
_VERSION = re.compile(rb"""^["'{\s]*trace_version["']?\s*:""", re.MULTILINE)
MODES = ("real", "generated", "replayed")
STATUSES = ("ok", "error", "timeout")

HEADER_KEYS = (
    *("trace_version", "time_unit", "created_at", "mode", "warm_up_requests", "server"),
    *("workload_seed", "workload_spec", "session_context_growth", "network", "goodput_slo_targets"),
    *("kv_offload", "observed_kv_metrics"),
)
SERVER_KEYS = {key: key for key in ("model", "tensor_parallel", "max_num_seqs", "block_size", "max_model_len")} | {
    "type": "engine",
    "version": "engine_version",
}
"""Key of the header's `server` -> field of `Server`."""
OTHER_SERVER_KEYS = ("gpu_memory_utilization",)

EXP_CONFIG_KEYS = (
    {"model": "model", "tensor_parallelism": "tensor_parallel"}
    | {
        key: key
        for key in (
            *("max_model_len", "max_num_batched_tokens", "max_num_seqs", "block_size", "num_gpu_blocks"),
            *("gpu", "prefix_caching", "async_scheduling", "engine", "engine_version", *NAMES),
        )
    }
    | {"vllm_version": "engine_version", "kv_cache_dtype": "kv_dtype"}
)
"""Key of `exp-config.yaml` -> field of `Server`, or of its settings."""
KV_CACHE_KEYS = {"block_size": "block_size", "num_gpu_blocks": "num_gpu_blocks"}

COUNTS = (
    *("request_id", "send_time_us", "arrival_time_us", "first_chunk_time_us", "last_chunk_time_us"),
    *("input_tokens", "server_input_tokens", "output_tokens", "prefix_length", "num_chunks", "round_index"),
    *("image_tokens", "audio_tokens", "video_tokens", "vllm_priority"),
)
"""Columns of whole numbers that are read."""
WORDS = ("prefix_group", "streaming", "model", "status", "error_message", "adapter")
"""Columns of text that are read."""
TOKENS = ("input_tokens", "server_input_tokens", "output_tokens", "prefix_length", "num_chunks")
"""Columns that count something of one request."""


def detect(path: Path) -> bool:
    """Whether `path` is a TraceV2 run: a folder that holds a trace.csv or trace.yaml, or one of the two files."""
    if is_folder(path):
        return any(is_there(_packed(path / name)) for name in ("trace.csv", "trace.yaml"))
    shown = peek(path)
    return len(set(shown.columns) & set(COLUMNS)) > len(COLUMNS) // 2 or bool(_VERSION.search(shown.head))


def looks_like(path: Path) -> bool:
    """Whether `path` is named like one of the two files of a run, whatever is in it."""
    if path.suffix not in (".csv", ".yaml") or not is_there(path) or is_folder(path):
        return False
    return path.stem == "trace" or is_there(path.with_suffix(".yaml" if path.suffix == ".csv" else ".csv"))


def _packed(path: Path) -> Path:
    """The file of this name, or of it with the ending of a compressed one, if only that is there."""
    if is_there(path):
        return path
    packed = [path.with_name(path.name + ending) for ending in COMPRESSED]
    return next((each for each in packed if is_there(each)), path)


def _pair(path: Path) -> tuple[Path, Path]:
    """(header, table) of the run that a file belongs to."""
    bare = path.with_suffix("") if path.suffix in COMPRESSED else path
    header, table = bare.with_suffix(".yaml"), bare.with_suffix(".csv")
    return (path, _packed(table)) if header == bare else (_packed(header), path if table == bare else _packed(table))


def read(path: Path, overrides: ServerOverrides, complete: bool = True) -> RawRun:
    """The run in folder `path`, or the run that the trace file `path` (.csv or .yaml) belongs to.

    Raises InputError, one line naming file and line or field, for content that cannot be a TraceV2 run; with
    `complete` also where nobody says what a replay needs of the server.
    """
    if is_folder(path):
        folder, header_path, table_path = path, _packed(path / "trace.yaml"), _packed(path / "trace.csv")
    else:
        open_file(path, MOST_BYTES_OF_A_TABLE).close()  # what was given is named first if it is no file
        folder, (header_path, table_path) = path.parent, _pair(path)
    header = _read_header(header_path)
    table = read_table(table_path, _check_columns, COUNTS, WORDS)
    models = sorted(set(table.words["model"]) - {""})
    if len(models) > 1:
        raise NotSupportedError(
            f"{table_path}: model: {len(models)} different ones, expected the requests of one model"
        )
    files: dict[str, Settings] = {header_path.name: _server_settings(header_path, header["server"], SERVER_KEYS)}
    hints: dict[str, Settings] = {table_path.name: {"model": models[0]} if models else {}}
    for name, keys in (("exp-config.yaml", EXP_CONFIG_KEYS), ("kv-cache.yaml", KV_CACHE_KEYS)):
        if is_there(folder / name):
            settings = read_mapping(folder / name)
            files[name] = _server_settings(folder / name, settings, keys)
            refuse_unmodelled(settings, str(folder / name))
    generator: Generator | None = None
    if is_there(folder / "inference-perf.yaml"):
        generator, model = read_inference_perf(folder / "inference-perf.yaml")
        hints["inference-perf.yaml"] = {"model": model} if model is not None else {}
    server, server_findings = resolve_server(folder, files, hints, overrides, complete=complete)
    whole_folder = table_path.name.split(".csv")[0] == "trace"
    name = for_line(folder.resolve().name if whole_folder else table_path.name.split(".csv")[0]) or "run"
    run, request_findings = _requests(table, header["warm_up_requests"], server.settings.policy == "priority")
    return RawRun(
        name=name,
        source=str(folder.resolve() if whole_folder else table_path.resolve()),
        server=server,
        generator=generator,
        output_tokens_override=overrides.output_tokens,
        deadline_s=overrides.deadline_s,
        findings=(*server_findings, *_header_findings(header), *request_findings),
        overview=Overview("tracev2", len(table.lines), sum(status == "ok" for status in table.words["status"])),
        **run,
    )


def _read_header(path: Path) -> dict[str, Any]:
    header = read_mapping(path)
    _refuse_unknown(path, header, "", HEADER_KEYS)
    for key in ("trace_version", "time_unit", "mode", "warm_up_requests"):
        if key not in header:
            raise InputError(f"{path}: {key} is missing")
    for key, good, expected in (
        ("trace_version", _is_whole(header["trace_version"], *VERSIONS), "2 or 3"),
        ("time_unit", header["time_unit"] == "us", "us"),
        ("mode", header["mode"] in MODES, ", ".join(MODES)),
        (
            "warm_up_requests",
            _is_whole(header["warm_up_requests"], 0, MOST_REQUESTS),
            f"a whole number from 0 to {MOST_REQUESTS}",
        ),
    ):
        if not good:
            raise InputError(f"{path}: {key} is {shown(header[key])}, expected {expected}")
    for key in ("server", "network"):
        if header.get(key) is None:
            header[key] = {}
        if not isinstance(header[key], dict):
            raise InputError(f"{path}: {key} is {shown(header[key])}, expected a mapping")
    server, network = cast("dict[str, Any]", header["server"]), cast("dict[str, Any]", header["network"])
    _refuse_unknown(path, server, "server.", (*SERVER_KEYS, *OTHER_SERVER_KEYS))
    rtt: object = network.get("measured_rtt_ms", 0)
    if rtt is not None and (isinstance(rtt, bool) or not isinstance(rtt, int | float) or not 0 <= rtt <= MOST_RTT_MS):
        raise InputError(
            f"{path}: network.measured_rtt_ms is {shown(rtt)}, expected a number of ms from 0 to {MOST_RTT_MS}"
        )
    return header


def _refuse_unknown(path: Path, settings: Mapping[str, Any], prefix: str, known: Sequence[str]) -> None:
    for key in settings:
        if key not in known:
            raise InputError(f"{path}: unknown key {prefix}{for_line(str(key))[:60]}, expected {', '.join(known)}")


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _server_settings(path: Path, settings: Mapping[str, Any], keys: Mapping[str, str]) -> Settings:
    for key in keys:
        if key in settings and settings[key] is None:
            raise InputError(f"{path}: {key} has no value")
    return {field: settings[key] for key, field in keys.items() if key in settings}


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
        listed = ", ".join(repr(name[:40]) for name in unknown[:5])
        raise InputError(f"{path}: line 1: unknown column {listed}; expected the 27 of TraceV2")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: line 1: column {twice} stands twice")
    place, name = next((place, name) for place, name in enumerate(names) if name != expected[place])
    raise InputError(f"{path}: line 1: column {place + 1} is {name}, expected {expected[place]}")


def _requests(table: Table, warm_up_requests: int, by_priority: bool) -> tuple[dict[str, Any], list[Finding]]:
    """The arrays of a RawRun, in order of sending, and the findings about them."""
    path, counts, words = table.path, table.counts, table.words
    ids = counts["request_id"]
    order_of_ids = np.argsort(ids, kind="stable")
    repeats = np.flatnonzero(np.diff(ids[order_of_ids]) == 0)
    if len(repeats):
        row, repeat = order_of_ids[repeats[0] : repeats[0] + 2].tolist()
        stands = f"stands on line {table.lines[row]} too, expected it once"
        raise InputError(f"{path}: line {table.lines[repeat]}: request_id {ids[repeat]} {stands}")
    for column in TOKENS:
        if counts[column].max() > MOST_TOKENS:
            raise table.refuse(int(np.argmax(counts[column])), column, f"at most {MOST_TOKENS}")
    stamps = _stamps(table)
    if not stamps.succeeded.any():
        raise InputError(f"{path}: status: no successful request among {len(ids)}, expected at least one")
    if len(ids) > 1 and not stamps.send.any():
        raise InputError(f"{path}: send_time_us is 0 in every row: nothing was sent, expected a recorded run")
    warm_up: Bools = ids < warm_up_requests
    measurable = stamps.succeeded & stamps.streamed & ~warm_up
    found = faults(stamps)
    left_out, removed, refusal = judge_times(stamps, measurable, found)
    if refusal is not None:
        raise table.refuse(*refusal)
    if not (measurable & ~left_out).any():
        raise InputError(f"{path}: no successful streamed request after warm-up, expected at least one")

    kept = np.flatnonzero(~removed)
    send = stamps.send[kept]
    order = kept[np.lexsort((ids[kept], send))]
    numbers = {name: number for number, name in enumerate(sorted(set(words["prefix_group"]) - {""}))}
    chunk_came = (stamps.succeeded | ((stamps.first > 0) & (stamps.last > 0))) & ~left_out
    arrays: dict[str, Any] = {
        "request_id": ids,
        "send_us": (stamps.send - send.min()).astype(np.float64),
        "lag_us": (stamps.send - counts["arrival_time_us"]).astype(np.float64),
        **{name: counts[name] for name in TOKENS},
        "prefix_group": np.array([numbers.get(name, -1) for name in words["prefix_group"]], dtype=np.int64),
        "ttft_us": np.where(chunk_came, (stamps.first - stamps.send).astype(np.float64), np.nan),
        "e2e_us": np.where(chunk_came, (stamps.last - stamps.send).astype(np.float64), np.nan),
        "ok": stamps.succeeded,
        "failed_after_us": np.where(
            ~stamps.succeeded & (stamps.last > stamps.send), (stamps.last - stamps.send).astype(np.float64), np.nan
        ),
        **({"priority": counts["vllm_priority"]} if "vllm_priority" in counts else {}),
        "timed": ~(left_out & stamps.succeeded),
        "streamed": stamps.streamed,
        "warm_up": warm_up,
    }
    findings = told(found, table.lines, left_out, removed)
    findings += reordered(send, "send_time_us", "rows")
    if not stamps.streamed.all():
        findings.append(_not_streamed(int((~stamps.streamed).sum()), len(ids)))
    findings += _not_modelled(table, by_priority)
    messages = {text for text, good in zip(words["error_message"], stamps.succeeded, strict=True) if text and not good}
    run: dict[str, Any] = {name: array[order] for name, array in arrays.items()}
    return run | {"failure_messages": tuple(for_line(text)[:200] for text in sorted(messages)[:3])}, findings


def _stamps(table: Table) -> Stamps:
    counts = table.counts
    prompt = counts["input_tokens"] + counts["prefix_length"]
    return Stamps(
        send=counts["send_time_us"],
        first=counts["first_chunk_time_us"],
        last=counts["last_chunk_time_us"],
        succeeded=np.array([status == "ok" for status in table.one_of("status", STATUSES)], dtype=np.bool_),
        streamed=np.array([word == "true" for word in table.one_of("streaming", ("true", "false"))], dtype=np.bool_),
        prompt=np.maximum(prompt, counts["server_input_tokens"]),
        output=counts["output_tokens"],
        planned=counts["arrival_time_us"],
    )


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


def _not_modelled(table: Table, by_priority: bool) -> list[Finding]:
    """The finding about columns with work of the server that the replay does not model."""
    present: dict[str, int] = {}
    for column, kind in (("image_tokens", "images"), ("audio_tokens", "audio"), ("video_tokens", "video")):
        present[kind] = int((table.counts[column] > 0).sum())
    present["later rounds of a session"] = int((table.counts["round_index"] > 0).sum())
    present["LoRA adapters"] = sum(1 for cell in table.words.get("adapter", ()) if cell)
    if "vllm_priority" in table.counts and not by_priority:
        priorities = table.counts["vllm_priority"]
        present["other priorities"] = int((priorities != priorities[0]).sum())
    counts = {kind: number for kind, number in present.items() if number}
    if not counts:
        return []
    listed = ", ".join(f"{number} requests with {kind}" for kind, number in counts.items())
    summary = f"The trace holds {listed}, which the replay does not model."
    advice = "They are replayed as plain requests of the same length; use a run without them to fit."
    if "other priorities" in counts:
        advice += " If the server's policy was priority, give --server-arg policy=priority."
    return [Finding("not-modelled", "warning", summary, counts, advice)]


def _not_streamed(number: int, requests: int) -> Finding:
    return Finding(
        "not-streamed",
        "warning",
        f"{number} of {requests} requests were not streamed, so their TTFT was never measured.",
        {"not_streamed": number, "requests": requests},
        "They are replayed as load but not measured. Record with streaming on.",
    )
