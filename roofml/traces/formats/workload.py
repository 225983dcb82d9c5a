"""Workloads: files of arrivals and lengths, or of lengths alone, which nobody has timed. They are loads and no runs.

By the names of their columns or fields: Azure's LLM inference trace (CSV, wall clock of 7 decimals), BurstGPT (CSV, s),
Mooncake (JSON lines, ms, with the hashes of 512-token blocks), LLMServingSim (JSON lines, ns), and tables of lengths:
those of vidur and splitwise-sim made from ShareGPT, and any with an input and an output column of a known name.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from roofml.traces.csv_table import read_table
from roofml.traces.finding import Finding
from roofml.traces.formats.columns import Columns, run_name
from roofml.traces.formats.peek import Peek, peek
from roofml.traces.limits import MOST_TIME_US
from roofml.traces.recording import Recording
from roofml.traces.request_times import reordered
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.util.json_stream import json_lines
from roofml.util.names import shown

BLOCK = 512
"""Tokens of a block that Mooncake hashes."""
MOST_BLOCKS = 20_000_000
"""Hashes of one file."""
TIMED = ("ttft", "latency", "first_token", "e2e", "tpot", "duration", "end_time", "queued_ts", "first_chunk")
"""Parts of names of columns that a workload has not: what has them is a run."""


class Names(NamedTuple):
    """How one kind of file calls what it says."""

    prompt: str
    output: str
    arrival: str | None
    factor: float
    """µs of a unit of the arrivals; 0: a date and time."""


CSV = {
    "azure": Names("ContextTokens", "GeneratedTokens", "TIMESTAMP", 0.0),
    "burstgpt": Names("Request tokens", "Response tokens", "Timestamp", 1e6),
    "vidur": Names("num_prefill_tokens", "num_decode_tokens", "arrived_at", 1e6),
    "splitwise": Names("prompt_size", "token_size", "arrival_timestamp", 1e6),
    "lengths": Names("input_tokens", "output_tokens", "arrival_s", 1e6),
    "lengths of prompts": Names("prompt_tokens", "output_tokens", "arrival_s", 1e6),
    "input lengths": Names("input_len", "output_len", "arrival_s", 1e6),
    "input and output lengths": Names("input_length", "output_length", "arrival_s", 1e6),
    "prompt and output lengths": Names("prompt_len", "output_len", "arrival_s", 1e6),
}
"""Kind of CSV -> its columns; the first whose two lengths are there."""
JSON = {
    "mooncake": Names("input_length", "output_length", "timestamp", 1e3),
    "llmservingsim": Names("input_toks", "output_toks", "arrival_time_ns", 1e-3),
    "vidur": Names("num_prefill_tokens", "num_decode_tokens", "arrived_at", 1e6),
    "lengths": Names("input_tokens", "output_tokens", "arrival_s", 1e6),
    "input lengths": Names("input_len", "output_len", "arrival_s", 1e6),
    "prompt and output lengths": Names("prompt_len", "output_len", "arrival_s", 1e6),
}
"""Kind of JSON lines -> its fields."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Hashes of the blocks of every prompt, one after another: of request i those from `first[i]` to `first[i + 1]`."""

    ids: Ints
    first: Ints
    tokens: int = BLOCK
    """Tokens of a block."""


@dataclass(frozen=True, eq=False)
class Arrivals:
    """What a file of arrivals and lengths says, in order of arrival. Every array has shape (requests,)."""

    name: str
    kind: str
    arrival_us: Floats
    """µs from the first; empty where the file has lengths alone."""
    prompt_tokens: Ints
    output_tokens: Ints
    blocks: Blocks | None = None
    """Equal leading hashes are equal leading tokens; None: nobody says."""
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt_tokens)


@dataclass
class _Read:
    """Columns as they stand in the file."""

    places: Ints
    arrival_us: Floats
    prompt: Ints
    output: Ints
    refuse: Callable[[int, str, str], InputError]
    """The error for a row, a column and what was expected."""
    blocks: Blocks | None = None
    findings: list[Finding] = field(default_factory=list[Finding])


