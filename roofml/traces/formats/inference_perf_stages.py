"""inference-perf's stage_N_lifecycle_metrics.json and summary: aggregates of one rate, or of all of them, in seconds.

Its time_per_output_token is half in old versions, and its lengths are of re-tokenized text, in 0.5 twice as long as
they were. So TPOT is (mean E2E - mean TTFT)/(n - 1), with n the server's mean count where the file has it, the forced
length where the configuration beside it says so, or else the client's. A summary averages over rates: no load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.columns import run_name
from roofml.traces.formats.fields import as_mapping, count, mapping, number
from roofml.traces.formats.peek import peek
from roofml.traces.formats.traps import LEAST_LATE, client_queue, retokenized
from roofml.traces.inference_perf import PlannedLoad
from roofml.traces.raw import Generator
from roofml.traces.recording import LoadSaid, Recording
from roofml.util.errors import InputError
from roofml.util.reading import read_json_object

METRICS = {"time_to_first_token": "ttft", "request_latency": "e2e"}
STATISTICS = ("mean", "median", "p90", "p95", "p99")
BURSTINESS = {"constant": np.inf, "poisson": 1.0}
"""Kind of load -> burstiness as `vllm bench serve` has it: inf evenly spaced, 1 Poisson."""
HALF = (0.4, 0.6)
"""The tool's own TPOT over ours that shows two times a token."""
MOST_MISMATCHES = 0.5
"""Share of the requests with other counts than the server's from which counts say nothing."""


@dataclass(frozen=True)
class Planned:
    """What the tool's configuration beside a report says."""

    source: str
    generator: Generator
    model: str | None
    load: PlannedLoad


def detect(path: Path) -> bool:
    """Whether `path` is a stage or summary report, of the client or of its Prometheus, by the names of its fields."""
    seen = peek(path)
    names = (b'"load_summary"', b'"successes"')
    return bool(seen.paths) and not seen.is_list and all(name in seen.head for name in names)


def read(path: Path, planned: Planned | None) -> list[Recording]:
    """The stage in `path`, aggregates alone. Raises InputError, naming file and field, for what is none."""
    report = read_json_object(path)
    load, successes = mapping(path, report, "load_summary"), mapping(path, report, "successes")
    completed = count(path, successes, "count", "successes.")
    if completed is None:
        raise InputError(f"{path}: successes.count is missing")
    refused = _refused(load, successes, completed)
    aggregates, findings, tokens = ({}, [], LoadSaid()) if refused else _aggregates(path, report, planned)
    sent = count(path, load, "count", "load_summary.")
    stage = re.search(r"stage_(\d{1,6})_", path.name)
    said = load_of(planned.load, int(stage.group(1)) if stage else None) if planned is not None else LoadSaid()
    rate = number(path, load, "requested_rate", "load_summary.") or number(path, load, "achieved_rate", "load_summary.")
    return [
        Recording(
            name=run_name(path),
            source=str(path),
            format="inference-perf",
            requests=sent if sent is not None else completed,
            completed=completed,
            aggregates=aggregates,
            load=LoadSaid(
                said.max_concurrency,
                np.inf if said.max_concurrency else rate or said.requests_per_s,
                said.burstiness,
                tokens.input_tokens,
                tokens.output_tokens,
            ),
            hints={planned.source: {"model": planned.model}} if planned is not None and planned.model else {},
            generator=planned.generator if planned is not None else None,
            findings=tuple(findings),
            refused=refused,
        )
    ]


def load_of(load: PlannedLoad, stage: int | None) -> LoadSaid:
    """The load that a configuration asks for in a stage; without one, what all have in common."""
    burstiness = BURSTINESS.get(load.kind or "")
    if stage is None or stage >= len(load.rates):
        return LoadSaid(burstiness=burstiness)
    return LoadSaid(load.clients[stage], load.rates[stage], burstiness)


def _refused(load: Mapping[str, Any], successes: Mapping[str, Any], completed: int) -> str | None:
    if "latency" not in successes:
        return "means over all that the server's Prometheus saw, not of this client's requests; give the stage files"
    if "requested_rate" not in load and "achieved_rate" not in load:
        return "averages over stages of different rates are no operating point; give the stage files"
    return None if completed else "no request succeeded"


