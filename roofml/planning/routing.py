"""Routing: who gets which request, asked when it is sent, of several servers alike.

- `round robin`: each in its turn;
- `least loaded`: the one with the fewest requests under way: the router sees what it sent, and what was answered;
- `prefix aware`: where requests of its prefix group went before, unless that server has so many more under way than the
  least loaded that it is not worth it.

Servers do not know of each other, but a request may be sent because another's answer is there (clients of a closed
loop, sessions), and a router that counts needs to know what each has answered. So all are served together: whose clock
is behind goes on first, up to the next request or the next clock, and nothing comes too late for anybody.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from roofml.engine.arguments import Waits
from roofml.engine.live import LiveServer, NoRoomError
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints

Router = Literal["round robin", "least loaded", "prefix aware"]
ROUTERS: tuple[Router, ...] = get_args(Router)
WORTH = 8
"""Requests that a server may have more under way than the least loaded, and still get those of its prefixes."""
ROOM = 2.0
"""Room for requests that a server has, over its even share of them; all of them where that is not enough."""


@dataclass(frozen=True, eq=False)
class Routed:
    """Who got each request, and when it was sent. Arrays have shape (requests,)."""

    replica: Ints
    sent_us: Floats


@dataclass
class _Choice:
    """What the router knows."""

    router: Router
    under_way: list[int]
    answers: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """(when its client knows, server) of answers on their way: a heap."""
    home: dict[int, int] = field(default_factory=dict[int, int])
    """Prefix group -> the server that had it last."""
    turn: int = 0

    def chosen(self, when_us: float, group: int) -> int:
        """The server of a request that is sent now; of equally loaded ones the next in turn."""
        while self.answers and self.answers[0][0] <= when_us:
            self.under_way[heapq.heappop(self.answers)[1]] -= 1
        count, turn = len(self.under_way), self.turn
        self.turn += 1
        if self.router == "round robin":
            return turn % count
        chosen = min(range(count), key=lambda each: (self.under_way[each], (each - turn) % count))
        if self.router == "prefix aware" and group >= 0:
            before = self.home.get(group)
            if before is not None and self.under_way[before] <= self.under_way[chosen] + WORTH:
                chosen = before
            self.home[group] = chosen
        return chosen


class _Sending:
    """When each request is sent, as far as is known: at a rate, by clients that wait, or in sessions."""

    def __init__(self, run: Run, waits: Waits | None) -> None:
        self.run, self.waits = run, waits
        self.sent = run.clients or len(run)
        known = range(min(self.sent, len(run))) if waits is None else np.flatnonzero(waits.after < 0).tolist()
        self.due = [(float(run.arrival_us[request]), request) for request in known]
        heapq.heapify(self.due)
        self.arrived = 0
        self.following: dict[int, list[int]] = {}
        for request, before in enumerate([] if waits is None else waits.after.tolist()):
            if before >= 0:
                self.following.setdefault(before, []).append(request)

    @property
    def waits_for_answers(self) -> bool:
        """Whether an answer has somebody send another request."""
        return self.run.clients > 0 or self.waits is not None

    def next_us(self) -> float:
        """When the next request is sent, if no answer comes before."""
        return self.due[0][0] if self.due else math.inf

    def take(self) -> tuple[float, int]:
        """The next request: of clients, whoever is ready sends the next there is."""
        when, request = heapq.heappop(self.due)
        self.arrived += 1
        return when, self.arrived - 1 if self.run.clients else request

    def answered(self, request: int, when_us: float) -> None:
        """Who waited for this answer sends a request a pause later."""
        if self.run.clients and self.sent < len(self.run):
            pause = float(self.run.pause_us[self.sent]) if len(self.run.pause_us) else 0.0
            heapq.heappush(self.due, (when_us + pause, self.sent))
            self.sent += 1
        for following in self.following.get(request, ()):
            assert self.waits is not None
            heapq.heappush(self.due, (when_us + float(self.waits.pause_us[following]), following))


def route(
    run: Run,
    replicas: int,
    router: Router,
    server: Callable[[float, bool], LiveServer],
    waits: Waits | None = None,
    progress: Ints | None = None,
) -> Routed:
    """Send a run's requests to so many servers, which `server` makes: with room for a share of the requests, and
    whether it stands still at each answer.

    `progress`, an array of one, is kept at the number of requests that were sent. Raises InputError for a request that
    can never run.
    """
    for share in (ROOM / replicas, 1.0):
        try:
            return _routed(run, replicas, router, server, min(share, 1.0), waits, progress)
        except NoRoomError:  # the router sends most of them to few
            continue
    raise AssertionError("a server has no room for all of the requests")


def _routed(
    run: Run, replicas: int, router: Router, server: Callable[[float, bool], LiveServer], share: float,
    waits: Waits | None, progress: Ints | None,
) -> Routed:  # fmt: skip
    sending = _Sending(run, waits)
    together = sending.waits_for_answers
    servers = [server(share, together) for _ in range(replicas)]
    choice, groups = _Choice(router, [0] * replicas), run.prefix_group.tolist()
    replica, sent_us = np.zeros(len(run), np.int64), np.zeros(len(run))
    ready = [math.inf] * replicas  # when each does something next
    for count in range(len(run)):
        if progress is not None:
            progress[0] = count
        following = sending.next_us()
        while (begins := min(ready)) < following:
            place = ready.index(begins)
            ready[place] = math.inf
            until = following
            if together:  # the next one may then answer, and have somebody send a request
                until = min(until, math.nextafter(min(ready), math.inf))
            going = servers[place]
            for request, when in going.go_on(until):
                heapq.heappush(choice.answers, (when, place))
                sending.answered(request, when)
                following = sending.next_us()
            if going.under_way:
                ready[place] = going.ready_us
        when, request = sending.take()
        place = choice.chosen(when, groups[request])
        choice.under_way[place] += 1
        servers[place].send(request, when)
        ready[place] = servers[place].ready_us
        replica[request], sent_us[request] = place, when
    return Routed(replica, sent_us)
