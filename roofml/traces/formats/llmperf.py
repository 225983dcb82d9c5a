"""llmperf (ray-project): *_individual_responses.json, a list of requests, and *_summary.json, its aggregates.

Nobody says when a request was sent: a closed loop of `num_concurrent_requests` (in the summary) or nothing can be
rebuilt. `inter_token_latency_s` is E2E / tokens and is never read: TPOT is (E2E - TTFT)/(tokens - 1). Tokens are
counted by Llama 2's tokenizer whatever the model. Rows of errors carry times that look right, and the list can end in
bare texts. Source: llmperf token_benchmark_ray.py and ray_clients/openai_chat_completions_client.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.columns import Columns, run_name
from roofml.traces.formats.fields import as_mapping, count, number, text
from roofml.traces.formats.peek import peek
from roofml.traces.formats.traps import retokenized
from roofml.traces.recording import LoadSaid, Recording, Requests
from roofml.traces.request_times import most_left_out
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.util.json_stream import JsonDocument
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_file, open_file, read_json_object

FIELDS = ("ttft_s", "end_to_end_latency_s", "number_input_tokens", "number_output_tokens", "failed")
STATISTICS = {"mean": "mean", "quantiles_p50": "median", **{f"quantiles_p{q}": f"p{q}" for q in (90, 95, 99)}}
METRICS = {"ttft_s": "ttft", "end_to_end_latency_s": "e2e"}
OWN_TOKENIZER = re.compile(r"llama-?2", re.IGNORECASE)
"""Models that the tool's tokenizer is of."""


def detect(path: Path) -> bool:
    """Whether `path` is llmperf's requests or a summary, or summaries by concurrency, by the names of their fields."""
    return _is_requests(path) or _is_summary(path)


def read(path: Path) -> list[Recording]:
    """The runs in `path`. Raises InputError, naming file and field, for what llmperf cannot have written."""
    if _is_requests(path):
        return [_requests(path)]
    report = read_json_object(path)
    if "num_concurrent_requests" in report:
        return [_summary(path, report)]
    if not report:
        raise InputError(f"{path}: no summary, expected num_concurrent_requests and results")
    return [_summary(path, as_mapping(path, report[key], key), f"{key}.") for key in report]


def _is_requests(path: Path) -> bool:
    seen = peek(path)
    return seen.is_list and seen.has("ttft_s", "end_to_end_latency_s", "number_output_tokens")


def _is_summary(path: Path) -> bool:
    seen = peek(path)
    ours = b'"num_concurrent_requests"' in seen.head and b'"results_ttft_s_mean"' in seen.head
    return bool(seen.paths) and not seen.is_list and ours


def _requests(path: Path) -> Recording:
    columns = Columns(path, "request", FIELDS)
    bare = 0
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        document = JsonDocument(path, file)
        for place, value in enumerate(document.elements()):
            if isinstance(value, str):
                bare += 1
                continue
            entry = as_mapping(path, value, f"request {place}")
            failed = entry.get("error_code") is not None
            columns.add(place, (*(entry.get(name) for name in FIELDS[:-1]), failed))
        document.end()
    if not len(columns):
        raise InputError(f"{path}: no requests, expected at least one")
    ok: Bools = columns.numbers("failed") == 0
    ttft, e2e = columns.times_us("ttft_s", 1e6), columns.times_us("end_to_end_latency_s", 1e6)
    findings: list[Finding] = []
    # Without streaming the first token came with the last.
    streamed: Bools = ~ok | ((ttft > 0) & ((ttft < e2e) | (columns.counts("number_output_tokens") < 2)))
    wrong = ok & ~((e2e > 0) & (ttft >= 0) & (ttft <= e2e))
    if wrong.sum() > most_left_out(int(ok.sum())):
        row = int(np.argmax(wrong))
        times = f"ttft_s {ttft[row] / 1e6:g} and end_to_end_latency_s {e2e[row] / 1e6:g}"
        raise InputError(f"{columns.at(int(columns.places[row]))}: {times}, expected 0 <= the first <= the second")
    timed = ok & ~wrong
    if bare:
        findings.append(_bare_texts(bare))
    if (~ok).any():
        findings.append(_errors(int((~ok).sum()), len(columns)))
    summary = _beside(path)
    model = summary.hints[Path(summary.source).name]["model"] if summary is not None and summary.hints else None
    known = isinstance(model, str) and OWN_TOKENIZER.search(model) is not None
    if not known:
        advice = "The tokenizer is Llama 2's whatever the model: lengths and TPOT are of another count."
        findings.append(retokenized("llmperf", advice))
    requests = Requests(
        send_us=np.full(len(columns), np.nan),
        input_tokens=columns.counts("number_input_tokens"),
        server_input_tokens=np.zeros(len(columns), np.int64),
        output_tokens=np.where(ok, columns.counts("number_output_tokens"), 0),
        ttft_us=np.where(timed & streamed, ttft, np.nan),
        e2e_us=np.where(timed, e2e, np.nan),
        ok=ok,
        streamed=streamed if not streamed.all() else np.zeros(0, np.bool_),
    )
    return Recording(
        name=run_name(path),
        source=str(path),
        format="llmperf",
        requests=len(columns),
        completed=int(ok.sum()),
        each=requests,
        aggregates={},
        load=summary.load if summary is not None else LoadSaid(),
        hints=summary.hints if summary is not None else {},
        findings=(*findings, _no_sends()),
        refused=None if ok.any() else "no request succeeded",
        unfit=None if known else "its tokens are counted by Llama 2's tokenizer, whatever the model",
    )