def _aggregates(
    path: Path, report: Mapping[str, Any], planned: Planned | None
) -> tuple[dict[str, float], list[Finding], LoadSaid]:
    """(aggregates, findings, mean tokens of a request)."""
    load, successes = mapping(path, report, "load_summary"), mapping(path, report, "successes")
    latency = mapping(path, successes, "latency", "successes.")
    found: dict[str, float] = {}
    for theirs, ours in METRICS.items():
        each = mapping(path, latency, theirs, "successes.latency.")
        for statistic in STATISTICS:
            value = number(path, each, statistic, f"successes.latency.{theirs}.")
            if value is not None:
                found[f"{ours}_{statistic}"] = 1e6 * value
    if "e2e_mean" not in found:
        raise InputError(f"{path}: successes.latency.request_latency.mean is missing")
    findings: list[Finding] = []
    output, server = _output(path, successes, planned, findings)
    if output is not None and output > 1 and "ttft_mean" in found:
        found["tpot_mean"] = (found["e2e_mean"] - found["ttft_mean"]) / (output - 1)
        theirs = number(path, mapping(path, latency, "time_per_output_token"), "mean")
        ratio = 1e6 * theirs / found["tpot_mean"] if theirs and found["tpot_mean"] > 0 else 1.0
        if HALF[0] <= ratio <= HALF[1]:
            findings.append(half_token_times(ratio, "old versions note two times a token, 0.5 counts tokens twice"))
    rate = number(path, mapping(path, successes, "throughput"), "requests_per_sec", "successes.throughput.")
    if rate:
        found["requests_per_s"] = rate
        if output is not None:
            found["output_tokens_per_s"] = rate * output
    lasted = number(path, report, "benchmark_time_seconds") or number(path, load, "send_duration", "load_summary.")
    if lasted:
        found["duration_us"] = 1e6 * lasted
    late = number(path, mapping(path, load, "schedule_delay", "load_summary."), "mean")
    if late is not None and 1e6 * late > LEAST_LATE * found["e2e_mean"]:
        findings.append(client_queue(1e6 * late, "its workers were all busy"))
    prompt = _mean(path, successes, "prompt_tokens") or _mean(path, successes, "prompt_len")
    if prompt is not None and not server:
        findings.append(retokenized("inference-perf", "The prompts' lengths are the client's; the server saw others."))
    return found, findings, LoadSaid(input_tokens=prompt, output_tokens=output)


def _output(
    path: Path, successes: Mapping[str, Any], planned: Planned | None, findings: list[Finding]
) -> tuple[float | None, bool]:
    """(mean output tokens of a request, None where nobody can say; whether the server counted them)."""
    by_server = _mean(path, successes, "output_tokens")
    if by_server is not None:
        return by_server, True
    by_client = _mean(path, successes, "output_len")
    generator = planned.generator if planned is not None else None
    if generator is not None and generator.ignore_eos and generator.output_tokens is not None:
        if by_client is not None and abs(by_client - generator.output_tokens) > 0.5:
            findings.append(
                Finding(
                    "forced-lengths",
                    "corrected",
                    f"The file reports {by_client:.1f} tokens a request, but {generator.source} forced "
                    f"{generator.output_tokens} (ignore_eos).",
                    {"reported_mean": by_client, "output_tokens": generator.output_tokens},
                    "The forced length is used: the client tokenized the text again.",
                )
            )
        return float(generator.output_tokens), False
    completed = count(path, successes, "count", "successes.") or 1
    mismatches = count(path, successes, "token_count_mismatches", "successes.") or 0
    if mismatches > MOST_MISMATCHES * completed:
        findings.append(
            Finding(
                "counts-contradict-server",
                "warning",
                f"The client's counts of {mismatches} of {completed} requests are not those of the server.",
                {"requests": mismatches, "of": completed},
                "Neither lengths nor TPOT are taken from them. Give config.yaml beside it, or the per-request file.",
            )
        )
        return None, False
    return by_client, False


def _mean(path: Path, successes: Mapping[str, Any], name: str) -> float | None:
    value: object = successes.get(name)
    return None if value is None else number(path, as_mapping(path, value, f"successes.{name}"), "mean") or None


def half_token_times(ratio: float, why: str) -> Finding:
    """The tool's times per token are half of what a token took."""
    return Finding(
        "half-token-times",
        "corrected",
        f"The tool's own times per token are {ratio:.2f} of what a token took: {why}.",
        {"ratio": round(ratio, 4)},
        "TPOT is taken as (E2E - TTFT)/(tokens - 1) instead.",
    )
