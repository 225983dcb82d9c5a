"""Columns: the numbers of requests as a file is read, eight bytes each, and what their reader makes of them at its end.

A reader appends one number a request to every column, and no Python object is kept. What no client can have written
(a count that is no whole number, a time beyond every clock, an id twice) is refused by file, place and field.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.limits import MOST_REQUESTS, MOST_TIME_US, MOST_TOKENS
from roofml.traces.recording import Requests
from roofml.traces.request_times import most_left_out, reordered
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError
from roofml.util.names import shown

NAN = float("nan")
NONE: Ints = np.zeros(0, np.int64)
NEVER: Bools = np.zeros(0, np.bool_)
SHOWN = 20
"""Most places that a finding names."""


class Columns:
    """Columns of numbers that grow by a request at a time. None is NaN."""

    def __init__(self, path: Path, place: str, names: Sequence[str]) -> None:
        self.path, self.place, self.names = path, place, tuple(names)
        self._rows = array("d")  # one request after another
        self._places = array("q")
        self._ids = array("q")

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: int, values: Sequence[object]) -> None:
        """The values of one request, which stands at `place` of the file (a line, or a place in a list).

        Raises InputError naming place and field for a value that is no number.
        """
        self._places.append(place)
        if len(self._places) > MOST_REQUESTS:
            raise InputError(f"{self.path}: more than {MOST_REQUESTS} requests")
        try:
            self._rows.fromlist([NAN if value is None else value for value in values])  # pyright: ignore[reportArgumentType]
        except (TypeError, OverflowError):
            for name, value in zip(self.names, values, strict=True):
                if value is not None and (not isinstance(value, int | float) or abs(value) > 1e300):
                    raise InputError(f"{self.at(place)}: {name} is {shown(value)}, expected a number") from None
            raise

    def add_id(self, name: object) -> None:
        """What names the request last added, or its prompt; None where nobody says."""
        if name is None:
            self._ids.append(0)
            return
        digest = blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._ids.append(int.from_bytes(digest, "little", signed=True))

    def at(self, place: int) -> str:
        """How errors say where a request stands."""
        return f"{self.path}: {self.place} {place}"

    @property
    def ids(self) -> Ints:
        """(requests,) A number for each name; 0 where nobody says."""
        return np.array(self._ids, np.int64)

    @property
    def places(self) -> Ints:
        """(requests,) Where each stands in the file."""
        return np.array(self._places, np.int64)

    def refuse_twice(self, field: str) -> None:
        """Raise InputError where two requests have the same id."""
        ids = self.ids
        order = np.argsort(ids, kind="stable")
        twice = np.flatnonzero(np.diff(ids[order]) == 0)
        if len(twice):
            first, again = (int(self.places[order[twice[0] + i]]) for i in (0, 1))
            raise InputError(f"{self.at(again)}: {field} stands at {self.place} {first} too, expected it once")

    def numbers(self, name: str) -> Floats:
        """(requests,) A column as it was written; NaN where it was not."""
        rows = np.frombuffer(self._rows, np.float64).reshape(-1, len(self.names))
        return rows[:, self.names.index(name)].copy()

    def times_us(self, name: str, factor: float) -> Floats:
        """(requests,) A column of times, whose unit is `factor` µs. Raises InputError for one that no clock shows."""
        values = factor * self.numbers(name)
        self._refuse(~np.isnan(values) & ~((values >= 0) & (values < MOST_TIME_US)), name, "a time of this age")
        return values

    def counts(self, name: str) -> Ints:
        """(requests,) A column of counts of tokens; 0 where it was not written. Raises InputError for no count."""
        values = np.nan_to_num(self.numbers(name), nan=0.0, posinf=np.inf, neginf=-np.inf)
        self._refuse((values < 0) | (values > MOST_TOKENS), name, f"a count from 0 to {MOST_TOKENS}")
        self._refuse(values != np.floor(values), name, "a whole number")
        return values.astype(np.int64)

    def _refuse(self, wrong: Bools, name: str, expected: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            found = self.numbers(name)[row]
            raise InputError(f"{self.at(int(self.places[row]))}: {name} is {found:.17g}, expected {expected}")


@dataclass(frozen=True, eq=False)
class Timed:
    """Absolute times of requests in the order of the file, µs of one clock, each (requests,); NaN where not written."""

    send_us: Floats
    first_us: Floats
    last_us: Floats
    ok: Bools
    streamed: Bools | None = None
    """None: all were. Of one that was not, the first token's time is not known."""


def requests_of(
    columns: Columns, timed: Timed, counts: Mapping[str, Ints | Bools], what: str = "requests"
) -> tuple[Requests, list[Finding]]:
    """The requests in order of sending, with findings about times that cannot be.

    `counts` has the fields of `Requests` but the times, in the order of the file. A successful request whose times
    contradict each other keeps its load and loses its times. Raises InputError where nothing was sent, nobody says
    when, or more than a few contradict themselves.
    """
    send, first, last = timed.send_us, timed.first_us, timed.last_us
    if not len(send):
        raise InputError(f"{columns.path}: no {what}, expected at least one")
    unsent = np.isnan(send)
    if unsent.any():
        row = int(np.argmax(unsent))
        raise InputError(f"{columns.at(int(columns.places[row]))}: no time of sending, expected one")
    ttft, e2e = first - send, last - send
    streamed = np.ones(len(send), np.bool_) if timed.streamed is None else timed.streamed
    wrong = timed.ok & ~((e2e > 0) & (~streamed | ((ttft > 0) & (e2e >= ttft))))
    findings: list[Finding] = []
    if wrong.any():
        row = int(np.argmax(wrong))
        if wrong.sum() > most_left_out(int(timed.ok.sum())):
            raise InputError(
                f"{columns.at(int(columns.places[row]))}: first token {ttft[row]:.0f} and last {e2e[row]:.0f} µs after "
                f"the send, expected 0 < first <= last; {int(wrong.sum())} of {len(send)} {what} are so"
            )
        findings.append(_impossible(columns, wrong))
        ttft, e2e = np.where(wrong, np.nan, ttft), np.where(wrong, np.nan, e2e)
    findings += reordered(send, "when they were sent", what)
    order = np.argsort(send, kind="stable")
    return Requests(
        send_us=(send - send.min())[order],
        ttft_us=ttft[order],
        e2e_us=e2e[order],
        ok=timed.ok[order],
        streamed=streamed[order] if not streamed.all() else NEVER,
        **{name: values[order] if len(values) else values for name, values in counts.items()},  # pyright: ignore[reportArgumentType]
    ), findings


def _impossible(columns: Columns, wrong: Bools) -> Finding:
    places = columns.places[wrong].tolist()
    return Finding(
        "impossible-times",
        "corrected",
        f"{len(places)} of {len(columns)} successful requests have a first token before the send or after the last.",
        {"requests": len(places), "places": places[:SHOWN]},
        "They load the server but are not measured.",
    )


def numbered(ids: Ints) -> Ints:
    """(requests,) Names as numbers from 0, equal for equal names; empty where any has none."""
    if not len(ids) or not ids.all():
        return NONE
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)


def run_name(path: Path) -> str:
    """Name of a run in a file: the file's, without the endings of formats and of compression."""
    name = path.name
    for ending in (".gz", ".zst", ".xz", ".bz2", ".json", ".jsonl", ".ndjson", ".csv"):
        name = name.removesuffix(ending) or name
    return name
