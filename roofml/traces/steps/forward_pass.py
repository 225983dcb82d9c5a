"""Reader: Dynamo's forward-pass metrics, one message a step: msgpack as it is sent, or JSON lines as its tools write.

A JSON line is the message itself, or holds it under `fpm` (dynamo.fpm.trace.v1, with `observed_at_unix_ms`) or
`metrics` (the exporter, with `published_at_ms`). Counts and sums are of one step, sums of contexts among them, so no
replay is needed for those. `wall_time` (s) is the interval between two outputs since 2026-03, which is the step's own
time; before, between two calls of schedule(), which under async scheduling is another step's (dynamo #7537): the times
of arrival tell. A message without requests and with wall_time 0 says that the engine went idle.
Source: ai-dynamo/dynamo components/src/dynamo/common/forward_pass_metrics.py and lib/llm/src/fpm_trace/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.columns import Columns
from roofml.traces.formats.fields import mapping
from roofml.traces.limits import MOST_REQUESTS
from roofml.traces.steps.table import FEWEST, LONG_CONTEXT, Contexts, SampledSteps
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError, NotSupportedError
from roofml.util.json_stream import json_lines
from roofml.util.names import shown
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, first_bytes, open_file, refuse

HEAD = 65_536
NAMES = (b"scheduled_requests", b"wall_time", b"num_decode_requests")
"""What every message holds, in either encoding."""
SCHEDULED = (
    *("num_prefill_requests", "sum_prefill_tokens", "var_prefill_length", "sum_prefill_kv_tokens"),
    *("num_decode_requests", "sum_decode_kv_tokens", "var_decode_kv_tokens"),
)
FIELDS = ("counter_id", "wall_time", "arrived_ms", *SCHEDULED, "waiting", "preempted")
ENVELOPES = ("fpm", "metrics")
ARRIVED = ("observed_at_unix_ms", "published_at_ms")
VERSION = 1
MOST_OF_MESSAGE = 64
"""Most entries of a map or list in a message; it has some twenty."""
LONGEST_TEXT = 65_536
MOST_OFF = 0.05
"""Share by which the sum of wall times may differ from the time in which their messages arrived."""
LEAST_COMPARED = 100
"""Fewest neighbouring messages from which that is told."""


def detect(path: Path) -> bool:
    """Whether `path` holds such messages, by its beginning."""
    head = first_bytes(path, HEAD)
    return all(name in head for name in NAMES) and (head.lstrip()[:1] == b"{" or _starts_as_msgpack(head))


def _starts_as_msgpack(head: bytes) -> bool:
    """A map, or a list."""
    return _is_map(head[0]) or 0x90 <= head[0] <= 0x9F or head[0] in (0xDC, 0xDD)


def _is_map(first: int) -> bool:
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)


def read(path: Path) -> SampledSteps:
    """The steps in `path`. Raises InputError naming file, message and field for what no engine can have sent."""
    as_json = first_bytes(path, HEAD).lstrip()[:1] == b"{"
    columns = Columns(path, "line" if as_json else "message", FIELDS)
    engines: set[tuple[str, str]] = set()
    for place, message in json_lines(path) if as_json else _messages(path):
        engines.add(_add(path, columns, place, message))
    if len(columns) < FEWEST:
        raise InputError(f"{path}: {len(columns)} messages, expected at least {FEWEST}")
    if len(engines) > 1:
        listed = ", ".join(f"{worker or 'worker'} rank {rank}" for worker, rank in sorted(engines)[:5])
        raise NotSupportedError(
            f"{path}: messages of {len(engines)} engines ({listed}): expected one; split the file by worker and rank"
        )
    return _steps(path, columns)


def _messages(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, message) of msgpack, one after another or in one list. Nothing that is declared is allocated."""
    try:
        msgpack: Any = import_module("msgpack")
    except ImportError:
        raise InputError(f"{path}: reading msgpack needs the package msgpack: pip install msgpack") from None
    with open_file(path, MOST_BYTES_OF_A_TABLE) as file:
        unpacker: Any = msgpack.Unpacker(
            file,
            raw=False,
            max_buffer_size=2**24,
            max_str_len=LONGEST_TEXT,
            max_bin_len=LONGEST_TEXT,
            max_array_len=MOST_OF_MESSAGE,
            max_map_len=MOST_OF_MESSAGE,
            max_ext_len=LONGEST_TEXT,
        )
        number, most, size, whole = 0, None, 0, 0
        try:
            first = file.peek(1)[:1]
            if first and not _is_map(first[0]):
                header: Any = msgpack.Unpacker(max_array_len=MOST_REQUESTS)
                size = {0xDC: 3, 0xDD: 5}.get(first[0], 1)
                header.feed(file.read(size))
                most = int(header.read_array_header())
            while most is None or number < most:
                whole = int(unpacker.tell())
                message: object = unpacker.unpack()
                number += 1
                if not isinstance(message, dict):
                    raise InputError(f"{path}: message {number}: {shown(message)}, expected a map")
                yield number, cast("dict[str, Any]", message)
        except msgpack.OutOfData:
            rest = file.tell() - whole - (size if most is not None else 0)
            if most is not None or rest > 0:
                raise InputError(f"{path}: message {number + 1}: the file is cut short") from None
        except (msgpack.UnpackException, ValueError, UnicodeDecodeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            why = " ".join(str(error).split())[:100] or type(error).__name__
            raise InputError(f"{path}: message {number + 1}: not valid msgpack: {why}") from None
        except OSError as error:
            refuse(path, error)


def _add(path: Path, columns: Columns, place: int, message: Mapping[str, Any]) -> tuple[str, str]:
    """Add a step; the engine that it is of."""
    where = f"{columns.place} {place}: "
    envelope = next((name for name in ENVELOPES if isinstance(message.get(name), dict)), None)
    inside = mapping(path, message, envelope, where) if envelope is not None else message
    if inside.get("version", VERSION) != VERSION:
        raise InputError(f"{path}: {where}version is {shown(inside['version'])}, expected {VERSION}")
    if not isinstance(inside.get("scheduled_requests"), dict):
        raise InputError(f"{path}: {where}scheduled_requests is missing, expected a map")
    scheduled = mapping(path, inside, "scheduled_requests", where)
    queued = mapping(path, inside, "queued_requests", where)
    arrived = next((message.get(name) for name in ARRIVED if name in message), None)
    preempted = queued.get("num_decode_requests")
    columns.add(
        place,
        (
            inside.get("counter_id"),
            inside.get("wall_time"),
            arrived,
            *(scheduled.get(name) for name in SCHEDULED),
            queued.get("num_prefill_requests"),
            preempted,
        ),
    )
    return str(inside.get("worker_id", ""))[:80], str(inside.get("dp_rank", 0))[:20]


def _steps(path: Path, columns: Columns) -> SampledSteps:
    counts = {name: columns.counts(name) for name in SCHEDULED if not name.startswith("var_")}
    spread = {name: np.nan_to_num(columns.numbers(name)) for name in SCHEDULED if name.startswith("var_")}
    wall = columns.times_us("wall_time", 1e6)
    places = columns.places
    for name, values in (("wall_time", wall), *spread.items()):
        if (values < 0).any():
            row = int(np.argmax(values < 0))
            raise InputError(f"{columns.at(int(places[row]))}: {name} is {values[row]:g}, expected at least 0")
    prefills, tokens = counts["num_prefill_requests"], counts["sum_prefill_tokens"]
    wrong = (tokens < prefills) | ((tokens > 0) & (prefills == 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{columns.at(int(places[row]))}: sum_prefill_tokens is {tokens[row]}, expected at least one for each of "
            f"{prefills[row]} requests"
        )
    ids = _numbers(columns)
    requests = prefills + counts["num_decode_requests"]
    own = np.where((requests > 0) & (wall > 0), wall, np.nan)
    arrived = columns.times_us("arrived_ms", 1e3)
    zero: Ints = np.zeros(len(ids), np.int64)
    return SampledSteps(
        name=str(path),
        id=ids,
        start_us=_starts(own, arrived, ids),
        call_us=np.nan_to_num(wall),
        prefill_requests=prefills,
        decode_requests=counts["num_decode_requests"],
        prefill_tokens=tokens,
        running=requests,
        waiting=columns.counts("waiting"),
        finished=zero,
        preempted=columns.counts("preempted"),
        blocks_total=zero,
        blocks_free=zero,
        snapshot=_contexts(counts, spread),
        own_us=own,
        findings=_findings(own, arrived, ids),
    )


def _numbers(columns: Columns) -> Ints:
    """(steps,) Numbers of the steps: the engine's counter, or their order in old versions, which have none."""
    given = columns.numbers("counter_id")
    if np.isnan(given).all():
        return np.arange(len(given))
    ids = columns.counts("counter_id")
    back = np.flatnonzero(np.diff(ids) <= 0)
    if len(back):
        row = int(back[0]) + 1
        raise InputError(
            f"{columns.at(int(columns.places[row]))}: counter_id is {ids[row]}, expected more than {ids[row - 1]}: "
            "the steps of one engine, in the order they ran"
        )
    return ids


def _contexts(counts: Mapping[str, Ints], spread: Mapping[str, Floats]) -> Contexts:
    """Sums over the requests of each step.

    What lies beyond LONG_CONTEXT is that of a normal distribution with the step's mean and variance of contexts. The
    query-key pairs of prefills are known of one request, and of several that bring no context: their prompts are then
    what they compute, whose variance is there.
    """
    decodes, context = counts["num_decode_requests"], counts["sum_decode_kv_tokens"].astype(np.float64)
    many = np.maximum(decodes, 1)
    mean, sd = context / many, np.sqrt(spread["var_decode_kv_tokens"])
    over = mean - LONG_CONTEXT
    z = over / np.where(sd > 0, sd, 1.0)
    density = np.exp(-0.5 * np.minimum(z**2, 1000.0)) / np.sqrt(2 * np.pi)
    special: Any = import_module("scipy.special")  # slow to load, and no other reader needs it
    beyond = np.where(sd > 0, over * special.ndtr(z) + sd * density, np.maximum(over, 0.0))
    prefills, new = counts["num_prefill_requests"], counts["sum_prefill_tokens"].astype(np.float64)
    before = counts["sum_prefill_kv_tokens"].astype(np.float64)
    each = np.maximum(prefills, 1)
    squares = each * (spread["var_prefill_length"] + (new / each) ** 2)
    pairs = np.where(prefills <= 1, new * (before + (new + 1) / 2), np.where(before == 0, (squares + new) / 2, np.nan))
    return Contexts(pairs, before, context, decodes.astype(np.float64) * np.maximum(beyond, 0.0))


def _starts(own: Floats, arrived: Floats, ids: Ints) -> Floats:
    """When each step began, µs from the first: by when its message came, less its own time, or by the sum of times."""
    times = np.nan_to_num(own)
    starts = arrived - times if np.isfinite(arrived).all() else np.cumsum(times) - times
    # Messages are noted in whole ms and may overtake each other by some; the order is that of the counter.
    starts = np.maximum.accumulate(starts - starts[0])
    return starts + 1e-3 * (ids - ids[0])


def _findings(own: Floats, arrived: Floats, ids: Ints) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    lost = int(ids[-1] - ids[0]) + 1 - len(ids)
    if lost:
        findings.append(
            Finding(
                "steps-not-sent",
                "info",
                f"{lost} of {lost + len(ids)} steps are not in the file: sampled, or lost on the way.",
                {"missing": lost, "steps": lost + len(ids)},
                "Each of the others has a time of its own.",
            )
        )
    near: Bools = (np.diff(ids) == 1) & np.isfinite(own[1:]) & np.isfinite(own[:-1]) & np.isfinite(np.diff(arrived))
    if near.sum() >= LEAST_COMPARED:
        noted, passed = float(own[1:][near].sum()), float(np.diff(arrived)[near].sum())
        if passed > 0 and abs(noted / passed - 1) > MOST_OFF:
            ratio = noted / passed
            findings.append(
                Finding(
                    "wall-time-doubtful",
                    "warning",
                    f"The wall times of neighbouring steps sum to {ratio:.2f} of the time in which they arrived.",
                    {"ratio": round(ratio, 4), "steps": int(near.sum())},
                    "Dynamo before 2026-03 noted the time between calls of schedule(), which is not a step's under "
                    "async scheduling (dynamo #7537); or the server idled between steps. Update Dynamo, then fit.",
                )
            )
    elif not np.isfinite(arrived).any():
        findings.append(
            Finding(
                "wall-time-unchecked",
                "info",
                "The messages do not say when they came, so nothing confirms their wall_time.",
                {},
                "Since 2026-03 it is a step's own time; before, under async scheduling, it is not (dynamo #7537).",
            )
        )
    return tuple(findings)
