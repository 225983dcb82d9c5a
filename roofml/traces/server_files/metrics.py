"""Reader: a scrape of vLLM's `/metrics` (Prometheus text): the KV cache, and what was served since the server started.

Counters run from the start of the server, warm-ups included: what a load cost is the scrape after it minus the one
before (`between`). Means are `_sum / _count`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roofml.traces.finding import Finding
from roofml.traces.server_files.arguments import facts_of, read_value
from roofml.traces.server_files.said import Said
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.reading import first_bytes, read_bytes

HEAD = 65_536
MOST_BYTES = 64_000_000
"""Of one scrape; a server with many adapters and engines has a few megabytes."""

_MARK = re.compile(rb"^(?:# (?:HELP|TYPE) )?vllm:\w+[ {]", re.M)
_SAMPLE = re.compile(
    r"([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*=\"(?:[^\"\\]|\\.)*\",?)*)\})? +([^ ]+)(?: +-?\d+)?(?: +#.*)?"
)
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')

MEANS = {
    "mean_ttft_us": ("vllm:time_to_first_token_seconds",),
    "mean_tpot_us": ("vllm:request_time_per_output_token_seconds",),
    "mean_e2e_us": ("vllm:e2e_request_latency_seconds",),
    "mean_itl_us": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    "mean_queue_us": ("vllm:request_queue_time_seconds",),
}
"""Mean -> the histograms it is of, by release. TPOT is per request; the gap is per output event: with speculation, of
several tokens."""
TOTALS = {
    "requests": "vllm:request_success_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "cached_tokens": "vllm:prefix_cache_hits_total",
    "preemptions": "vllm:num_preemptions_total",
    "iterations": "vllm:iteration_tokens_total_count",
}
FAILED = ("abort", "error")
"""Reasons of an end that are no completion."""
DRAFTS = "vllm:spec_decode_num_drafts_total"
CACHE = "vllm:cache_config_info"
STARTED = "process_start_time_seconds"


@dataclass(frozen=True)
class Scrape:
    """One scrape. Counters are summed over engines."""

    path: Path
    totals: Mapping[str, float]
    """Name, without labels -> sum."""
    completed: float
    engines: tuple[str, ...]
    cache: tuple[Mapping[str, str], ...]
    """Labels of the KV cache's configuration, one for each engine."""
    served_as: tuple[str, ...]


def detect(path: Path) -> bool:
    """Whether the first 64 KiB of a file hold a metric of vLLM's."""
    return bool(_MARK.search(first_bytes(path, HEAD)))


def facts(path: Path) -> Said:
    """What a scrape says of its server. Raises InputError if it cannot be read or a number is none."""
    return said_of(read(path))


def read(path: Path) -> Scrape:
    """The scrape in a file. Raises InputError naming the line with a sample that is none."""
    text = read_bytes(path, MOST_BYTES).decode("utf-8", "replace")
    totals: dict[str, float] = {}
    completed, engines, cache, served_as = 0.0, list[str](), list[Mapping[str, str]](), list[str]()
    for number, name, labels, value in _samples(text, path):
        if name.endswith("_bucket") or not (name.startswith("vllm:") or name == STARTED):
            continue
        if not math.isfinite(value):
            raise InputError(f"{path}: line {number}: {name} is {value}, expected a finite number")
        totals[name] = totals.get(name, 0.0) + value
        if name == TOTALS["requests"] and labels.get("finished_reason") not in FAILED:
            completed += value
        for known, label in ((engines, "engine"), (served_as, "model_name")):
            if label in labels and labels[label] not in known:
                known.append(labels[label])
        if name == CACHE:
            cache.append(labels)
    if not any(name.startswith("vllm:") for name in totals):
        raise InputError(f"{path}: no metric of vLLM in it, expected vllm:... lines")
    return Scrape(path, totals, completed, tuple(engines), tuple(cache), tuple(served_as))


def said_of(scrape: Scrape) -> Said:
    """The facts of one scrape, and what was served since the server's start."""
    found: dict[str, object] = {"engine": "vllm"}
    findings: list[Finding] = []
    blocks: list[int] = []
    for labels in scrape.cache:
        of_engine, more = _cache(labels)
        blocks += [count for count in (of_engine.pop("num_gpu_blocks", None),) if isinstance(count, int)]
        found |= of_engine
        findings += [finding for finding in more if finding not in findings]
    if blocks:
        found["num_gpu_blocks"] = min(blocks)
    if len(scrape.engines) > 1:
        found["data_parallel_size"] = len(scrape.engines)
    if scrape.totals.get(DRAFTS, 0) > 0:
        found["speculative_config"] = "spec_decode counters"
    if scrape.served_as:
        found["served_model_name"] = scrape.served_as[0]
    if scrape.completed:
        findings.append(_since_start(scrape))
    if scrape.totals.get(DRAFTS, 0) > 0:
        findings.append(_drafts(scrape))
    return Said(found, tuple(findings), observed=_observed(scrape, None))


