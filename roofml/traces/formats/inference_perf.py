"""inference-perf: per_request_lifecycle_metrics.json in its four layouts; stage and summary files by `_stages`.

A list in order of completion over all stages; perf_counter seconds; `start_time` is after the worker's own limit. The
first time in a list is the first token in every layout. What else the lists hold differs, so TPOT is (E2E - TTFT)/
(n - 1), with the server's count n, or the forced length, or else the client's:

- 0.1-0.2: two times a token (data and the blank line after it): the tool's own TPOT and ITL are half;
- 0.3-0.4: a time for each message of the stream, usage and `[DONE]` too;
- 0.5: tokens and their times twice, for each chunk was tokenized with a BOS;
- 0.6 on: chunks without text have no time.

Source: kubernetes-sigs/inference-perf apis/ and reportgen/ at v0.2.0, v0.3.0, v0.5.0 and 7de5ef2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats import inference_perf_stages as stages
from roofml.traces.formats.columns import NONE, Columns, Timed, numbered, requests_of, run_name
from roofml.traces.formats.fields import as_mapping, items, mapping
from roofml.traces.formats.peek import peek
from roofml.traces.formats.traps import bundled_chunks, retokenized
from roofml.traces.inference_perf import PlannedLoad, read_inference_perf, read_planned_load
from roofml.traces.raw import Generator
from roofml.traces.recording import LoadSaid, Recording
from roofml.util.arrays import Bools, Floats
from roofml.util.errors import InputError
from roofml.util.json_stream import JsonDocument
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_file, is_folder, open_file, parse_quickly

FIELDS = (
    *("start_time", "end_time", "first", "input_tokens", "output_tokens", "asked", "forced", "by_server"),
    *("server_input_tokens", "cached_tokens", "chunks", "times", "failed"),
)
CONFIGS = ("config.yaml", "inference-perf.yaml")
"""Names of the tool's configuration beside its reports."""
TWO_A_TOKEN = 1.9
"""Times a token from which the list holds two for each."""


def detect(path: Path) -> bool:
    """Whether `path` is a report of inference-perf, or a folder that holds one, by the names of its fields."""
    if is_folder(path):
        return any(_is_requests(each) or stages.detect(each) for each in _reports(path))
    return _is_requests(path) or stages.detect(path)


def read(path: Path) -> list[Recording]:
    """The runs in a report or a folder of them: all requests as one, else one a stage.

    Raises InputError, naming file and field, for what is no report.
    """
    if not is_folder(path):
        return [_requests(path)] if _is_requests(path) else stages.read(path, _planned(path))
    reports = _reports(path)
    whole = [each for each in reports if _is_requests(each)]
    if whole:
        return [_requests(each) for each in whole]
    found = [run for each in reports if stages.detect(each) for run in stages.read(each, _planned(each))]
    usable = [run for run in found if run.refused is None]
    return usable or found


def _reports(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if ".json" in each.name and is_file(each))


def _is_requests(path: Path) -> bool:
    seen = peek(path)
    return seen.is_list and seen.has("start_time", "end_time", "request", "info")


def _config(path: Path) -> Path | None:
    """The tool's configuration beside a report."""
    for name in CONFIGS:
        beside = path.parent / name
        if is_file(beside):
            return beside
    return None


def _planned(path: Path) -> stages.Planned | None:
    config = _config(path)
    if config is None:
        return None
    generator, model = read_inference_perf(config)
    return stages.Planned(config.name, generator, model, read_planned_load(config))


def _requests(path: Path) -> Recording:
    columns = Columns(path, "request", FIELDS)
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        document = JsonDocument(path, file)
        for place, value in enumerate(document.elements()):
            _add(path, columns, place, value)
        document.end()
    ok: Bools = columns.numbers("failed") == 0
    start, end, first = (columns.times_us(name, 1e6) for name in ("start_time", "end_time", "first"))
    streamed = ~ok | np.isfinite(first)
    counted, asked = columns.counts("output_tokens"), columns.counts("asked")
    by_server: Bools = columns.numbers("by_server") == 1
    forced: Bools = ~by_server & (columns.numbers("forced") == 1) & (asked > 0)
    output = np.where(ok, np.where(forced, asked, counted), 0)
    cached = columns.numbers("cached_tokens")
    chunks = columns.counts("chunks")
    requests, findings = requests_of(
        columns,
        Timed(start, np.where(ok, first, np.nan), np.where(ok, end, np.nan), ok, streamed),
        {
            "input_tokens": columns.counts("input_tokens"),
            "server_input_tokens": columns.counts("server_input_tokens"),
            "output_tokens": output,
            "num_chunks": chunks if chunks.any() else NONE,
            "cached_tokens": columns.counts("cached_tokens") if np.isfinite(cached).any() else NONE,
            "prompt": numbered(columns.ids),
        },
    )
    findings += _counts(ok, by_server, forced, counted, asked)
    findings += _times(columns.numbers("times")[ok], output[ok], counted[ok])
    if by_server[ok].all():
        findings += bundled_chunks(chunks, output, ok)
    planned = _planned(path)
    generator, load = _said(path, columns, ok), LoadSaid()
    if planned is not None:
        generator = planned.generator
        load = stages.load_of(planned.load, 0 if len(planned.load.rates) == 1 else None)
        findings += _in_flight(planned.load, start, end)
    completed = int(ok.sum())
    return Recording(
        name=run_name(path),
        source=str(path),
        format="inference-perf",
        requests=len(columns),
        completed=completed,
        each=requests,
        load=load,
        hints={planned.source: {"model": planned.model}} if planned is not None and planned.model else {},
        generator=generator,
        findings=tuple(findings),
        refused=None if completed else "no request succeeded",
    )


