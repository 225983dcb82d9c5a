"""Reader: a plain CSV of requests, for every tool that has no reader of its own.

One row a request, the first line names the columns, in any order. The name of a time ends in its unit: `_s`, `_ms`,
`_us` or `_ns`. Needed are `output_tokens` and, of each request, either `ttft` and `e2e`, measured from its sending, or
`first_token` and `last_token`, on the clock of `send`. The others are in `COLUMNS`; any further column is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roofml.traces.csv_table import Table, read_table
from roofml.traces.finding import Finding
from roofml.traces.formats.documents import run_name
from roofml.traces.formats.peek import peek
from roofml.traces.limits import MOST_REQUESTS, MOST_TIME_US, MOST_TOKENS
from roofml.traces.recording import Facts, LoadSaid, Recording, Requests
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError

UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Ending -> µs."""
TIMES = {
    "send": "when the request was sent, on any clock; without it `concurrency` must be there",
    "ttft": "from the sending to the first token",
    "e2e": "from the sending to the last token",
    "first_token": "instead of `ttft`: when the first token came, on the clock of `send`",
    "last_token": "instead of `e2e`: when the last token came, on the clock of `send`",
}
COUNTS = {
    "input_tokens": "tokens of the prompt",
    "output_tokens": "tokens of the answer",
    "cached_tokens": "prompt tokens that the server found in its cache, as it said",
    "concurrency": "clients that each wait for their answer before they send again; the same in every row",
}
WORDS = {
    "request_id": "any text, different in each row",
    "ok": "`true` or `false`, `1` or `0`; without it a request succeeded that has no `error` and both times",
    "error": "why the request failed; empty: it did not",
    "prompt": "any text: requests with the same text had the same prompt",
    "warm_up": "`true` or `false`: sent before the run, to warm the server up",
    "model": "the model that was asked, the same in every row",
}
COLUMNS = {**TIMES, **COUNTS, **WORDS}
"""Column, a time without its unit -> what it holds."""
TRUTHS = {"true": True, "1": True, "false": False, "0": False}
UNKNOWN_SEND = "send is missing and so is concurrency: nobody can know when its requests were sent"


def detect(path: Path) -> bool:
    """Whether `path` is a CSV whose first line names times of requests."""
    names = {_base(name) for name in peek(path).columns}
    return "output_tokens" in names and bool(names & {"ttft", "e2e", "first_token", "last_token"})


def read(path: Path) -> list[Recording]:
    """The run in `path`. Raises InputError naming line and column."""
    names = peek(path).columns
    units = _units(path, names)
    times = [name for base in TIMES if base in units for name in [units[base]]]
    counts = [name for name in COUNTS if name in names]
    words = [name for name in WORDS if name in names]
    table = read_table(path, lambda _, __: None, (), words, "a requests", [*times, *counts])
    given = {base: _time(table, name) for base, name in units.items()}
    whole = {name: _count(table, name) for name in counts}
    rows = len(table.lines)
    _unique_ids(table)
    sends = given.get("send", np.full(rows, np.nan))
    if "first_token" in given:
        given["ttft"] = given["first_token"] - sends
    if "last_token" in given:
        given["e2e"] = given["last_token"] - sends
    ok = _ok(table, given, whole["output_tokens"])
    if "send" in given and not np.isfinite(sends).all():
        raise _missing(table, units["send"], int(np.argmin(np.isfinite(sends))))
    for name, base in (("ttft", "first_token"), ("e2e", "last_token")):
        lost = ok & ~np.isfinite(given[name])
        if lost.any():
            raise _missing(table, units.get(name, units.get(base, name)), int(np.argmax(lost)))
    clients = _clients(table, whole)
    nothing = np.zeros(rows, np.int64)
    models = sorted({word for word in table.words.get("model", ()) if word})
    if len(models) > 1:
        raise InputError(f"{path}: model: {len(models)} different ones, expected the requests of one model")
    facts: dict[str, Facts] = {path.name: {"model": models[0]}} if models else {}
    return [
        Recording(
            name=run_name(path),
            source=str(path),
            format="csv",
            requests=rows,
            completed=int(ok.sum()),
            each=Requests(
                send_us=sends,
                input_tokens=whole.get("input_tokens", nothing),
                server_input_tokens=nothing,
                output_tokens=whole["output_tokens"],
                ttft_us=np.where(ok, given["ttft"], np.nan),
                e2e_us=given["e2e"],
                ok=ok,
                cached_tokens=whole.get("cached_tokens", nothing[:0]),
                prompt=_numbered(table.words["prompt"]) if "prompt" in table.words else nothing[:0],
                warm_up=_flags(table, "warm_up"),
            ),
            load=LoadSaid(max_concurrency=clients),
            hints=facts,
            findings=tuple(_findings(given, ok)),
            refused=_refusal(ok, rows, "send" in given, clients),
        )
    ]


