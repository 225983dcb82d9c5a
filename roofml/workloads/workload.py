"""Workload: a load that can be drawn for any number of requests, any seed and any rate or number of clients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.limits import MOST_TOKENS
from roofml.util.arrays import Ints
from roofml.workloads.arrivals import Closed, Pattern, Recorded
from roofml.workloads.load import Load
from roofml.workloads.requests import Drawn, Given, RequestClass, stream

ARRIVALS, PAUSES = 5, 6
"""Streams of random numbers of one seed; `requests` has the others."""
USUAL = 2000
"""Requests of an open load where nobody says how many."""
ROUNDS = 10
"""Requests of each client of a closed loop where nobody says, as InferenceX sends."""


@dataclass(frozen=True, eq=False)
class Workload:
    """When requests come, and what they are."""

    name: str
    pattern: Pattern
    source: Drawn | Given
    requests: int | None = None
    """How many there are, where that is part of it: a benchmark of so many, or a recording. All of them are judged
    then, as its client does; else a load is as long as is asked of it, and judged once it is steady."""
    deadline_us: float = math.inf
    """After how long a client gives a request up."""
    priority: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(requests,) of a recording; empty if all are equal."""
    findings: tuple[Finding, ...] = ()
    """What its reader found."""
    most_tokens: int = MOST_TOKENS
    """Prompt and answer: there the server ends the answer (`max_model_len`)."""

    @property
    def closed(self) -> bool:
        """Whether clients wait for their answers."""
        return isinstance(self.pattern, Closed)

    @property
    def random(self) -> bool:
        """Whether another seed gives another load."""
        return isinstance(self.source, Drawn) or not isinstance(self.pattern, Closed | Recorded)

    @property
    def level(self) -> float:
        """How much load it is: requests a second, or clients."""
        return self.pattern.level

    @property
    def unit(self) -> str:
        """What `level` counts."""
        return "clients" if self.closed else "requests/s"

    @property
    def classes(self) -> tuple[RequestClass, ...]:
        """Of its requests; none where they are given one by one."""
        return self.source.classes if isinstance(self.source, Drawn) else ()

    @property
    def longest(self) -> int:
        """Most tokens of a request, prompt and answer."""
        return self.source.longest

    def at(self, level: float) -> Workload:
        """The same at so many requests a second, or clients: whatever is drawn is drawn alike.

        Raises InputError for a number that is none of clients, and for arrivals that cannot be stretched.
        """
        return self if level == self.level else replace(self, pattern=self.pattern.at(level))

    def within(self, most: int) -> Workload:
        """The same on a server that ends an answer at `most` tokens, prompt included."""
        return replace(self, most_tokens=most)

    def of(self, requests: int) -> Workload:
        """The same with so many requests in all."""
        return replace(self, requests=requests)

    @property
    def usual(self) -> int:
        """Requests of a load of it where nobody asks for a number."""
        if self.requests is not None:
            return self.requests
        return max(USUAL, ROUNDS * self.pattern.clients) if isinstance(self.pattern, Closed) else USUAL

    @property
    def sessions(self) -> bool:
        """Whether requests follow each other's answers."""
        return isinstance(self.source, Drawn) and self.source.turns != 1.0

    def _of_sessions(self, count: int, seed: int) -> Load:
        """The first `count` requests of sessions that begin by the pattern, if answers took no time."""
        assert isinstance(self.source, Drawn)
        assert not isinstance(self.pattern, Closed)
        turns = self.source.turns
        sessions = int(1.5 * count / turns) + 20
        drawn = self.source.sessions(sessions, seed)
        begins = self.pattern.at(self.pattern.level / turns).times_us(stream(seed, ARRIVALS), sessions)
        waits = np.cumsum(drawn.think_us)
        waits -= waits[np.flatnonzero(drawn.turn == 0)][drawn.session]
        arrival = begins[drawn.session] + waits
        order = np.argsort(arrival, kind="stable")[:count]
        place = np.full(len(drawn), -1, np.int64)
        place[order] = np.arange(len(order))
        before = np.where(drawn.turn[order] > 0, place[order - 1], -1)
        return Load(
            name=self.name,
            arrival_us=arrival[order],
            prompt_tokens=drawn.prompt_tokens[order],
            output_tokens=drawn.output_tokens[order],
            prefix_group=drawn.prefix_group[order],
            prefix_tokens=drawn.prefix_tokens[order],
            pause_us=drawn.think_us[order],
            after=before,
            shares_answers=True,
            of_class=drawn.of_class[order],
            deadline_us=self.deadline_us,
        )

    def load(self, requests: int | None = None, seed: int = 0) -> Load:
        """The first `requests` of it as they are drawn with a seed; by default all there are, or `usual` many."""
        count = self.usual if requests is None else requests
        if self.sessions:
            return self._of_sessions(count, seed).within(self.most_tokens)
        drawn = self.source.draw(count, seed)
        if isinstance(self.pattern, Closed):
            pauses = self.pattern.pauses_us(stream(seed, PAUSES), count)
            arrival, clients = np.zeros(count), min(self.pattern.clients, count)
        else:
            arrival, clients = self.pattern.times_us(stream(seed, ARRIVALS), count), 0
            pauses = np.zeros(0)
        load = Load(
            name=self.name,
            arrival_us=arrival,
            prompt_tokens=drawn.prompt_tokens,
            output_tokens=drawn.output_tokens,
            clients=clients,
            prefix_group=drawn.prefix_group,
            prefix_tokens=drawn.prefix_tokens,
            pause_us=pauses if pauses.any() else np.zeros(0),
            of_class=drawn.of_class,
            deadline_us=self.deadline_us,
            priority=self.priority[np.arange(count) % len(self.priority)] if len(self.priority) else self.priority,
        )
        return load.within(self.most_tokens)
