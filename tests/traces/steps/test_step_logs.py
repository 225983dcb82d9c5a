"""vLLM's iteration log and Dynamo's forward-pass metrics as tables of steps: times, contexts, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from roofml.traces.steps import is_steps, read_steps
from roofml.traces.steps.cycles import cycles
from roofml.traces.steps.sampling import sampling, sampling_findings
from roofml.traces.steps.table import SampledSteps
from roofml.util.errors import InputError, NotSupportedError

START = datetime(2026, 12, 22, 21, 44, 40)


def iteration(number: int, at_s: float, elapsed_ms: float, decodes: int = 20, prompt: int = 0, more: str = "") -> str:
    stamp = (START + timedelta(seconds=at_s)).strftime("%m-%d %H:%M:%S")
    context = f"{int(prompt > 0)} context requests, {prompt} context tokens"
    made = f"{decodes} generation requests, {decodes} generation tokens"
    return (
        f"(EngineCore_DP0 pid=2010410) INFO {stamp} [core.py:349] Iteration({number}): {context}, {made}, "
        f"iteration elapsed time: {elapsed_ms:.2f} ms{more}\n"
    )


def log(steps_us: Sequence[float], host_us: float, pauses: dict[int, float] | None = None, **more: Any) -> str:
    """Steps that took so long, of which the elapsed time lacks the host's; the server idled before some, s."""
    now, lines = 0.3, ["INFO 12-22 21:44:30 [api_server.py:1] vLLM starts\n"]
    for number, took in enumerate(steps_us):
        pause = (pauses or {}).get(number, 0.0)
        now += pause + took / 1e6
        fresh = {"decodes": 0, "prompt": 64} if pause else {}
        lines.append(iteration(500 + number, now, max(took - host_us, 0) / 1e3, **fresh, **more))
    return "".join(lines)


def codes(steps: SampledSteps) -> dict[str, str]:
    return {finding.code: finding.severity for finding in steps.findings}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("host_us", [0.0, 700.0, 3000.0])
@pytest.mark.parametrize("pauses", [{}, {700: 7.3, 1500: 0.4}])
def test_the_clock_of_the_log_tells_what_elapsed_times_lack(
    tmp_path: Path, host_us: float, pauses: dict[int, float]
) -> None:
    took = np.random.default_rng(0).uniform(9_000, 13_000, 2500)
    path = written(tmp_path / "server.log", log(took.tolist(), host_us, pauses))
    assert is_steps(path)
    steps = read_steps(path)
    found = cycles(steps, ahead=1)
    assert found.first.tolist() == steps.id.tolist() == list(range(500, 3000))
    assert found.time_us == pytest.approx(took, abs=0.004 * took.mean())
    assert steps.prefill_requests.sum() == len(pauses)
    ends = np.cumsum(took) + 1e6 * np.cumsum([pauses.get(number, 0.0) for number in range(2500)])
    # A pause of less than a second cannot be seen, and one that can to a second.
    assert steps.start_us == pytest.approx(ends - took - (ends[0] - took[0]), abs=1.5e6)
    assert "host-time-added" in codes(steps)


def test_steps_whose_elapsed_time_is_0_took_the_hosts_time(tmp_path: Path) -> None:
    """Async scheduling: a step that ends before the host asks for it shows 0."""
    took = np.where(np.arange(3000) % 2 == 0, 2_000.0, 9_000.0)
    steps = read_steps(written(tmp_path / "server.log", log(took.tolist(), 2_000.0)))
    assert codes(steps) == {"host-time-added": "corrected"}
    assert steps.own_us is not None
    assert steps.own_us == pytest.approx(took, rel=0.02)


def test_zeros_without_a_clock_are_refused(tmp_path: Path) -> None:
    took = [2_000.0, 9_000.0] * 50
    text = log(took, 2_000.0)
    with pytest.raises(InputError, match="50 of 100 steps took 0 ms"):
        read_steps(written(tmp_path / "short.log", text))
    without = "".join(line.split("[core.py:349] ")[-1] for line in text.splitlines(keepends=True))
    with pytest.raises(InputError, match="0 ms"):
        read_steps(written(tmp_path / "bare.log", without))