def _refusal(ok: Bools, rows: int, sends: bool, clients: int | None) -> str | None:
    if not ok.any():
        return f"all {rows} requests failed"
    return None if sends or clients is not None else UNKNOWN_SEND


def _base(name: str) -> str:
    """The name of a column without its unit, if it has one."""
    base, _, unit = name.rpartition("_")
    return base if base in TIMES and unit in UNITS else name


def _units(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Time -> the column that has it. Raises InputError where one has no unit, or stands in two, and for a lack."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: line 1: column {twice[:40]} stands twice")
    found: dict[str, str] = {}
    for name in names:
        base = _base(name)
        if base not in TIMES:
            continue
        if base == name:
            raise InputError(f"{path}: line 1: column {name} has no unit, expected {name}_s, {name}_ms, _us or _ns")
        if base in found:
            raise InputError(f"{path}: line 1: {found[base]} and {name}: expected one of them")
        found[base] = name
    for ours, clock in (("ttft", "first_token"), ("e2e", "last_token")):
        if ours in found and clock in found:
            raise InputError(f"{path}: line 1: {found[ours]} and {found[clock]}: expected one of them")
        if ours not in found and clock not in found:
            raise InputError(f"{path}: line 1: column {ours}_ms is missing (or {clock}_ms)")
        if clock in found and "send" not in found:
            raise InputError(f"{path}: line 1: {found[clock]} is on the clock of send, which is missing")
    return found


def _time(table: Table, name: str) -> Floats:
    times: Floats = table.numbers[name] * UNITS[name.rpartition("_")[2]]
    beyond = times >= MOST_TIME_US
    if beyond.any():
        raise table.refuse(int(np.argmax(beyond)), name, f"a time of less than {MOST_TIME_US} µs")
    return times


def _count(table: Table, name: str) -> Ints:
    numbers = np.nan_to_num(table.numbers[name])
    bad = (numbers != np.rint(numbers)) | (numbers > MOST_TOKENS)
    if bad.any():
        raise table.refuse(int(np.argmax(bad)), name, f"a whole number of at most {MOST_TOKENS}")
    return numbers.astype(np.int64)


def _unique_ids(table: Table) -> None:
    ids = [name for name in table.words.get("request_id", ()) if name]
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    for row, name in enumerate(table.words["request_id"]):
        if name in seen and name:
            raise table.refuse(row, "request_id", "another one in each row")
        seen.add(name)


def _ok(table: Table, given: dict[str, Floats], output: Ints) -> Bools:
    if "ok" in table.words:
        return _flags(table, "ok")
    timed: Bools = np.isfinite(given["ttft"]) & np.isfinite(given["e2e"])
    if "error" not in table.words:
        return timed & (output > 0)
    return ~np.array([bool(word.strip()) for word in table.words["error"]], np.bool_)


def _flags(table: Table, name: str) -> Bools:
    """A column of truths; empty where it is not there. Raises InputError for another word."""
    words = table.words.get(name, ())
    for row, word in enumerate(words):
        if word.lower() not in TRUTHS:
            raise table.refuse(row, name, "true or false")
    return np.array([TRUTHS[word.lower()] for word in words], np.bool_)


def _clients(table: Table, whole: dict[str, Ints]) -> int | None:
    if "concurrency" not in whole:
        return None
    clients = whole["concurrency"]
    bad = (clients != clients[0]) | (clients < 1) | (clients > MOST_REQUESTS)
    if bad.any():
        raise table.refuse(int(np.argmax(bad)), "concurrency", "the same number of clients in every row")
    return int(clients[0])


def _numbered(words: Sequence[str]) -> Ints:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)


def _missing(table: Table, name: str, row: int) -> InputError:
    return InputError(f"{table.path}: line {table.lines[row]}: {name} is missing, expected a time")


def _findings(given: dict[str, Floats], ok: Bools) -> list[Finding]:
    same = ok & (given["ttft"] >= given["e2e"])
    if ok.any() and same.sum() == ok.sum():
        summary = "Every request's first token came with its last: nothing was streamed, or a proxy held it back."
        advice = "Measure with streaming on: neither TTFT nor TPOT is in this file."
        return [Finding("not-streamed", "warning", summary, {"requests": int(same.sum())}, advice)]
    return []