def detect(path: Path) -> bool:
    """Whether `path` is a workload, by the names of its columns or of the fields of its first line."""
    return _kind(peek(path)) is not None or _is_texts(path)


def _kind(seen: Peek) -> str | None:
    names, table = (seen.paths, JSON) if seen.paths else (set(seen.columns), CSV)
    if seen.is_list or any(part in name.lower() for name in names for part in TIMED):
        return None
    return next((kind for kind, each in table.items() if {each.prompt, each.output} <= names), None)


def _is_texts(path: Path) -> bool:
    """ShareGPT itself: conversations as texts."""
    seen = peek(path)
    return seen.is_list and seen.has("conversations", "conversations.from", "conversations.value")


def read(path: Path) -> list[Recording]:
    """The workload as a recording that is no run: it says how many requests, and that it is to be given as a load."""
    if _is_texts(path):
        raise InputError(
            f"{path}: conversations as texts, whose lengths depend on a tokenizer: expected a table of lengths in "
            f"tokens, such as columns {CSV['vidur'].prompt} and {CSV['vidur'].output}"
        )
    arrivals = read_arrivals(path)
    return [
        Recording(
            name=arrivals.name,
            source=str(path),
            format="workload",
            requests=len(arrivals),
            completed=0,
            findings=arrivals.findings,
            refused=f"a workload ({arrivals.kind}): arrivals or lengths without latencies, a load and no run",
        )
    ]


def read_arrivals(path: Path) -> Arrivals:
    """Arrivals and lengths of a workload file. Raises InputError, naming file, line and column, for what is none."""
    seen = peek(path)
    kind = _kind(seen)
    if kind is None:
        known = ", ".join(sorted({*CSV, *JSON}))
        raise InputError(f"{path}: not a workload; expected arrivals and lengths, or lengths alone ({known})")
    found = _of_json(path, JSON[kind]) if seen.paths else _of_csv(path, CSV[kind], seen.columns)
    unmade: Bools = found.output == 0
    if (found.prompt == 0).any():
        row = int(np.argmax(found.prompt == 0))
        if not unmade[row]:
            raise found.refuse(row, "prompt", "a prompt of at least one token")
    if unmade.any():
        if unmade.all():
            raise found.refuse(0, "output", "at least one request with output tokens")
        found.findings.append(_unmade(int(unmade.sum()), len(unmade)))
    kept = np.flatnonzero(~unmade)
    arrival, blocks = found.arrival_us, found.blocks
    if len(arrival):
        found.findings += reordered(arrival, "it", order="arrival")
        kept = kept[np.argsort(arrival[kept], kind="stable")]
        arrival = arrival[kept] - arrival[kept].min()
    return Arrivals(
        run_name(path),
        kind,
        arrival,
        found.prompt[kept],
        found.output[kept],
        _taken(blocks, kept) if blocks is not None else None,
        tuple(found.findings),
    )


def _of_json(path: Path, names: Names) -> _Read:
    fields = (names.prompt, names.output, *([names.arrival] if names.arrival else []))
    columns = Columns(path, "line", fields)
    ids, first = array("q"), array("q", [0])
    hashed = True
    for line, entry in json_lines(path):
        columns.add(line, [entry.get(name) for name in fields])
        for name in fields[:2]:
            if entry.get(name) is None:
                raise InputError(f"{path}: line {line}: {name} is missing")
        hashes: object = entry.get("hash_ids")
        if isinstance(hashes, list):
            _add_hashes(path, line, ids, cast("list[Any]", hashes))
        else:
            hashed = False
        first.append(len(ids))
    if not len(columns):
        raise InputError(f"{path}: no requests, expected at least one")
    arrival = columns.times_us(names.arrival, names.factor) if names.arrival else np.full(len(columns), np.nan)

    def refuse(row: int, column: str, expected: str) -> InputError:
        return InputError(f"{columns.at(int(columns.places[row]))}: {column}: 0 tokens, expected {expected}")

    return _Read(
        columns.places,
        _known(path, arrival, names.arrival or ""),
        columns.counts(names.prompt),
        columns.counts(names.output),
        refuse,
        Blocks(np.array(ids, np.int64), np.array(first, np.int64)) if hashed and len(ids) else None,
    )


