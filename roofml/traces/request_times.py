"""Times of requests that cannot be: they contradict each other, or no server explains them.

One bad row costs that row and not the run. A request whose times cannot be is not measured; it still loads the server
with its tokens if its send time lies among those of the others, and is left out if not. Where more than a few rows are
so, the file is broken and is refused.

What contradicts itself needs no comparison. The rest is judged by physics that honest runs, however overloaded, never
leave, with a factor of 100 to spare:

- late: a server takes requests in turn. Once all that were sent before it have ended, a request is the next, and the
  time it still takes is its own. That is late if it is over a minute and 100 times the median request, although neither
  its prompt nor its output is that much longer;
- soon: a first chunk within 100 µs of the send, where others need 10 times longer; or tokens that came 100 times faster
  than the median's, in a request that was far shorter as well (where chunks are held back, only the last part of a
  request is so short);
- unplanned: a send 10 s, and 100 times farther than almost all others, before the moment it was planned for;
- elsewhere: a send that is a day, and 100 times the time in which the others were sent, away from those.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.limits import MOST_TIME_US
from roofml.util.arrays import Bools, Floats, Ints

SHARE = 0.05
"""Most of the requests that may be left out for their times."""
FACTOR = 100.0
"""How far from the median a request must be."""
SHORTER = 5.0
"""How much shorter than the median the whole of a request is whose tokens came too soon."""
LEAST_LATE_US = 60e6
MOST_SOON_US = 100.0
LEAST_AWAY_US = 86_400e6
LEAST_EARLY_US = 10e6
LONGEST_FAILED_US = 600e6
"""How long a failed request may have held up those after it: clients give up after 5 or 10 minutes."""
LINES = 20
"""Most lines that a finding names."""


def reordered(times_us: Floats | Ints, by: str, what: str = "requests", order: str = "sending") -> list[Finding]:
    """The finding about a file whose requests are not in the order of their times, (requests,), and were sorted."""
    back, size = int((np.diff(times_us) < 0).sum()), len(times_us)
    if not back:
        return []
    of = f"{size} rows" if what == "rows" else str(size)
    return [
        Finding(
            "rows-reordered",
            "info",
            f"The {what} were not in order of {order} ({back} of {of} stand after a later one).",
            {"steps_back": back, "requests": size},
            f"They were sorted by {by}.",
        )
    ]


@dataclass(frozen=True, eq=False)
class Stamps:
    """What a trace says of its requests, in its own order: times in µs, counts in tokens, each (requests,)."""

    send: Ints
    first: Ints
    last: Ints
    succeeded: Bools
    streamed: Bools
    prompt: Ints
    output: Ints
    planned: Ints
    """When the request was to be sent; 0 throughout where that was not recorded."""

    def __len__(self) -> int:
        return len(self.send)


@dataclass(frozen=True, eq=False)
class Fault:
    """One way in which times cannot be, and the requests (requests,) of which that is so."""

    rows: Bools
    column: str
    problem: str
    """What is wrong, after the column's name."""
    expected: Callable[[int], str]
    """What the cell of a row should hold."""
    send_is_wrong: bool = False
    """Whether nobody knows when the request was sent: then it does not load the server either."""
    refusing: bool = True
    """Too many such rows break the file. Else they are kept, and only told."""


def most_left_out(requests: int) -> int:
    """How many requests of a run may be left out for their times."""
    return max(1, int(SHARE * requests))


def faults(stamps: Stamps) -> list[Fault]:
    """What cannot be, without kinds that no request has."""
    found = _contradictions(stamps)
    sound = ~any_of(found, len(stamps))
    found.append(_elsewhere(stamps, sound))
    found.append(_unplanned(stamps, sound))
    sound &= ~any_of(found[-2:], len(stamps))
    judged = sound & stamps.succeeded
    if judged.any():
        found.append(_late(stamps, judged, sound))
        found += _soon(stamps, judged & ~found[-1].rows)
    return [fault for fault in found if fault.rows.any()]


def any_of(found: Sequence[Fault], requests: int) -> Bools:
    """(requests,) Whether a request has any of the faults."""
    return reduce(np.logical_or, (fault.rows for fault in found), np.zeros(requests, np.bool_))


