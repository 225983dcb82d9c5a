"""The doctor: it finds the traps in a trace, corrects those that can be settled, and reports them as findings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roofml.traces.deadline import given_up
from roofml.traces.engine_version import version_findings
from roofml.traces.finding import Evidence, Finding
from roofml.traces.load import Load, is_saturated, load_findings, measure_load
from roofml.traces.overview import Overview
from roofml.traces.raw import RawRun
from roofml.traces.repeated_prompts import shared_prompts
from roofml.traces.run import NOT_COUNTED, Run
from roofml.traces.stages import planned_stage
from roofml.traces.time_unit import time_unit
from roofml.traces.token_counts import FEWEST, output_counts, prompt_counts
from roofml.util.arrays import Bools, Ints
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line

FIRST = 10
"""Number of first requests, of which a freshly started server keeps at least one waiting."""
MOST_GIVEN_UP = 0.05
"""Share of requests given up beyond which the others are survivors."""
CUT = 0.99
"""Share of the planned requests below which the recording was cut."""
COLD = 1.5
"""Least ratio of the longest TTFT among the first ten to the median TTFT of the next ninety on a fresh server."""


def clean(raw: RawRun) -> Run:
    """The corrected run with its findings, in the order: errors, warnings, corrections, information.

    Raises InputError if no request is left to measure.
    """
    deadline_us, late, deadline_findings = given_up(raw, raw.deadline_s)
    prompt, prompt_known, prompt_findings = prompt_counts(raw)
    group, shared, prompt, sharing_findings = shared_prompts(raw, prompt, prompt_known)
    output, output_known, output_findings = output_counts(raw, prompt, late)
    findings = [*raw.findings, *prompt_findings, *sharing_findings, *output_findings, *deadline_findings]
    findings += version_findings(raw.server.engine, raw.server.engine_version)
    ok: Bools = raw.measured & prompt_known & output_known
    if not ok.any() and raw.aside.any():  # a run of that one request alone
        ok = raw.timely & prompt_known & output_known
    if not ok.any():
        raise InputError(f"{for_line(raw.name)}: no request is left to measure after warm-up and failures")
    whole = Run(
        name=raw.name,
        server=raw.server,
        request_id=raw.request_id,
        arrival_us=raw.send_us,
        prompt_tokens=prompt,
        output_tokens=output,
        prefix_group=group,
        prefix_tokens=shared,
        ttft_us=np.where(ok, raw.ttft_us, np.nan),
        e2e_us=np.where(ok, raw.e2e_us, np.nan),
        ok=ok,
        counted_tokens=raw.output_tokens,
        source=raw.source,
        deadline_us=deadline_us,
        late=late if late.any() else late[:0],
        priority=raw.priority,
        stage=planned_stage(raw.send_us, raw.generator.stages) if raw.generator is not None else NOT_COUNTED,
        clients=raw.clients,
        goes_on=_goes_on(raw),
        overview=_counted_again(raw, output),
        identity=raw.identity,
    )
    findings += time_unit(whole)
    findings += _impossible(raw, whole)
    load = measure_load(raw, whole, late)
    saturated = is_saturated(load, len(raw)) or float(late.mean()) > MOST_GIVEN_UP
    findings += load_findings(raw, load, saturated)
    findings += _warm_up(raw)
    findings += _cold_start(raw)
    findings += _failures(raw, load, late)
    findings += _clocks(raw)
    findings += _chunks(raw, whole)
    findings += [] if saturated else _next_experiment(whole, load)
    # A request that failed otherwise, without a chunk, never ran: the server refused it.
    run = whole.take(np.isfinite(raw.e2e_us) | ~raw.timed | late)
    order = ("error", "warning", "corrected", "info")
    findings.sort(key=lambda finding: order.index(finding.severity))
    return replace(run, findings=tuple(findings), saturated=saturated)


def _goes_on(raw: RawRun) -> bool:
    """Whether fewer requests are here than the generator planned, which it sent as planned until there."""
    plan = raw.generator.stages if raw.generator is not None else ()
    planned = sum(round(rate * seconds) for rate, seconds in plan)
    return CUT * planned > len(raw) and len(planned_stage(raw.send_us, plan)) > 0


def _counted_again(raw: RawRun, output: Ints) -> Overview | None:
    """The overview with a TPOT of the tokens (requests,) that were really made, where its requests are all there."""
    told = raw.overview
    several = raw.timely & (output > 1)
    if told is None or not several.any() or int(raw.ok.sum()) != told.completed:
        return told
    tpot = (raw.e2e_us - raw.ttft_us)[several] / (output - 1)[several]
    means = {"ttft_mean": float(raw.ttft_us[raw.timely].mean()), "tpot_mean": float(tpot.mean())}
    return replace(told, means={**means, "e2e_mean": float(raw.e2e_us[raw.timely].mean())})


def _impossible(raw: RawRun, run: Run) -> list[Finding]:
    """Findings about requests that the server, as described, could not have served."""
    length = run.prompt_tokens + run.output_tokens
    too_long = raw.ok & (length > raw.server.max_model_len)
    pool = raw.server.num_gpu_blocks * raw.server.block_size
    too_big = raw.ok & (length > pool)
    findings: list[Finding] = []
    for wrong, limit, field in (
        (too_long, raw.server.max_model_len, "max_model_len"),
        (too_big, pool, "num_gpu_blocks x block_size"),
    ):
        if wrong.any():
            number, most = int(wrong.sum()), int(length[wrong].max())
            findings.append(
                Finding(
                    "longer-than-server-allows",
                    "error",
                    f"{number} successful requests have up to {most} tokens, more than {field} = {limit} allows.",
                    {"requests": number, "most_tokens": most, "limit": limit, "field": field},
                    f"The counts or {field} are wrong: correct the folder or give the flag. Do not fit before that.",
                )
            )
    return findings


def _warm_up(raw: RawRun) -> list[Finding]:
    number = int(raw.warm_up.sum())
    if not number:
        return []
    summary = f"The first {number} of {len(raw)} requests warmed the server up (warm_up_requests)."
    return [Finding("warm-up", "info", summary, {"requests": number}, "They load the server but are not measured.")]


def _cold_start(raw: RawRun) -> list[Finding]:
    """The finding whether the first requests waited as they do on a freshly started server."""
    ttft_us = raw.ttft_us[raw.measured]
    if not raw.server.fresh or raw.warm_up.any() or len(ttft_us) < FEWEST:
        return []
    longest, usual = float(ttft_us[:FIRST].max()), float(np.median(ttft_us[FIRST : 10 * FIRST]))
    evidence: Evidence = {"longest_ttft_us": round(longest, 1), "median_ttft_us": round(usual, 1)}
    times = f"Of the first {FIRST} requests one waited {longest / 1e3:.0f} ms, those after them {usual / 1e3:.0f} ms"
    if longest > COLD * usual:
        return [
            Finding("cold-start", "info", f"{times}: the server had just started.", evidence, "A replay does so too.")
        ]
    summary = f"{times}: the server may have served before."
    return [Finding("warm-server", "info", summary, evidence, "If so give --warm, or a replay starts with a stall.")]


def _failures(raw: RawRun, load: Load, late: Bools) -> list[Finding]:
    failed = ~raw.ok & ~late
    number = int(failed.sum())
    if not number:
        return []
    without_chunk = int((failed & ~np.isfinite(raw.e2e_us)).sum())
    # Slow requests that fail hide how slow they were: compare failures in the busiest fifth with those elsewhere.
    span = max(float(raw.send_us[-1]), 1.0)
    part = np.minimum((raw.send_us / span * len(load.in_flight)).astype(np.int64), len(load.in_flight) - 1)
    busiest = part == int(np.argmax(load.in_flight))
    share_busiest = float(failed[busiest].mean()) if busiest.any() else 0.0
    share_elsewhere = float(failed[~busiest].mean()) if (~busiest).any() else 0.0
    biased = share_busiest > 2 * share_elsewhere and int(failed[busiest].sum()) >= 5
    bias = (
        " Most failed where the load was highest: the latencies left are those of survivors, too good."
        if biased
        else ""
    )
    messages = f" ({'; '.join(raw.failure_messages)})" if raw.failure_messages else ""
    return [
        Finding(
            "failed-requests",
            "warning",
            f"{number} of {len(raw)} requests failed, {without_chunk} of them without a single chunk{messages}.{bias}",
            {
                "failed": number,
                "without_chunk": without_chunk,
                "requests": len(raw),
                "share": number / len(raw),
                "share_in_busiest_fifth": share_busiest,
                "share_elsewhere": share_elsewhere,
                "survivor_bias": biased,
            },
            "None is measured. Those that had chunks stay in the replay as load, with output estimated from their "
            "time; those without are left out, as if refused."
            + (" Predict this run rather than fit on it, or record at a lower rate." if biased else ""),
        )
    ]


def _clocks(raw: RawRun) -> list[Finding]:
    """Findings about planned arrivals and real sends: other origins are harmless, a growing lag means a late client."""
    origin = float(raw.lag_us.min())
    lag = raw.lag_us - origin
    findings: list[Finding] = []
    if abs(origin) > 1e6:
        summary = f"arrival_time_us and send_time_us have different origins, {abs(origin) / 1e6:.0f} s apart."
        advice = "Harmless: only send times are used."
        findings.append(Finding("clock-origins-differ", "info", summary, {"offset_us": origin}, advice))
    late = float(np.quantile(lag, 0.99))
    gap = float(raw.send_us[-1]) / max(len(raw) - 1, 1)
    if late > max(20_000.0, gap):
        summary = f"The client sent late: 1 % of requests left {late / 1e3:.0f} ms or more behind their plan."
        evidence = {"lag_p99_us": late, "lag_max_us": float(lag.max()), "mean_gap_us": gap}
        advice = (
            "Send times are used, so the latencies hold; but the load was not the planned one. Use more client workers."
        )
        findings.append(Finding("late-sends", "warning", summary, evidence, advice))
    return findings


def _chunks(raw: RawRun, run: Run) -> list[Finding]:
    counted = run.ok & (raw.num_chunks > 0) & (run.output_tokens > 1)
    findings: list[Finding] = []
    if counted.any():
        chunks, tokens = raw.num_chunks[counted], run.output_tokens[counted]
        ratio = float(np.median(chunks / tokens))
        evidence: Evidence = {"chunks_per_token": ratio, "requests": int(counted.sum())}
        advice = "TPOT is taken as (E2E - TTFT) / (tokens - 1) and does not need chunks."
        if ratio > 1.5 or ratio < 0.75:
            summary = (
                f"The stream carried {ratio:.2f} chunks per output token, so gaps between chunks are not token times."
            )
            findings.append(Finding("chunks-not-tokens", "warning", summary, evidence, advice))
        elif np.median(chunks - tokens) == 1:
            summary = (
                "One chunk more than tokens: the closing usage chunk was counted, and it sets the last chunk's time."
            )
            findings.append(Finding("usage-chunk", "info", summary, evidence, "E2E is late by the time to that chunk."))
    bundled = run.ok & (run.output_tokens > 1) & (raw.e2e_us <= raw.ttft_us)
    if bundled.any():
        number = int(bundled.sum())
        summary = f"{number} requests of several tokens have their first and last chunk at the same time."
        advice = "Their TTFT is really E2E. Check that the client streams and that no proxy buffers."
        findings.append(Finding("bundled-chunks", "warning", summary, {"requests": number}, advice))
    return findings


def _next_experiment(run: Run, load: Load) -> list[Finding]:
    """Findings about what a fit cannot learn from this run, and which run it could learn it from."""
    if len(run) < FEWEST:
        summary = f"{len(run)} requests are few: no trend and no count can be judged by them."
        advice = "Record a few hundred requests or more."
        return [Finding("few-requests", "warning", summary, {"requests": len(run)}, advice)]
    computed = _computed(run)
    contrasts: list[str] = []
    length = run.prompt_tokens + run.output_tokens
    narrow = float(np.quantile(length, 0.95) / np.quantile(length, 0.05))
    if narrow < 1.5:
        contrasts.append("other lengths (one size cannot tell cost per request from cost per KV token)")
    hit_share = float((computed < run.prompt_tokens / 2).mean())
    if hit_share > 0.9:
        contrasts.append("unique prompts (nearly all prefill came from the cache)")
    low, high = float(load.in_flight.min()), float(load.in_flight.max())
    if high < 1.5 * low:
        contrasts.append("another request rate (one load cannot tell fixed step time from time per request)")
    if not contrasts:
        return []
    return [
        Finding(
            "next-experiment",
            "info",
            f"The run covers requests of {int(length.min())}-{int(length.max())} tokens, {low:.0f} to {high:.0f} in "
            f"flight, {100 * hit_share:.0f} % of prompts from the cache.",
            {
                "tokens_min": int(length.min()),
                "tokens_max": int(length.max()),
                "in_flight_low": low,
                "in_flight_high": high,
                "cached_prompt_share": hit_share,
            },
            f"To pin more coefficients down, fit it together with a run of {'; of '.join(contrasts)}.",
        )
    ]


def _computed(run: Run) -> Ints:
    """Prompt tokens that each request computes if every earlier prefix is still in the cache."""
    if not run.server.prefix_caching:
        return run.prompt_tokens
    block = run.server.block_size
    _, first = np.unique(run.prefix_group, return_index=True)
    repeats = run.prefix_group >= 0
    repeats[first] = False
    cached = np.minimum(run.prefix_tokens, run.prompt_tokens - 1) // block * block
    return run.prompt_tokens - np.where(repeats, cached, 0)