def test_a_short_log_is_read_as_it_stands_and_says_what_it_lacks(tmp_path: Path) -> None:
    steps = read_steps(written(tmp_path / "server.log", log([10_990.0, 10_950.0, 10_790.0], 0.0)))
    assert steps.own_us is not None
    assert steps.own_us.tolist() == pytest.approx([10_990, 10_950, 10_790])
    assert codes(steps) == {"host-time-unknown": "warning"}


def test_other_prefixes_colours_and_the_newer_form_read_alike(tmp_path: Path) -> None:
    took = [10_000.0] * 700
    plain = read_steps(written(tmp_path / "a.log", log(took, 500.0)))
    newer = log(took, 500.0, more=", GPU KV cache usage: 12.5%").replace(
        "(EngineCore_DP0 pid=2010410) ", "Engine 000: "
    )
    newer = newer.replace("INFO", "\x1b[32mINFO\x1b[0m").replace("12-22", "2026-12-22")
    other = read_steps(written(tmp_path / "b.log", newer))
    assert other.own_us is not None
    assert plain.own_us is not None
    assert other.own_us == pytest.approx(plain.own_us)


def test_dummies_and_broken_lines_are_left_out_and_told(tmp_path: Path) -> None:
    lines = log([10_000.0] * 700, 500.0).splitlines(keepends=True)
    lines[10] = lines[10].replace(" ms\n", " ms (dummy)\n")
    lines[20] = lines[20][:120] + "\n" + lines[20][120:]
    steps = read_steps(written(tmp_path / "server.log", "".join(lines)))
    assert len(steps) == 698
    assert codes(steps) | {"broken-lines": "warning", "dummy-steps": "info"} == codes(steps)


IMPOSSIBLE = [
    (iteration(1, 0, 10) + iteration(1, 0, 10), InputError, "line 2: id is 1, expected more than on the line before"),
    (iteration(9, 0, 10) + iteration(1, 0, 10), InputError, "line 2: id is 1"),
    (
        iteration(1, 0, 10) + iteration(2, 0, 10).replace("20 generation tokens", "40 generation tokens"),
        NotSupportedError,
        "line 2: generation tokens is 40.*speculative",
    ),
    (
        iteration(1, 0, 10) + iteration(2, 0, 10).replace("0 context tokens", "7 context tokens"),
        InputError,
        "line 2: context tokens is 7",
    ),
    (
        iteration(1, 0, 10) + iteration(2, 0, 10).replace("_DP0", "_DP1"),
        NotSupportedError,
        r"2 engines \(0, 1\), expected one",
    ),
    (iteration(1, 0, 10), InputError, "1 lines of iterations"),
    (iteration(1, 0, 10) + iteration(2, 0, 10, 10**15 - 1).replace(" 9", " 99"), InputError, "2"),
]


@pytest.mark.parametrize(("text", "kind", "message"), IMPOSSIBLE, ids=[case[2][:30] for case in IMPOSSIBLE])
def test_what_no_engine_logs_is_refused(tmp_path: Path, text: str, kind: type[InputError], message: str) -> None:
    path = written(tmp_path / "server.log", text)
    with pytest.raises(kind, match=message) as caught:
        read_steps(path)
    assert str(path) in str(caught.value)


def test_elapsed_times_that_the_clock_contradicts_are_refused(tmp_path: Path) -> None:
    """Lines of two servers in one file, say, or of another unit."""
    lines = [iteration(number, 0.01 * number, 20.0) for number in range(3000)]
    with pytest.raises(InputError, match="log's clock advanced by only"):
        read_steps(written(tmp_path / "server.log", "".join(lines)))


# Dynamo