def _contradictions(stamps: Stamps) -> list[Fault]:
    """A failed request need not have had a chunk (0), but may not contradict itself either."""
    send, first, last, succeeded = stamps.send, stamps.first, stamps.last, stamps.succeeded
    columns = (("send_time_us", send), ("first_chunk_time_us", first), ("last_chunk_time_us", last))
    sane = np.maximum(np.maximum(send, first), last) < MOST_TIME_US
    none = sane & succeeded & (first == 0)
    early = sane & ((first > 0) | succeeded) & (first <= send) & ~none
    backwards = sane & ((last > 0) | succeeded) & (last < first)

    def most(_: int) -> str:
        return f"µs, less than {MOST_TIME_US}"

    return [
        *(Fault(values >= MOST_TIME_US, column, "is beyond every clock", most) for column, values in columns),
        Fault(none, columns[1][0], "is 0", lambda _: "the time of the first chunk of a successful request"),
        Fault(early, columns[1][0], "is not after the send", lambda row: f"a time after send_time_us {send[row]}"),
        Fault(
            backwards,
            columns[2][0],
            "is before the first chunk",
            lambda row: f"a time not before first_chunk_time_us {first[row]}",
        ),
    ]


def _elsewhere(stamps: Stamps, sound: Bools) -> Fault:
    rows = np.zeros(len(stamps), np.bool_)
    sends, few = np.sort(stamps.send[sound]), most_left_out(len(stamps))
    if len(sends) > 2 * few:
        low, high = int(sends[few]), int(sends[-1 - few])
        away = max(LEAST_AWAY_US, FACTOR * (high - low))
        rows = sound & ((stamps.send < low - away) | (stamps.send > high + away))
        if rows.sum() > few:  # a run with long pauses
            rows = np.zeros(len(stamps), np.bool_)
    return Fault(rows, "send_time_us", "is days away from all others", lambda _: "a time near the others'")


def _unplanned(stamps: Stamps, sound: Bools) -> Fault:
    """Clients fall behind their plan, and never run ahead of it; the two clocks may have different origins."""
    rows = np.zeros(len(stamps), np.bool_)
    if sound.any() and stamps.planned.any():
        lag = (stamps.send - stamps.planned).astype(np.float64)
        lag -= np.median(lag[sound])
        usual = float(np.quantile(np.abs(lag[sound]), 1 - SHARE))
        rows = sound & (lag < -max(LEAST_EARLY_US, FACTOR * usual))
    return Fault(
        rows, "send_time_us", "is long before arrival_time_us", lambda _: "a time not before it", send_is_wrong=True
    )


def _late(stamps: Stamps, judged: Bools, sound: Bools) -> Fault:
    e2e = (stamps.last - stamps.send).astype(np.float64)
    limit = max(LEAST_LATE_US, FACTOR * float(np.median(e2e[judged])))
    rows = judged & (e2e > limit)
    for tokens in (stamps.prompt, stamps.output):
        each: Floats = e2e / np.maximum(tokens, 1)
        rows &= each > FACTOR * np.median(each[judged])
    if rows.any():
        rows &= ~_explained(stamps, sound, rows, limit)
    return Fault(rows, "last_chunk_time_us", "is far too late", lambda _: "a time that the other requests explain")


def _explained(stamps: Stamps, sound: Bools, suspects: Bools, limit: float) -> Bools:
    """(requests,) Whether a request ended within `limit` of the end of all before it, or of its own send.

    A suspect explains those after it only if it is explained itself: those of an overload are one by one.
    """
    ends = np.where(stamps.succeeded, stamps.last, np.maximum(stamps.last, stamps.send + LONGEST_FAILED_US))
    order = np.lexsort((ends, stamps.send))
    send, last = stamps.send[order].astype(np.float64), ends[order]
    suspect = suspects[order]
    explained = sound[order] & ~suspect
    waits_from = np.maximum(send, _ended_before(last, explained))
    # Explained suspects by rising send and end; one that another outlasts although it was sent later says no more.
    sends: list[float] = []
    until: list[float] = []
    rows = np.flatnonzero(suspect)
    for row in rows[np.argsort(last[rows], kind="stable")].tolist():
        place = bisect_right(sends, send[row])
        since = max(waits_from[row], until[place - 1] if place else 0.0)
        if last[row] - since <= limit:
            explained[row] = True
            place = bisect_left(sends, send[row])
            sends[place:], until[place:] = [float(send[row])], [float(last[row])]
    explained |= suspect & (last - np.maximum(send, _ended_before(last, explained)) <= limit)
    result = np.zeros(len(stamps), np.bool_)
    result[order] = explained
    return result


def _ended_before(last: Floats, explained: Bools) -> Floats:
    """(requests,) The latest end of the explained requests before each, in order of sending; 0 where there is none."""
    ended: Floats = np.maximum.accumulate(np.where(explained, last, 0.0))
    return np.concatenate(([0.0], ended[:-1]))


