"""Reader: the lines that vLLM logs with `--enable-logging-iteration-details`, one a step, in its ordinary log.

    INFO 12-22 21:44:40 [core.py:349] Iteration(515): 0 context requests, 0 context tokens, 20 generation requests, 20
    generation tokens, iteration elapsed time: 10.99 ms

A context request has made no token yet. The elapsed time is what the engine waited for the step's result: what the host
did before and after it is not in it, and under async scheduling the step ran meanwhile, so that a short one shows 0
(vllm #35072). A step is as much longer in either case: GPU and host take turns in the first, and overlap in the second.
So a step took its elapsed time and `host_us`, one number for the log, from its own clock: over seconds in which the
server was never idle, the clock advanced by that much more a step. The clock shows whole seconds; the seconds' changes
place steps to within one step.
Source: vllm/v1/engine/core.py, log_iteration_details, and v1/utils.py, compute_iteration_details (0.15 to 0.22).
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.limits import MOST_REQUESTS
from roofml.traces.steps.table import FEWEST, MOST, SampledSteps
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, first_bytes, is_folder, open_file, refuse

HEAD = 65_536
"""Bytes at the start, and at the end, of a file by which it is told: a server logs much before its first step."""
LONGEST_LINE = 1_000_000
LINE = re.compile(
    rb"Iteration\((\d{1,15})\): (\d{1,15}) context requests, (\d{1,15}) context tokens, "
    rb"(\d{1,15}) generation requests, (\d{1,15}) generation tokens, "
    rb"iteration elapsed time: (\d{1,12}(?:\.\d{1,9})?) ms(?:, GPU KV cache usage: "
    rb"(\d{1,3}(?:\.\d{1,9})?)%)?( \(dummy\)|\(dummy\))?"
)
STAMP = re.compile(rb"(?:(\d{4})-)?(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)")
ENGINE = re.compile(rb"EngineCore_DP(\d{1,6})|Engine (\d{1,6}): ")
ANSI = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
COLUMNS = ("id", "context_requests", "context_tokens", "generation_requests", "generation_tokens")
IDLE_S = 2.0
"""Seconds between two lines, beyond the step's own time, in which the server must have idled: one more than the clock's
resolution."""
LEAST_CHANGES = 5
"""Changes of the clock's second in a busy stretch from which the host's time can be told."""
MOST_BEYOND = 0.05
"""Share of the elapsed times by which the log's clock may have advanced less: what rounding makes of seconds."""


@dataclass
class _Lines:
    """What the lines say, as far as they were read."""

    columns: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in COLUMNS})
    lines: array[int] = field(default_factory=lambda: array("q"))
    elapsed_ms: array[float] = field(default_factory=lambda: array("d"))
    stamps: array[float] = field(default_factory=lambda: array("d"))
    """Seconds of a year's clock; NaN for a line without one."""
    engines: set[bytes] = field(default_factory=set[bytes])
    dummies: int = 0
    broken: int = 0
    """Lines that begin as one of a step does, and do not go on so."""


def detect(path: Path) -> bool:
    """Whether `path` is a log with lines of iterations, by its beginning or its end."""
    if LINE.search(first_bytes(path, HEAD)):
        return True
    return LINE.search(_last_bytes(path)) is not None


def _last_bytes(path: Path) -> bytes:
    """The end of a file; nothing of a folder, of what is compressed, or of what cannot be read."""
    try:
        if is_folder(path):
            return b""
        with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
            size = path.stat().st_size
            if size <= HEAD:
                return b""
            file.seek(size - HEAD)
            return file.read(HEAD)
    except (OSError, ValueError, InputError):
        return b""


