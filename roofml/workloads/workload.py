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

ARRIVALS, PAUSES, BEFORE = 5, 6, 9
"""Streams of random numbers of one seed; `requests` has the others."""
OTHER_SEED = 1_000_003
"""Added to the seed of sessions that began before the load."""
USUAL = 2000
"""Requests of an open load where nobody says how many."""
PAUSES_LONG = 8.0
"""How long a load of sessions is at least, in pauses between two requests."""
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

    @property
    def endless_sessions(self) -> bool:
        """Whether they have been going on when the load begins: those of a given number of requests begin with it."""
        return self.sessions and self.requests is None

    @property
    def between_s(self) -> float:
        """Of sessions, the pause before a request on average, first ones included; 0 without sessions."""
        return self.source.pauses_s / self.source.turns if isinstance(self.source, Drawn) else 0.0

    @property
    def fewest(self) -> int:
        """Requests of sessions without end that outlast PAUSES_LONG pauses: fewer are of their beginning."""
        return math.ceil(PAUSES_LONG * self.between_s * self.level) if self.sessions else 0

    def too_short(self, requests: int) -> list[str]:
        """A sentence where so many requests are of the beginning of sessions alone."""
        if self.requests is not None or requests >= self.fewest:
            return []
        return [
            f"{self.name}: {requests} requests at {self.level:.3g} a second come in {requests / self.level:.3g} s, "
            f"with pauses of {self.between_s:.3g} s on average before those of a session: too few to be steady"
        ]

    def _of_sessions(self, count: int, seed: int, answer_s: float) -> Load:
        """The first `count` requests of sessions that begin by the pattern, if each answer took so long.

        A load of a given number of requests begins with nobody there, as a benchmark does. One without end has been
        going on: sessions that began before it are under way, as many as there always are.
        """
        assert isinstance(self.source, Drawn)
        assert not isinstance(self.pattern, Closed)
        begin = self.pattern.at(self.pattern.level / self.source.turns)
        forward = int(1.5 * count / self.source.turns) + 20
        drawn = self.source.sessions(forward, seed)
        begins = begin.times_us(stream(seed, ARRIVALS), forward)
        if self.requests is None:
            lasting_s = self.source.longest_session_s(answer_s)
            before = min(int(1.5 * begin.level * lasting_s) + 20, 2 * count + 20)
            begins = np.concatenate((begins, -begin.times_us(stream(seed, BEFORE), before + 1)[1:]))
            drawn = drawn.beside(self.source.sessions(before, seed + OTHER_SEED))
        waits = np.cumsum(drawn.think_us + np.where(drawn.turn > 0, 1e6 * answer_s, 0.0))
        waits -= waits[np.flatnonzero(drawn.turn == 0)][drawn.session]
        arrival = begins[drawn.session] + waits
        order = np.argsort(arrival, kind="stable")
        order = order[arrival[order] >= 0][:count]
        place = np.full(len(drawn), -1, np.int64)
        place[order] = np.arange(len(order))
        # The first request of a session that was under way waits for nobody: what it follows was before all this.
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

    def load(self, requests: int | None = None, seed: int = 0, answer_s: float = 0.0) -> Load:
        """The first `requests` of it as they are drawn with a seed; by default all there are, or `usual` many.

        `answer_s` is a guess of how long an answer takes: of sessions, it says where those are that have begun.
        """
        count = self.usual if requests is None else requests
        if self.sessions:
            return self._of_sessions(count, seed, answer_s).within(self.most_tokens)
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