def _add_hashes(path: Path, line: int, ids: array[int], hashes: list[Any]) -> None:
    try:
        ids.extend(hashes)
    except (TypeError, OverflowError):
        raise InputError(f"{path}: line {line}: hash_ids: {shown(hashes)}, expected whole numbers") from None
    if len(ids) > MOST_BLOCKS:
        raise InputError(f"{path}: line {line}: more than {MOST_BLOCKS} hashes")


def _of_csv(path: Path, names: Names, columns: Sequence[str]) -> _Read:
    def check(table: Path, header: list[str]) -> None:
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise InputError(f"{table}: line 1: column {twice[:40]} stands twice")

    arrivals = names.arrival if names.arrival in columns else None
    table = read_table(path, check, (names.prompt, names.output), (arrivals,) if arrivals else (), "a workload")

    def refuse(row: int, column: str, expected: str) -> InputError:
        return table.refuse(row, getattr(names, column), expected)

    arrival = np.zeros(0)
    if arrivals:
        cells = table.words[arrivals]
        arrival = _dates(path, cells, table.lines, arrivals) if not names.factor else np.zeros(len(cells))
        if names.factor:
            for row, cell in enumerate(cells):
                try:
                    arrival[row] = names.factor * float(cell)
                except ValueError:
                    raise table.refuse(row, arrivals, "a time in seconds") from None
            wrong = ~(np.abs(arrival) < MOST_TIME_US)
            if wrong.any():
                raise table.refuse(int(np.argmax(wrong)), arrivals, "a time of this age")
    return _Read(table.lines, arrival, table.counts[names.prompt], table.counts[names.output], refuse)


def _dates(path: Path, cells: Sequence[str], lines: Ints, column: str) -> Floats:
    """Dates and times in UTC as µs. Those of 2024 name their offset."""
    try:
        plain = [cell.removesuffix("Z").removesuffix("+00:00").removesuffix("+0000").strip() for cell in cells]
        times = np.array(plain, dtype="datetime64[ns]").astype(np.int64) / 1e3
    except ValueError:
        row, cell = _first_bad(cells)
        expected = "a date and time in UTC, such as 2023-11-16 18:15:46.6805900"
        raise InputError(f"{path}: line {lines[row]}: {column} is {cell[:40]!r}, expected {expected}") from None
    return times


def _first_bad(cells: Sequence[str]) -> tuple[int, str]:
    for row, cell in enumerate(cells):
        try:
            np.datetime64(cell.removesuffix("Z").removesuffix("+00:00").removesuffix("+0000").strip(), "ns")
        except ValueError:
            return row, cell
    return 0, cells[0]


def _known(path: Path, arrival: Floats, name: str) -> Floats:
    """The arrivals, or none where the file has none. Raises InputError where some lines have one and others do not."""
    missing = np.isnan(arrival)
    if missing.all():
        return np.zeros(0)
    if missing.any():
        number = int(missing.sum())
        raise InputError(f"{path}: {name} is missing on {number} of {len(arrival)} lines, expected it on all or none")
    return arrival


def _taken(blocks: Blocks, rows: Ints) -> Blocks:
    """The blocks of the chosen requests, in their order."""
    sizes = np.diff(blocks.first)[rows]
    first = np.concatenate(([0], np.cumsum(sizes)))
    places = np.repeat(blocks.first[:-1][rows] - first[:-1], sizes) + np.arange(int(first[-1]))
    return Blocks(blocks.ids[places], first, blocks.tokens)


def _unmade(number: int, requests: int) -> Finding:
    return Finding(
        "no-output-tokens",
        "corrected",
        f"{number} of {requests} requests made 0 tokens: they failed.",
        {"requests": number, "of": requests},
        "They are left out of the load.",
    )