def read(path: Path) -> SampledSteps:
    """The steps in a log. Raises InputError naming file and line for steps that no engine can have logged."""
    lines = _lines(path)
    if len(lines.lines) < FEWEST:
        raise InputError(f"{path}: {len(lines.lines)} lines of iterations, expected at least {FEWEST}")
    if len(lines.engines) > 1:
        names = ", ".join(sorted(name.decode() for name in lines.engines)[:5])
        raise NotSupportedError(
            f"{path}: iterations of {len(lines.engines)} engines ({names}), expected one: data parallelism is not "
            "modelled"
        )
    places: Ints = np.array(lines.lines, np.int64)
    columns: dict[str, Ints] = {name: np.array(values, np.int64) for name, values in lines.columns.items()}
    _check(path, columns, places)
    elapsed: Floats = 1e3 * np.array(lines.elapsed_ms, np.float64)
    stamps: Floats = np.array(lines.stamps, np.float64)
    host_us, findings = _host_us(path, columns, elapsed, stamps)
    own = elapsed + host_us
    zero: Ints = np.zeros(len(places), np.int64)
    requests = columns["context_requests"] + columns["generation_requests"]
    steps = SampledSteps(
        name=str(path),
        id=columns["id"],
        start_us=_starts(own, stamps),
        call_us=elapsed,
        prefill_requests=columns["context_requests"],
        decode_requests=columns["generation_requests"],
        prefill_tokens=columns["context_tokens"],
        running=requests,
        waiting=zero,
        finished=zero,
        preempted=zero,
        blocks_total=zero,
        blocks_free=zero,
        own_us=np.where(own > 0, own, np.nan),
    )
    return replace(steps, findings=(*findings, *_told(lines, len(places))))


def _lines(path: Path) -> _Lines:
    found = _Lines()
    try:
        with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if b"Iteration(" in line:
                    _add(found, number, ANSI.sub(b"", line) if b"\x1b" in line else line)
                    if len(found.lines) > MOST_REQUESTS:
                        raise InputError(f"{path}: line {number}: more than {MOST_REQUESTS} steps")
    except OSError as error:
        refuse(path, error)
    return found


def _add(found: _Lines, number: int, line: bytes) -> None:
    match = LINE.search(line)
    if match is None:
        found.broken += 1
        return
    if match[8]:
        found.dummies += 1
        return
    for name, value in zip(COLUMNS, match.groups()[:5], strict=True):
        found.columns[name].append(int(value))
    found.lines.append(number)
    found.elapsed_ms.append(float(match[6]))
    stamp = STAMP.search(line, 0, match.start())
    found.stamps.append(_seconds(stamp) if stamp is not None else np.nan)
    engine = ENGINE.search(line, 0, match.start())
    found.engines.add((engine[1] or engine[2]).lstrip(b"0") or b"0" if engine is not None else b"0")


def _seconds(stamp: re.Match[bytes]) -> float:
    """A date and time as seconds. vLLM's have no year; any with a 29th of February does."""
    year, month, day, hour, minute, second = (int(part) if part else 2024 for part in stamp.groups())
    try:
        return (datetime(year, month, day, hour, minute, min(second, 59)) - datetime(2024, 1, 1)).total_seconds()
    except ValueError:
        return np.nan


def _check(path: Path, columns: dict[str, Ints], places: Ints) -> None:
    """Raise InputError for what no scheduler forms."""

    def refuse_where(wrong: Bools, name: str, expected: str, kind: type[InputError] = InputError) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            found = f"{name.replace('_', ' ')} is {columns[name][row]}"
            raise kind(f"{path}: line {places[row]}: {found}, expected {expected}")

    for name, values in columns.items():
        refuse_where(values > MOST, name, f"at most {MOST}")
    back = np.concatenate(([False], np.diff(columns["id"]) <= 0))
    refuse_where(back, "id", "more than on the line before: the steps of one server, in the order they ran")
    requests, tokens = columns["context_requests"], columns["context_tokens"]
    wrong = (tokens < requests) | ((tokens > 0) & (requests == 0))
    refuse_where(wrong, "context_tokens", "at least one for each context request and no others")
    made, decodes = columns["generation_tokens"], columns["generation_requests"]
    refuse_where(made < decodes, "generation_tokens", "one a request")
    refuse_where(
        made > decodes, "generation_tokens", "one a request: speculative decoding is not modelled", NotSupportedError
    )