def _soon(stamps: Stamps, judged: Bools) -> list[Fault]:
    judged = judged & stamps.streamed
    several = judged & (stamps.output > 1)
    ttft = (stamps.first - stamps.send).astype(np.float64)
    e2e = (stamps.last - stamps.send).astype(np.float64)
    first = _below(ttft, judged, 10.0) & (ttft < MOST_SOON_US)
    short = _below(e2e, several, SHORTER) & _below(e2e / np.maximum(stamps.output, 1), several, SHORTER)
    decode, gaps = e2e - ttft, np.maximum(stamps.output - 1, 1)
    short &= _below(decode, several, FACTOR) & _below(decode / gaps, several, FACTOR) & ~first
    return [
        Fault(first, "first_chunk_time_us", "is too soon for any server", lambda _: "a later time", refusing=False),
        Fault(short, "last_chunk_time_us", "is far too soon after the first", lambda _: "a later time", refusing=False),
    ]


def _below(values: Floats, among: Bools, factor: float) -> Bools:
    """(requests,) Those among whom a value is less than their median by more than the factor."""
    return among & (factor * values < np.median(values[among])) if among.any() else among


def judge_times(
    stamps: Stamps, measurable: Bools, found: Sequence[Fault]
) -> tuple[Bools, Bools, tuple[int, str, str] | None]:
    """(requests that are not measured for their times, those of them that do not load the server either, refusal).

    The refusal is a row, its column and what was expected there, where such rows are too many or nothing is left to
    measure; else None.
    """
    most = most_left_out(len(stamps))
    refusing = [fault for fault in found if fault.refusing]
    bad, doubtful = any_of(refusing, len(stamps)), any_of(found, len(stamps))
    refusal = None
    if refusing and (bad.sum() > most or not (measurable & ~bad).any()):
        row = int(np.argmax(refusing[0].rows))
        rows = f"; {int(bad.sum())} rows are wrong, expected at most {most}" if bad.sum() > most else ""
        refusal = row, refusing[0].column, refusing[0].expected(row) + rows
    if doubtful.sum() <= most and (measurable & ~doubtful).any():
        bad = doubtful
    sends = stamps.send[~bad]
    if not len(sends):
        return bad, bad, refusal
    edge = (sends.max() - sends.min()) // 10
    unknown = any_of([fault for fault in found if fault.send_is_wrong], len(stamps))
    return bad, bad & (unknown | (stamps.send < sends.min() - edge) | (stamps.send > sends.max() + edge)), refusal


def told(found: Sequence[Fault], lines: Ints, left_out: Bools, removed: Bools, where: str = "line") -> list[Finding]:
    """The findings about requests whose times cannot be: those `left_out` (of them `removed` wholly), and others.

    `lines` are their numbers in the file, of what `where` says.
    """
    findings: list[Finding] = []
    few = [fault for fault in found if (fault.rows & left_out).any()]
    if few:
        number, gone = int(left_out.sum()), int(removed.sum())
        load = "They load the server but are not measured." if gone < number else "They are left out."
        if 0 < gone < number:
            load = f"{gone} whose send cannot be are left out; the others load the server but are not measured."
        findings.append(
            Finding(
                "impossible-times",
                "corrected",
                f"{number} of {len(lines)} requests have times that cannot be: {_listed(few, lines, where)}.",
                {"requests": number, "removed": gone, "lines": sorted(lines[left_out].tolist())[:LINES]},
                load,
            )
        )
    many = [fault for fault in found if not (fault.rows & left_out).any()]
    if many:
        rows = any_of(many, len(lines))
        findings.append(
            Finding(
                "doubtful-times",
                "warning",
                f"{int(rows.sum())} of {len(lines)} requests have doubtful times: {_listed(many, lines, where)}.",
                {"requests": int(rows.sum()), "lines": sorted(lines[rows].tolist())[:LINES]},
                "They are too many to be slips, and are measured. Check how the client took its times and counts.",
            )
        )
    return findings


def _listed(found: Sequence[Fault], lines: Ints, where: str) -> str:
    return "; ".join(f"{fault.column} {fault.problem} ({_on_lines(lines[fault.rows], where)})" for fault in found)


def _on_lines(lines: Ints, where: str) -> str:
    named = [str(line) for line in sorted(lines.tolist())[:5]]
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"{where}{'s' if len(lines) > 1 else ''} {', '.join(named)}{more}"