def _beside(path: Path) -> Recording | None:
    """The summary of the same run, by the names that the tool gives both."""
    for name, other in (("individual_responses", "summary"), ("individual", "summary")):
        beside = path.with_name(path.name.replace(name, other))
        if beside != path and is_file(beside) and _is_summary(beside):
            report = read_json_object(beside)
            return _summary(beside, report) if "num_concurrent_requests" in report else None
    return None


def _summary(path: Path, report: Mapping[str, Any], prefix: str = "") -> Recording:
    found: dict[str, float] = {}
    for theirs, ours in METRICS.items():
        for statistic, name in STATISTICS.items():
            value = number(path, report, f"results_{theirs}_{statistic}", prefix)
            if value is not None:
                found[f"{ours}_{name}"] = 1e6 * value
    lengths = [number(path, report, f"results_number_{kind}_tokens_mean", prefix) for kind in ("input", "output")]
    output = lengths[1]
    if output is not None and output > 1 and {"ttft_mean", "e2e_mean"} <= found.keys():
        found["tpot_mean"] = (found["e2e_mean"] - found["ttft_mean"]) / (output - 1)
    for theirs, ours, factor in (
        ("results_mean_output_throughput_token_per_s", "output_tokens_per_s", 1.0),
        ("results_num_completed_requests_per_min", "requests_per_s", 1 / 60),
    ):
        value = number(path, report, theirs, prefix)
        if value:
            found[ours] = factor * value
    completed = count(path, report, "results_num_completed_requests", prefix) or 0
    clients = count(path, report, "num_concurrent_requests", prefix)
    model = text(report.get("model"))
    advice = "The tokenizer is Llama 2's whatever the model: lengths and TPOT are of another count."
    findings = [] if model and OWN_TOKENIZER.search(model) else [retokenized("llmperf", advice)]
    framework = text(report.get("framework"))
    if framework is not None and "vllm" not in framework.lower():
        findings.append(_another_engine(framework))
    return Recording(
        name=run_name(path),
        source=str(path),
        format="llmperf",
        requests=count(path, report, "results_num_requests_started", prefix) or completed,
        completed=completed,
        aggregates=found,
        load=LoadSaid(clients, np.inf if clients else None, None, *lengths),
        hints={path.name: {"model": model}} if model else {},
        findings=tuple(findings),
        refused=None if completed else "no request succeeded",
    )


def _bare_texts(number_of_texts: int) -> Finding:
    return Finding(
        "bare-texts",
        "corrected",
        f"The list ends in {number_of_texts} bare texts, which are no requests (a fault of the tool).",
        {"texts": number_of_texts},
        "They are left out.",
    )


def _errors(failed: int, requests: int) -> Finding:
    return Finding(
        "times-of-errors",
        "corrected",
        f"{failed} of {requests} rows are of errors, and carry times that look like latencies.",
        {"failed": failed, "requests": requests},
        "Their latencies and counts are left out.",
    )


def _no_sends() -> Finding:
    return Finding(
        "no-send-times",
        "warning",
        "The file does not say when a request was sent.",
        {},
        "Only a closed loop of num_concurrent_requests can be rebuilt; the summary beside it says how many.",
    )


def _another_engine(framework: str) -> Finding:
    return Finding(
        "another-engine",
        "warning",
        f"The summary says framework {framework}, which is not vLLM by name.",
        {"framework": framework},
        "Only engines that schedule as vLLM does can be replayed: give --engine if it is one of them.",
    )