def _host_us(
    path: Path, columns: dict[str, Ints], elapsed: Floats, stamps: Floats
) -> tuple[float, tuple[Finding, ...]]:
    """(time of a step that its elapsed time lacks, µs, findings)."""
    zeros = int((elapsed == 0).sum())
    slope = _slope(columns, elapsed, stamps)
    mean = float(elapsed.mean())
    if slope is None:
        if zeros:
            raise InputError(
                f"{path}: {zeros} of {len(elapsed)} steps took 0 ms (vllm #35072), and the log's clock cannot tell how "
                f"long they took: expected time stamps over {LEAST_CHANGES} busy seconds, or --no-async-scheduling"
            )
        summary = "The log's clock does not tell what a step took beyond its elapsed time."
        advice = "The elapsed time is taken, which lacks what the host did between steps: a per cent or several."
        return 0.0, (Finding("host-time-unknown", "warning", summary, {"mean_elapsed_us": mean}, advice),)
    if slope < -MOST_BEYOND * mean:
        raise InputError(
            f"{path}: elapsed times of {mean / 1e3:.3f} ms a step on average, but the log's clock advanced by only "
            f"{(mean + slope) / 1e3:.3f} ms: expected elapsed times of one engine's steps"
        )
    host = max(slope, 0.0)
    kind = "corrected" if host > 0.01 * mean or zeros else "info"
    summary = f"By the log's clock a step took {host / 1e3:.3f} ms more than its elapsed time, {mean / 1e3:.3f} ms."
    if zeros:
        summary += f" {zeros} of {len(elapsed)} elapsed times are 0 (vllm #35072)."
    evidence = {"host_us": round(host, 1), "mean_elapsed_us": round(mean, 1), "zeros": zeros}
    advice = "That is the host's time, and what a step ran ahead under async scheduling; it is added to every step."
    return host, (Finding("host-time-added", kind, summary, evidence, advice),)


def _slope(columns: dict[str, Ints], elapsed: Floats, stamps: Floats) -> float | None:
    """By how much the clock advanced more than the elapsed times, µs a step; None where the log cannot tell.

    Least squares over the lines on which the second changes, all stretches between pauses with one slope.
    """
    if not np.isfinite(stamps).any():
        return None
    after, number = np.cumsum(elapsed) / 1e6, np.arange(len(elapsed), dtype=np.float64)
    gap = np.diff(stamps) - elapsed[1:] / 1e6
    # A step without decodes may follow a pause of any length, and lines may be missing.
    fresh = (columns["generation_requests"][1:] == 0) | (np.diff(columns["id"]) > 1)
    pause = fresh | (gap > IDLE_S) | ~np.isfinite(gap) | (gap < -IDLE_S - 1)
    stretch = np.concatenate(([0], np.cumsum(pause)))
    changed = np.concatenate(([False], (np.diff(stamps) > 0) & ~pause))
    rows = np.flatnonzero(changed)
    of = stretch[rows]
    many = np.bincount(of, minlength=int(stretch[-1]) + 1)
    rows = rows[many[of] >= LEAST_CHANGES]
    if not len(rows):
        return None
    _, group, counts = np.unique(stretch[rows], return_inverse=True, return_counts=True)

    def centred(values: Floats) -> Floats:
        return values - (np.bincount(group, values) / counts)[group]

    x, y = centred(number[rows]), centred(stamps[rows] - after[rows])
    power = float((x**2).sum())
    return 1e6 * float((x * y).sum()) / power if power > 0 else None


def _starts(own: Floats, stamps: Floats) -> Floats:
    """When each step began, µs from the first: one after another, later where the clock shows a pause."""
    ends = np.cumsum(own)
    if not np.isfinite(stamps).all():
        return ends - own - (ends[0] - own[0])
    # A step ended in the second of its line: what the sum of times is behind of that is time the server idled.
    clock = 1e6 * (stamps - stamps[0])
    idled = np.maximum.accumulate(np.maximum(clock - ends - 1e6, 0.0))
    ends = ends + idled
    starts = ends - own
    return np.maximum.accumulate(starts - starts[0]) + 1e-3 * np.arange(len(starts), dtype=np.float64)


def _told(lines: _Lines, steps: int) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    if lines.broken:
        findings.append(
            Finding(
                "broken-lines",
                "warning",
                f"{lines.broken} lines of iterations are broken, beside {steps} that are whole.",
                {"broken": lines.broken, "steps": steps},
                "They are left out: write the server's log to a file, not through a terminal that wraps it.",
            )
        )
    if lines.dummies:
        findings.append(
            Finding(
                "dummy-steps",
                "info",
                f"{lines.dummies} iterations were dummies, which an engine without requests runs beside the others.",
                {"dummies": lines.dummies},
                "They are left out.",
            )
        )
    return tuple(findings)