def between(scrapes: Sequence[Scrape]) -> tuple[dict[str, float | None], Finding | None]:
    """What was served from the first of a server's scrapes to the last, in whatever order they are given.

    Where they are not of one server, or it restarted between them, nothing, and a finding that says so.
    """
    ordered = sorted(scrapes, key=lambda scrape: (scrape.completed, scrape.totals.get(TOTALS["prompt_tokens"], 0)))
    first, last = ordered[0], ordered[-1]
    names = [name for name in first.totals if name.endswith(("_total", "_count", "_sum"))]
    fell = [name for name in names if last.totals.get(name, 0) < first.totals[name]]
    if fell or first.totals.get(STARTED) != last.totals.get(STARTED):
        because = f"{fell[0]} fell" if fell else "the servers started at other times"
        finding = Finding(
            "scrapes-of-two-servers",
            "warning",
            f"{for_line(first.path.name)} and {for_line(last.path.name)} are of no one load: {because}.",
            {"first": first.path.name, "last": last.path.name},
            "Their difference was not taken. Give two scrapes of one server that did not restart.",
        )
        return {}, finding
    return _observed(last, first), None


def _since_start(scrape: Scrape) -> Finding:
    return Finding(
        "counters-since-start",
        "info",
        f"The server had completed {scrape.completed:.0f} requests since its start, warm-ups included.",
        {"completed": scrape.completed},
        "Give the scrapes before and after a load together: their difference is what it cost.",
    )


def _drafts(scrape: Scrape) -> Finding:
    drafts = scrape.totals[DRAFTS]
    return Finding(
        "gaps-of-several-tokens",
        "warning",
        f"The server guessed ahead ({drafts:.0f} drafts): its inter_token_latency is a gap of several tokens.",
        {"drafts": drafts},
        "TPOT was taken from request_time_per_output_token_seconds. Speculative decoding is not modelled for runs.",
    )


def _observed(after: Scrape, before: Scrape | None) -> dict[str, float | None]:
    """Counts, and means in µs, of what was served between two scrapes, or since the start."""

    def grown(name: str) -> float | None:
        if name not in after.totals:
            return None
        return after.totals[name] - (before.totals.get(name, 0.0) if before else 0.0)

    observed: dict[str, float | None] = {key: _whole(grown(name)) for key, name in TOTALS.items()}
    observed["completed"] = _whole(after.completed - (before.completed if before else 0.0))
    for key, histograms in MEANS.items():
        for name in histograms:
            count, total = grown(f"{name}_count"), grown(f"{name}_sum")
            if count is not None and total is not None:
                observed[key] = 1e6 * total / count if count > 0 else None
                break
    tokens, steps = grown("vllm:iteration_tokens_total_sum"), observed["iterations"]
    observed["tokens_per_iteration"] = tokens / steps if tokens is not None and steps else None
    return observed


def _whole(value: float | None) -> float | None:
    """A counter as the whole number that it is."""
    return int(value) if value is not None and value == int(value) else value


def _cache(labels: Mapping[str, str]) -> tuple[dict[str, object], tuple[Finding, ...]]:
    """Facts of the labels of `cache_config_info`."""
    names = {"block_size": "block_size", "enable_prefix_caching": "enable_prefix_caching"}
    names |= {"cache_dtype": "kv_cache_dtype", "gpu_memory_utilization": "gpu_memory_utilization"}
    given = {name: read_value(name, labels[label]) for label, name in names.items() if _said(labels.get(label))}
    found, findings = facts_of(given)
    for label, name in (
        ("num_gpu_blocks", "num_gpu_blocks"),
        ("kv_cache_size_tokens", "kv_cache_tokens"),
        ("kv_offloading_size", "kv_offloading_size"),
    ):
        if _said(labels.get(label)) and labels[label].isdecimal():
            found[name] = int(labels[label][:18])
    return found, findings


def _said(label: str | None) -> bool:
    return label is not None and label not in ("", "None")


def _samples(text: str, path: Path) -> Iterator[tuple[int, str, dict[str, str], float]]:
    """Line number, name, labels and value of every sample."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _SAMPLE.fullmatch(line)
        if not found:
            if line.startswith("vllm:"):
                raise InputError(f"{path}: line {number}: no sample of a metric, expected NAME{{LABELS}} VALUE")
            continue
        try:
            value = float(found[3])
        except ValueError:
            if not line.startswith("vllm:"):
                continue
            raise InputError(f"{path}: line {number}: {found[1]}: {found[3][:40]!r}, expected a number") from None
        yield number, found[1], dict(_LABEL.findall(found[2] or "")), value
