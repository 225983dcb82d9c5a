"""GuideLLM's benchmarks.json: one run a benchmark (a rate), of its three schemas, and the CSV of aggregates.

Old (up to 0.3, no `metadata`), 1 (0.4 to 0.6) and 2 (0.7 on). Times are wall-clock seconds, latencies count from
`request_start`, after the client's own queue. The per-request lists hold the warm-up, the metrics do not. TPOT is
`inter_token_latency_ms`: (last - first)/(n - 1). `time_per_output_token_ms` is (last - first)/n up to 0.3 and holds the
prefill since 0.4, (last - request_start)/n, and is never read. Source: guidellm schemas/base/request_stats.py and
benchmark/schemas/metrics.py at v0.3.0 and v0.6.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats import guidellm_csv
from roofml.traces.formats.columns import NEVER, NONE, Columns, Timed, requests_of, run_name
from roofml.traces.formats.fields import as_mapping, count, mapping, number, text
from roofml.traces.formats.peek import peek
from roofml.traces.formats.traps import (
    asked_for_counts,
    bundled_chunks,
    late_client,
    later_turns,
    remote_client,
    seeded_prompts,
    weighted_tpot,
)
from roofml.traces.recording import LoadSaid, Recording, Requests
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.util.json_stream import JsonDocument
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, open_file

VERSIONS = (1, 2)
"""`metadata.version` that are known; the old schema has none."""
STATUSES = ("successful", "incomplete", "errored")
FIELDS = ("planned", "send", "first", "last", "input_tokens", "output_tokens", "chunks", "cached_tokens", "status")
OPEN = {"constant": np.inf, "async": np.inf, "poisson": 1.0}
"""Strategy of an open loop -> burstiness as `vllm bench serve` has it: inf evenly spaced, 1 Poisson."""
LEAST_SAMPLE = 0.999
"""Share of the requests that the lists must hold to be the whole run."""


@dataclass
class _Benchmark:
    """One element of `benchmarks`, as far as it was read."""

    columns: Columns
    rest: dict[str, Any] = field(default_factory=dict[str, Any])
    """All but its requests."""
    unsent: int = 0
    """Requests that were cancelled before they were sent."""
    later_turns: int = 0
    cached: bool = False
    """Some request says how many tokens were cached."""


def detect(path: Path) -> bool:
    """Whether `path` is a GuideLLM report, JSON or CSV, by its first bytes."""
    seen = peek(path)
    if seen.paths:
        ours = b'"guidellm_version"' in seen.head or b'"generative_benchmark"' in seen.head
        return not seen.is_list and ours and b'"benchmarks"' in seen.head
    return guidellm_csv.detect(path)


def read(path: Path) -> list[Recording]:
    """The benchmarks in `path`. Raises InputError, naming file and field, for what is no GuideLLM report."""
    if guidellm_csv.detect(path):
        return guidellm_csv.read(path)
    top: dict[str, Any] = {}
    benchmarks: list[_Benchmark] = []
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        document = JsonDocument(path, file)
        for name in document.members():
            if name != "benchmarks":
                top[name] = document.value()
                continue
            for _ in document.items():
                benchmarks.append(_benchmark(path, document))
        document.end()
    metadata = mapping(path, top, "metadata")
    version = metadata.get("version")
    if version is not None and version not in VERSIONS:
        raise InputError(f"{path}: metadata.version is {version!r:.40}, expected {' or '.join(map(str, VERSIONS))}")
    if not benchmarks:
        raise InputError(f"{path}: benchmarks: none, expected at least one")
    return [_recording(path, place, benchmark, top) for place, benchmark in enumerate(benchmarks)]


def _benchmark(path: Path, document: JsonDocument) -> _Benchmark:
    found = _Benchmark(Columns(path, "request", FIELDS))
    for name in document.members():
        if name != "requests" or document.next() != "{":
            found.rest[name] = document.value()
            continue
        for status in document.members():
            if status not in STATUSES or document.next() != "[":
                document.value()
                continue
            for place, value in enumerate(document.elements()):
                _add(path, found, STATUSES.index(status), place, value)
    return found


def _add(path: Path, found: _Benchmark, status: int, place: int, value: object) -> None:
    where = f"requests.{STATUSES[status]}[{place}]"
    request = as_mapping(path, value, where)
    timings: dict[str, Any]
    if "scheduler_info" in request:
        timings = mapping(path, request, "scheduler_info", f"{where}.")
        times = (
            timings.get("targeted_start_time"),
            timings.get("request_start") or request.get("start_time"),
            request.get("first_token_time"),
            request.get("last_token_time"),
        )
        counted = (request.get("prompt_tokens"), request.get("output_tokens"))
        chunks = cached = None
    else:
        info = mapping(path, request, "info", f"{where}.")
        timings = mapping(path, info, "timings", f"{where}.info.")
        inside, outside = (mapping(path, request, f"{name}_metrics", f"{where}.") for name in ("input", "output"))
        times = (
            timings.get("targeted_start"),
            timings.get("request_start"),
            timings.get("first_token_iteration"),
            timings.get("last_token_iteration"),
        )
        counted = (
            _first(inside.get("total_tokens"), inside.get("text_tokens"), request.get("prompt_tokens")),
            _first(outside.get("total_tokens"), outside.get("text_tokens"), request.get("output_tokens")),
        )
        chunks = timings.get("token_iterations")
        cached = _first(inside.get("cached_tokens"), request.get("cached_tokens"))
        found.later_turns += bool(info.get("turn_index"))
    if not times[1] or (isinstance(times[1], float | int) and times[1] < 0):
        if status == 0:
            raise InputError(f"{path}: {where}: no request_start, expected the time of sending")
        found.unsent += 1
        return
    # What was not timed is 0 or -1 in some versions and null in others.
    first, last = (None if isinstance(time, int | float) and time <= 0 else time for time in times[2:])
    found.columns.add(place, (*times[:2], first, last, *counted, chunks, cached, status))
    found.columns.add_id(request.get("request_id", len(found.columns)))
    found.cached |= cached is not None


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _recording(path: Path, place: int, found: _Benchmark, top: Mapping[str, Any]) -> Recording:
    at = f"benchmarks[{place}]"
    rest, columns = found.rest, found.columns
    metrics = mapping(path, rest, "metrics", f"{at}.")
    config = mapping(path, rest, "config", f"{at}.") or mapping(path, rest, "args", f"{at}.")
    totals = _totals(path, rest, metrics, at)
    aggregates = _aggregates(path, metrics, f"{at}.metrics.")
    lasted = number(path, rest, "duration", f"{at}.")
    if lasted:
        aggregates["duration_us"] = 1e6 * lasted
    backend = mapping(path, config, "backend", at) or mapping(path, mapping(path, rest, "worker", at), "backend_info")
    worker = mapping(path, rest, "worker", f"{at}.")
    model = text(backend.get("model")) or text(worker.get("backend_model"))
    target = text(backend.get("target")) or text(worker.get("backend_target"))
    load = _load(path, config, metrics, at)
    findings = [
        *remote_client(target, mapping(path, top, "metadata").get("platform")),
        *_seeded(path, config, top),
    ]
    each: Requests | None = None
    unfit: str | None = None
    sent, completed = totals.get("total", 0), totals.get("successful", 0)
    if len(columns):
        columns.refuse_twice("request_id")
        each, more = _requests(path, found, config, rest, load)
        findings += more
        listed = len(columns)
        if listed < LEAST_SAMPLE * sent:
            findings.append(_sampled(listed, sent))
            unfit = f"its lists hold {listed} of {sent} requests: the load of the others is not known"
        sent, completed = listed, int(each.ok.sum())
        if found.later_turns:
            findings.append(later_turns(found.later_turns, listed))
    elif not aggregates:
        raise InputError(f"{path}: {at}: neither requests nor metrics, expected one of them")
    else:
        findings.append(weighted_tpot())
    return Recording(
        name=run_name(path),
        source=str(path),
        format="guidellm",
        requests=sent,
        completed=completed,
        each=each,
        aggregates=aggregates,
        load=load,
        hints={path.name: {"model": model}} if model else {},
        findings=tuple(findings),
        refused=None if completed else "no request succeeded",
        unfit=unfit,
    )


def _requests(
    path: Path, found: _Benchmark, config: Mapping[str, Any], rest: Mapping[str, Any], load: LoadSaid
) -> tuple[Requests, list[Finding]]:
    columns = found.columns
    ok: Bools = columns.numbers("status") == 0
    times = {name: columns.times_us(name, 1e6) for name in ("planned", "send", "first", "last")}
    timed = Timed(times["send"], times["first"], times["last"], ok)
    output = columns.counts("output_tokens")
    cut = int((~ok & (output > 0)).sum())
    output = np.where(ok, output, 0)
    prompt, chunks = columns.counts("input_tokens"), columns.counts("chunks")
    by_server = config.get("prefer_response_metrics", True) is not False
    warm_up: Bools = times["send"] < _measured_from(path, config, rest) * 1e6
    requests, findings = requests_of(
        columns,
        timed,
        {
            "input_tokens": np.zeros_like(prompt) if by_server else prompt,
            "server_input_tokens": prompt if by_server else np.zeros_like(prompt),
            "output_tokens": output,
            "num_chunks": chunks if chunks.any() else NONE,
            "cached_tokens": columns.counts("cached_tokens") if found.cached else NONE,
            "warm_up": warm_up if warm_up.any() else NEVER,
        },
    )
    if cut:
        findings.append(asked_for_counts(cut, len(columns), "incomplete or failed"))
    if found.unsent:
        findings.append(_unsent(found.unsent))
    findings += bundled_chunks(chunks, output, ok)
    if load.requests_per_s is not None and np.isfinite(load.requests_per_s):
        late = times["send"] - times["planned"]
        findings += late_client(late, times["last"] - times["send"], "the client did not keep up with its plan")
    return requests, findings


def _measured_from(path: Path, config: Mapping[str, Any], rest: Mapping[str, Any]) -> float:
    """When the warm-up ended, s; -inf without one."""
    state = mapping(path, rest, "scheduler_metrics") or mapping(path, rest, "run_stats")
    lasted = number(path, rest, "warmup_duration") or number(path, config, "warmup_duration")
    since = number(path, state, "measure_start_time")
    started = number(path, state, "request_start_time") or number(path, state, "start_time")
    if not lasted or (since is None and started is None):
        return -np.inf
    return since if since is not None else (started or 0.0) + lasted


def _totals(path: Path, rest: Mapping[str, Any], metrics: Mapping[str, Any], at: str) -> dict[str, int]:
    """Numbers of requests by how they ended, as the header has them."""
    for parent, key in (
        (metrics, "request_totals"),
        (rest, "request_totals"),
        (mapping(path, rest, "run_stats", f"{at}."), "requests_made"),
        (mapping(path, rest, "scheduler_metrics", f"{at}."), "requests_made"),
    ):
        totals = mapping(path, parent, key, f"{at}.")
        if totals:
            found = {name: count(path, totals, name, f"{at}.{key}.") for name in (*STATUSES, "total")}
            counts = {name: value or 0 for name, value in found.items()}
            return counts | {"total": counts["total"] or sum(counts.values())}
    return {}


METRICS = {
    "time_to_first_token_ms": ("ttft", 1e3),
    "inter_token_latency_ms": ("tpot", 1e3),
    "request_latency": ("e2e", 1e6),
}
"""Metric -> our name, and its unit in µs."""


def _aggregates(path: Path, metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, (name, factor) in METRICS.items():
        each = mapping(path, mapping(path, metrics, key, prefix), "successful", f"{prefix}{key}.")
        quantiles = mapping(path, each, "percentiles", f"{prefix}{key}.successful.")
        if not number(path, each, "count", f"{prefix}{key}."):
            continue
        for ours, parent, theirs in (
            ("mean", each, "mean"),
            ("median", each, "median"),
            *((f"p{q}", quantiles, f"p{q}") for q in (90, 95, 99)),
        ):
            value = number(path, parent, theirs, f"{prefix}{key}.")
            if value is not None:
                found[f"{name}_{ours}"] = factor * value
    for key, name in (("requests_per_second", "requests_per_s"), ("output_tokens_per_second", "output_tokens_per_s")):
        each = mapping(path, mapping(path, metrics, key, prefix), "successful", f"{prefix}{key}.")
        value = number(path, each, "mean", f"{prefix}{key}.")
        if value:
            found[name] = value
    return found


def _load(path: Path, config: Mapping[str, Any], metrics: Mapping[str, Any], at: str) -> LoadSaid:
    strategy = mapping(path, config, "strategy", f"{at}.")
    kind = text(strategy.get("type_"))
    limit = count(path, strategy, "max_concurrency", f"{at}.strategy.")
    streams = count(path, strategy, "streams", f"{at}.strategy.")
    tokens = [
        number(path, mapping(path, mapping(path, metrics, key), "successful"), "mean") or None
        for key in ("prompt_token_count", "output_token_count")
    ]
    if kind in OPEN:
        rate = number(path, strategy, "rate", f"{at}.strategy.")
        return LoadSaid(None, rate, float(OPEN[kind]), *tokens)
    if kind == "synchronous":
        return LoadSaid(1, np.inf, None, *tokens)
    return LoadSaid(streams or limit, np.inf if kind in ("concurrent", "throughput") else None, None, *tokens)


def _seeded(path: Path, config: Mapping[str, Any], top: Mapping[str, Any]) -> list[Finding]:
    args = mapping(path, top, "args")
    spec = mapping(path, mapping(path, top, "config"), "spec")
    seed = args.get("random_seed", mapping(path, spec, "seed").get("value"))
    if seed is None:
        seed = mapping(path, config, "requests").get("random_seed", mapping(path, config, "profile").get("random_seed"))
    return [seeded_prompts("GuideLLM", seed)] if seed is not None else []


def _sampled(listed: int, sent: int) -> Finding:
    return Finding(
        "sampled-requests",
        "warning",
        f"The lists hold {listed} of {sent} requests, a sample or a cut; the metrics are of all.",
        {"listed": listed, "requests": sent},
        "The load of the others is not known, so a replay has too little to do. Record all (no --sample-requests).",
    )


def _unsent(number: int) -> Finding:
    return Finding(
        "never-sent",
        "info",
        f"{number} requests were cancelled before they were sent.",
        {"requests": number},
        "They are left out: the server never saw them.",
    )
