"""From a recording to a run: its requests on a server, or its means where those are all that can be used."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from roofml.traces.aggregate_run import MEANS, AggregateRun, limited
from roofml.traces.finding import Finding
from roofml.traces.formats.lists import SEVERAL_TOKENS
from roofml.traces.limits import MOST_TIME_US, MOST_TOKENS
from roofml.traces.overview import Overview
from roofml.traces.raw import RawRun
from roofml.traces.recording import LoadSaid, Recording, Requests
from roofml.traces.request_times import Stamps, faults, judge_times, reordered, told
from roofml.traces.server import Server, ServerOverrides
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line

ORIGIN_US = 1e9
"""When the first request is taken to have been sent, where times are judged: a clock that reads 0 says nothing."""
REBUILT = 0.1
"""How much longer or shorter than it was a run may come out whose times of sending are rebuilt."""
BEHIND = 0.8
"""Share of the asked rate below which a server is slower than its load."""


def overview_of(recording: Recording) -> Overview:
    """What the recording says as a whole, with the means of its requests, or its own where those are not all."""
    each, said = recording.each, recording.aggregates
    means = {name: said[name] for name in MEANS if said.get(name, 0.0) > 0}
    if each is not None and int(each.ok.sum()) == recording.completed:
        means |= _means_of(each)
    return Overview(recording.format, recording.requests, recording.completed, means, recording.unfit)


def as_run(
    recording: Recording, server: Server, findings: Sequence[Finding], overrides: ServerOverrides
) -> RawRun | AggregateRun:
    """The requests of a recording on its server; its means where no request's times can be used.

    Raises InputError naming file and field where it holds what cannot be.
    """
    if recording.unfit == SEVERAL_TOKENS and server.settings.stream_interval > 1:
        recording = replace(recording, unfit=None)
    each = recording.each
    if each is not None:
        _check(recording, each)
        sends, found = _sends(recording, each)
        if sends is not None:
            return _raw_run(recording, each, sends, server, (*findings, *recording.findings, *found), overrides)
    return _aggregate_run(recording, server, (*findings, *recording.findings))


def _check(recording: Recording, each: Requests) -> None:
    """Raise InputError for arrays that no requests have."""
    sizes = {name: len(array) for name, array in vars(each).items() if len(array)}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"{recording.source}: {listed}: expected as many of each")
    for name in ("input_tokens", "server_input_tokens", "output_tokens", "cached_tokens"):
        counts: Ints = getattr(each, name)
        if len(counts) and not 0 <= counts.min() <= counts.max() <= MOST_TOKENS:
            row = int(np.argmax((counts < 0) | (counts > MOST_TOKENS)))
            expected = f"0 to {MOST_TOKENS} tokens"
            raise InputError(f"{recording.source}: request {row + 1}: {name} is {counts[row]}, expected {expected}")


def _sends(recording: Recording, each: Requests) -> tuple[Floats | None, list[Finding]]:
    """When the requests were sent, µs, as the file says or as the client must have; None where nobody can know."""
    timed = each.ok & np.isfinite(each.ttft_us) & np.isfinite(each.e2e_us)
    if not timed.any():
        return None, []
    if np.isfinite(each.send_us).any():
        return each.send_us, []
    load, requests = recording.load, len(each.ok)
    if load.requests_per_s is None or math.isinf(load.requests_per_s):
        limit = load.max_concurrency
        if limit is None and load.requests_per_s is None:
            return None, []
        if limit is None or limit >= requests:
            return np.zeros(requests), [_rebuilt(recording, "all were sent at once")]
        sends = closed_sends(np.where(timed, each.e2e_us, 0.0), limit)
        took = float(np.max(sends + np.where(timed, each.e2e_us, 0.0)))
        asked = recording.aggregates.get("duration_us", took)
        told_by = f"{limit} clients that each wait for their answer"
        if not abs(took / max(asked, 1.0) - 1) <= REBUILT:
            return None, [_not_rebuilt(told_by, took, asked)]
        return sends, [_rebuilt(recording, told_by)]
    return None, []


def closed_sends(e2e_us: Floats, clients: int) -> Floats:
    """When each request was sent, (requests,): the first of each client at 0, each other when the next answer came."""
    sends = np.zeros(len(e2e_us))
    ends: list[float] = []
    for place, took in enumerate(e2e_us.tolist()):
        sends[place] = heapq.heappop(ends) if len(ends) == clients else 0.0
        heapq.heappush(ends, float(sends[place]) + took)
    return sends


def _rebuilt(recording: Recording, how: str) -> Finding:
    return Finding(
        "sends-rebuilt",
        "corrected",
        f"The file has no times of sending; the client made {how}, which tells them.",
        {"requests": recording.requests},
        "They are rebuilt from the latencies. A newer client that writes them down is better.",
    )


def _not_rebuilt(how: str, took: float, asked: float) -> Finding:
    return Finding(
        "sends-unknown",
        "warning",
        f"The file has no times of sending, and {how} would have taken {took / 1e6:.1f} s, not {asked / 1e6:.1f} s.",
        {"rebuilt_us": took, "duration_us": asked},
        "The run is judged by its means alone.",
    )


def _raw_run(
    recording: Recording,
    each: Requests,
    sends: Floats,
    server: Server,
    findings: Sequence[Finding],
    overrides: ServerOverrides,
) -> RawRun:
    requests = len(each.ok)
    known = np.isfinite(sends)
    if not known.all():
        row = int(np.argmin(known))
        raise InputError(f"{recording.source}: request {row + 1}: no time of sending, and others have one")
    timed = np.isfinite(each.ttft_us) & np.isfinite(each.e2e_us)
    streamed = each.streamed if len(each.streamed) else np.ones(requests, np.bool_)
    warm_up = each.warm_up if len(each.warm_up) else np.zeros(requests, np.bool_)
    stamps = _stamps(each, sends - sends.min(), timed, streamed)
    found = faults(stamps)
    left_out, removed, refusal = judge_times(stamps, stamps.succeeded & streamed & ~warm_up, found)
    if refusal is not None:
        row, column, expected = refusal
        raise InputError(f"{recording.source}: request {row + 1}: {column}: expected {expected}")
    findings = [*findings, *told(found, np.arange(1, requests + 1), left_out, removed, "request")]
    kept = np.flatnonzero(~removed)
    order = kept[np.argsort(sends[kept], kind="stable")]
    findings += reordered(sends, "the time of sending")
    came = timed & ~left_out
    columns: dict[str, Any] = {
        "request_id": np.arange(requests),
        "send_us": sends - sends[kept].min(),
        "lag_us": np.zeros(requests),
        "input_tokens": each.input_tokens,
        "server_input_tokens": each.server_input_tokens,
        "output_tokens": each.output_tokens,
        "num_chunks": each.num_chunks if len(each.num_chunks) else np.zeros(requests, np.int64),
        "prefix_group": np.full(requests, -1),
        "prefix_length": np.zeros(requests, np.int64),
        "ttft_us": np.where(came, each.ttft_us, np.nan),
        "e2e_us": np.where(came, each.e2e_us, np.nan),
        "ok": each.ok,
        "timed": each.ok & came | ~each.ok,
        "streamed": streamed,
        "warm_up": warm_up,
        "failed_after_us": np.where(~each.ok & np.isfinite(each.e2e_us), each.e2e_us, np.nan),
        **({"aside": each.aside} if len(each.aside) else {}),
        **({"prompt": each.prompt} if len(each.prompt) else {}),
        **({"cached_tokens": each.cached_tokens} if len(each.cached_tokens) else {}),
    }
    return RawRun(
        name=recording.name,
        source=recording.source,
        server=server,
        generator=recording.generator,
        output_tokens_override=overrides.output_tokens,
        deadline_s=overrides.deadline_s,
        findings=tuple(findings),
        clients=_clients(recording.load, requests),
        overview=overview_of(recording),
        **{name: array[order] for name, array in columns.items()},
    )


def _clients(load: LoadSaid, requests: int) -> int:
    """The clients of a closed loop; 0 where requests came by a clock."""
    limit = load.max_concurrency
    at_once = load.requests_per_s is None or math.isinf(load.requests_per_s)
    return limit if limit is not None and at_once and limit < requests else 0


def _stamps(each: Requests, sends: Floats, timed: Bools, streamed: Bools) -> Stamps:
    """The times as whole µs, for their judgement; 0 where there is none."""

    def whole(times: Floats, there: Bools) -> Ints:
        clock = np.clip(np.where(there, ORIGIN_US + sends + times, 0.0), 0.0, float(MOST_TIME_US))
        return np.rint(clock).astype(np.int64)

    everywhere = np.ones(len(sends), np.bool_)
    return Stamps(
        send=whole(np.zeros(len(sends)), everywhere),
        first=whole(each.ttft_us, timed),
        last=whole(each.e2e_us, timed),
        succeeded=each.ok & timed,
        streamed=streamed,
        prompt=np.maximum(each.input_tokens, each.server_input_tokens),
        output=each.output_tokens,
        planned=np.zeros(len(sends), np.int64),
    )


def _aggregate_run(recording: Recording, server: Server, findings: Sequence[Finding]) -> AggregateRun:
    each, load, completed = recording.each, recording.load, recording.completed
    measured = {name: value for name, value in recording.aggregates.items() if math.isfinite(value) and value > 0}
    whole = each is not None and int(each.ok.sum()) == completed
    if each is not None and (whole or not set(MEANS) & set(measured)):
        measured = {**_means_of(each), **measured}
    if not set(MEANS) & set(measured):
        raise InputError(f"{recording.source}: {for_line(recording.name)}: no latency, neither of requests nor means")
    prompts, outputs = of_mean(load.input_tokens, completed), of_mean(load.output_tokens, completed)
    generator = recording.generator
    in_turn = generator.prompts if generator is not None and generator.prompts is not None else 0
    prompt = np.arange(len(prompts)) % in_turn if 0 < in_turn < len(prompts) else np.zeros(0, np.int64)
    if in_turn and len(prompt):
        findings = [*findings, _in_turn(in_turn, str(generator and generator.source))]
    if each is not None and whole:
        counted = np.where(each.server_input_tokens > 0, each.server_input_tokens, each.input_tokens)
        done = each.ok & (each.output_tokens > 0) & (counted > 0)
        if int(done.sum()) == completed:
            prompts, outputs = counted[done], each.output_tokens[done]
            prompt = each.prompt[done] if len(each.prompt) else prompt
    overview, behind = overview_of(recording), _behind(load, measured)
    findings = [*findings, _means_alone(each is not None)]
    if completed < recording.requests:
        findings.append(_survivors(recording))
        reason = f"{recording.requests - completed} of {recording.requests} requests failed: its means are survivors'"
        overview = replace(overview, unfit=overview.unfit or reason)
    if behind:
        findings.append(_overload(load, measured))
    return AggregateRun(
        name=recording.name,
        server=server,
        overview=overview,
        load=load,
        prompt_tokens=prompts,
        output_tokens=outputs,
        measured=measured,
        prompt=prompt,
        findings=tuple(findings),
        saturated=behind,
        source=recording.source,
    )


def _means_alone(lists: bool) -> Finding:
    what = "no time of sending, which nobody can rebuild" if lists else "none of single requests"
    return Finding(
        "means-alone",
        "warning",
        f"Of its latencies the means and percentiles can be used alone: the file has {what}.",
        {},
        "It can be judged, and says little to a fit. Write requests down one by one (vllm bench serve: "
        "--save-detailed), with a client that notes when each was sent.",
    )


def _in_turn(prompts: int, source: str) -> Finding:
    return Finding(
        "repeated-prompts",
        "corrected",
        f"{prompts} prompts were sent over and over, {source} says.",
        {"period": prompts},
        "After its first time each is taken from the prefix cache.",
    )


def _survivors(recording: Recording) -> Finding:
    failed = recording.requests - recording.completed
    return Finding(
        "failed-requests",
        "warning",
        f"{failed} of {recording.requests} requests failed; the means are of the others.",
        {"failed": failed, "requests": recording.requests, "share": failed / max(recording.requests, 1)},
        "Slow requests that fail hide how slow they were. The run is not fitted on.",
    )


def _overload(load: LoadSaid, measured: Mapping[str, float]) -> Finding:
    asked, served = load.requests_per_s or 0.0, measured["requests_per_s"]
    return Finding(
        "saturated",
        "warning",
        f"{asked:g} requests a second were asked for and {served:.3g} served: the queue grew until the end.",
        {"asked_per_s": asked, "served_per_s": served},
        f"Its latencies are mostly queue. For a fit record one below {0.8 * served:.3g} requests a second.",
    )


def _means_of(each: Requests) -> Mapping[str, float]:
    """Means of the requests that succeeded, µs, of those kinds that the file has of each."""
    gaps = np.where(each.output_tokens > 1, each.output_tokens - 1, np.nan)
    kinds = {"ttft": each.ttft_us, "tpot": (each.e2e_us - each.ttft_us) / gaps, "e2e": each.e2e_us}
    found = {kind: values[each.ok & np.isfinite(values)] for kind, values in kinds.items()}
    return {f"{kind}_mean": float(values.mean()) for kind, values in found.items() if len(values)}


def of_mean(mean: float | None, requests: int) -> Ints:
    """As many whole numbers, whose mean is that; none where it is not known. Shape (requests,)."""
    if mean is None or not 1 <= mean <= MOST_TOKENS:
        return np.zeros(0, np.int64)
    until = np.floor(mean * np.arange(requests + 1) + 0.5).astype(np.int64)
    return np.diff(until)


def _behind(load: LoadSaid, measured: Mapping[str, float]) -> bool:
    """Whether the server finished fewer requests a second than it was asked to: its queue grew until the end."""
    asked, served = load.requests_per_s, measured.get("requests_per_s")
    if asked is None or math.isinf(asked) or served is None or limited(load, measured):
        return False
    return served < BEHIND * asked