def message(number: int, wall_s: float, decodes: int = 4, context: int = 4000, **more: Any) -> dict[str, Any]:
    scheduled = {
        "num_prefill_requests": 0,
        "sum_prefill_tokens": 0,
        "var_prefill_length": 0.0,
        "sum_prefill_kv_tokens": 0,
        "num_decode_requests": decodes,
        "sum_decode_kv_tokens": context,
        "var_decode_kv_tokens": 0.0,
    }
    return {
        "version": 1,
        "worker_id": "worker-0",
        "dp_rank": 0,
        "counter_id": number,
        "wall_time": wall_s,
        "scheduled_requests": scheduled | more,
        "queued_requests": {"num_prefill_requests": 2, "num_decode_requests": 1},
    }


MESSAGES = [message(number, 0.01 + 0.0001 * number, context=4000 + 4 * number) for number in range(200)]


def packed(value: object) -> bytes:
    content = msgpack.packb(value)
    assert content is not None
    return content


def as_msgpack(messages: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(packed(each) for each in messages)


def as_trace(messages: Sequence[dict[str, Any]], pace: float = 1.0) -> bytes:
    """As Dynamo's own sink writes it."""
    now, lines = 1_790_000_000_000.0, list[bytes]()
    for each in messages:
        now += 1e3 * each["wall_time"] * pace
        line = {"schema": "dynamo.fpm.trace.v1", "capture_mode": "full", "observed_at_unix_ms": round(now), "fpm": each}
        lines.append(json.dumps(line).encode() + b"\n")
    return b"".join(lines)


def as_lines(messages: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in messages)


FORMS: dict[str, Callable[[Sequence[dict[str, Any]]], bytes]] = {
    "msgpack": as_msgpack,
    "msgpack list": lambda messages: packed(list(messages)),
    "lines": as_lines,
    "trace": as_trace,
    "exporter": lambda messages: as_lines(
        [{"sequence": 1, "published_at_ms": 5, "metrics": each} for each in messages]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_messages_reads_alike(tmp_path: Path, form: str) -> None:
    path = tmp_path / "fpm"
    path.write_bytes(FORMS[form](MESSAGES))
    assert is_steps(path)
    steps = read_steps(path)
    found = cycles(steps, ahead=1)
    assert found.first.tolist() == list(range(200))
    assert found.time_us == pytest.approx([1e6 * each["wall_time"] for each in MESSAGES])
    assert steps.snapshot is not None
    assert steps.snapshot.decode_context.tolist() == [4000 + 4 * number for number in range(200)]
    assert (steps.waiting == 2).all()
    assert (steps.preempted == 1).all()


def test_contexts_beyond_the_first_thousand_are_those_of_requests_with_that_spread(tmp_path: Path) -> None:
    contexts = np.random.default_rng(1).normal(1100, 300, 4000).clip(0)
    many = message(1, 0.02, 4000, int(contexts.sum()), var_decode_kv_tokens=float(contexts.var()))
    even = message(2, 0.02, 4, 8000)
    path = tmp_path / "fpm.msgpack"
    path.write_bytes(as_msgpack([many, even]))
    snapshot = read_steps(path).snapshot
    assert snapshot is not None
    assert snapshot.decode_beyond[0] == pytest.approx(np.maximum(contexts - 1024, 0).sum(), rel=0.01)
    assert snapshot.decode_beyond[1] == 4 * (2000 - 1024)


def test_pairs_of_prefills_are_known_of_one_and_of_several_without_context(tmp_path: Path) -> None:
    one = message(1, 0.02, num_prefill_requests=1, sum_prefill_tokens=100, sum_prefill_kv_tokens=50)
    new = [100, 300]
    two = message(2, 0.02, num_prefill_requests=2, sum_prefill_tokens=400, var_prefill_length=float(np.var(new)))
    hits = message(3, 0.02, num_prefill_requests=2, sum_prefill_tokens=400, sum_prefill_kv_tokens=64)
    path = tmp_path / "fpm.msgpack"
    path.write_bytes(as_msgpack([one, two, hits]))
    snapshot = read_steps(path).snapshot
    assert snapshot is not None
    assert snapshot.prefill_pairs[0] == 100 * (50 + 101 / 2)
    assert snapshot.prefill_pairs[1] == sum(tokens * (tokens + 1) / 2 for tokens in new)
    assert np.isnan(snapshot.prefill_pairs[2])


def test_an_engine_that_goes_idle_makes_no_cycle_of_it(tmp_path: Path) -> None:
    idle = message(1, 0.0, 0, 0)
    path = tmp_path / "fpm.msgpack"
    path.write_bytes(as_msgpack([message(0, 0.01), idle, message(2, 0.01), message(5, 0.01)]))
    steps = read_steps(path)
    assert cycles(steps, ahead=0).first.tolist() == [0, 2, 5]
    assert codes(steps) == {"steps-not-sent": "info", "wall-time-unchecked": "info"}


@pytest.mark.parametrize(("pace", "told"), [(1.0, False), (1.02, False), (0.5, True), (1.3, True)])
def test_wall_times_that_the_arrivals_contradict_are_told(tmp_path: Path, pace: float, told: bool) -> None:
    path = tmp_path / "fpm.jsonl"
    path.write_bytes(as_trace(MESSAGES, pace))
    assert ("wall-time-doubtful" in codes(read_steps(path))) == told


BAD = [
    (as_msgpack(MESSAGES)[:-7], "message 200: the file is cut short"),
    (as_lines(MESSAGES)[:-7], "line 200: not valid JSON.*cut short"),
    (as_msgpack([MESSAGES[0], MESSAGES[0]]), "message 2: counter_id is 0, expected more than 0"),
    (as_lines([MESSAGES[5], MESSAGES[2]]), "line 2: counter_id is 2"),
    (as_lines([MESSAGES[0] | {"version": 2}, MESSAGES[1]]), "line 1: version is 2, expected 1"),
    (as_lines([MESSAGES[0], MESSAGES[1] | {"dp_rank": 1}]), "2 engines .*expected one"),
    (as_lines([MESSAGES[0], MESSAGES[1] | {"wall_time": -1}]), "line 2: wall_time is -1"),
    (as_lines([MESSAGES[0], MESSAGES[1] | {"wall_time": "x"}]), "line 2: wall_time is 'x', expected a number"),
    (as_lines([MESSAGES[0], message(1, 0.1, num_prefill_requests=3)]), "line 2: sum_prefill_tokens is 0"),
    (as_lines([MESSAGES[0], message(1, 0.1, num_decode_requests=1.5)]), "line 2: num_decode_requests is 1.5"),
    (as_lines([MESSAGES[0], message(1, 1e300)]), "line 2: wall_time is .*300, expected a time"),
    (as_msgpack(MESSAGES[:1]), "1 messages, expected at least 2"),
    (
        as_msgpack(MESSAGES[:2]) + b"\xdb\xff\xff\xff\xff",
        "message 3: not valid msgpack|message 3: the file is cut short",
    ),
    (as_msgpack(MESSAGES[:2]) + b"\xdf\xff\xff\xff\xff", "message 3: not valid msgpack"),
    (b"\xdd\xff\xff\xff\xff" + as_msgpack(MESSAGES), "message 201: the file is cut short"),
]


@pytest.mark.parametrize(("content", "expected"), BAD, ids=range(len(BAD)))
def test_messages_that_no_engine_sends_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "fpm"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        read_steps(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_with_times_of_their_own_are_reported_without_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "fpm.jsonl"
    path.write_bytes(as_trace(MESSAGES))
    steps = read_steps(path)
    found = {finding.code for finding in sampling_findings(steps, sampling(steps))}
    assert "duration-not-step-time" not in found
    assert {"sampling", "contexts"} <= found