def _add(path: Path, columns: Columns, place: int, value: object) -> None:
    where = f"request {place}: "
    entry = as_mapping(path, value, where)
    info = mapping(path, entry, "info", where)
    response = mapping(path, info, "response_metrics", where) or mapping(path, info, "response_info", where)
    usage = mapping(path, response, "server_usage", where) if response else {}
    source = response or info
    times = items(path, source, "chunk_times" if "chunk_times" in source else "output_token_times", where)
    asked, forced, digest = _asked(path, entry.get("request"), where)
    made = usage.get("completion_tokens")
    columns.add(
        place,
        (
            entry.get("start_time"),
            entry.get("end_time"),
            times[0] if times else None,
            _prompt(path, info, where),
            made if made is not None else source.get("output_tokens"),
            asked,
            forced,
            made is not None,
            usage.get("prompt_tokens"),
            mapping(path, usage, "prompt_tokens_details", where).get("cached_tokens") if usage else None,
            len(items(path, response, "response_chunks", where)) if response else None,
            len(times),
            entry.get("error") is not None,
        ),
    )
    columns.add_id(digest)


def _prompt(path: Path, info: Mapping[str, Any], where: str) -> object:
    """The prompt's tokens as the client counted them: in a section of its own from 0.6 on."""
    newest = mapping(path, info, "request_metrics", where)
    return mapping(path, newest, "text", where).get("input_tokens") if newest else info.get("input_tokens")


def _asked(path: Path, request: object, where: str) -> tuple[object, bool, object]:
    """(tokens that a request asked for, whether it forbade an early end, what names its prompt; None if empty)."""
    if request is None or request == "":
        return None, False, None
    if not isinstance(request, str):
        raise InputError(f"{path}: {where}request: expected the text of a JSON object")
    body = as_mapping(path, parse_quickly(request, f"{path}: {where}request"), f"{where}request")
    prompt = body.get("prompt") or body.get("messages")
    asked: object = body.get("max_tokens", body.get("max_completion_tokens"))
    return asked, body.get("ignore_eos") is True, prompt or None


def _said(path: Path, columns: Columns, ok: Bools) -> Generator:
    """What the requests themselves say of their generator."""
    asked, forced = columns.counts("asked")[ok], columns.numbers("forced")[ok] == 1
    same = len(asked) > 0 and asked.min() == asked.max() > 0
    return Generator(path.name, bool(forced.all()) if len(forced) else None, int(asked[0]) if same else None)


def _counts(ok: Bools, by_server: Bools, forced: Bools, counted: Any, asked: Any) -> list[Finding]:
    findings: list[Finding] = []
    wrong = ok & forced & (counted != asked)
    if wrong.any():
        low, high = int(counted[wrong].min()), int(counted[wrong].max())
        findings.append(
            Finding(
                "forced-lengths",
                "corrected",
                f"{int(wrong.sum())} of {int(ok.sum())} report {low}-{high} tokens but were forced to others.",
                {"requests": int(wrong.sum()), "reported_min": low, "reported_max": high},
                "The forced lengths (ignore_eos and max_tokens) are used: the client tokenized the text again.",
            )
        )
    if (ok & ~by_server & ~forced).any():
        advice = (
            "Use 0.5 or later, which records the server's usage, or ignore_eos. TPOT is as wrong as the counts are."
        )
        findings.append(retokenized("inference-perf", advice))
    return findings


def _times(times: Floats, output: Any, counted: Any) -> list[Finding]:
    """The finding about lists of times with another length than the tokens'."""
    known = (times > 1) & (output > 1)
    if not known.any():
        return []
    share = float(times[known].sum() / output[known].sum())
    if share < TWO_A_TOKEN:
        return []
    twice = float(counted[known].sum() / output[known].sum())
    return [stages.half_token_times(1 / share, f"{share:.2f} times and {twice:.2f} counted tokens for each token")]


def _in_flight(load: PlannedLoad, start: Floats, end: Floats) -> list[Finding]:
    """The finding that the client's own limit was reached: what it held back is in no latency."""
    ends = np.sort(np.where(np.isfinite(end), end, start))
    begun = np.arange(1, len(start) + 1) - np.searchsorted(ends, np.sort(start), side="right")
    most = int(begun.max()) if len(begun) else 0
    if load.most_in_flight is None or most < load.most_in_flight or load.kind == "concurrent":
        return []
    return [
        Finding(
            "client-limit",
            "warning",
            f"The client held {most} requests at once, as many as its workers may (num_workers x "
            f"worker_max_concurrency = {load.most_in_flight}).",
            {"in_flight": most, "limit": load.most_in_flight},
            "Latencies count from the send, so what waited in the client is in none of them. Raise the limit.",
        )
    ]
