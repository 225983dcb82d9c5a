"""Live: a server that is told of its requests one by one, as a router sends them.

The compiled loop stands still at a given time, or when a request has ended, and goes on from there. Several of them
are one system if the one whose clock is behind goes on first: nothing that happens to one then comes too late for
another (`planning.routing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.engine.arguments import Arguments, arguments_of, times_of
from roofml.engine.followers import ARRIVED, DUE, ENDED, NEXT, NOW, UNTIL, be_due
from roofml.engine.scheduler import compiled_in, serve
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import Parameters
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints
from roofml.util.jit_cache import entry_of


class NoRoomError(Exception):
    """A server is sent more than the share that it has room for."""


@dataclass(eq=False)
class LiveServer:
    """A server, and the requests of a run that may be sent to it, by their place there."""

    arguments: Arguments
    beside: tuple[Any, ...]
    """What else the loop takes."""
    loop: Callable[..., Any]
    own_keys: Ints
    """(requests,) full blocks of each that nobody else has."""
    next_key: int
    """The first key that no block has yet."""
    told: int = 0
    """Requests whose end it has told of."""
    under_way: int = 0
    """Requests that were sent and have not ended."""

    @classmethod
    def of(
        cls, run: Run, tables: ComponentTables, parameters: Parameters, share: float, *, each_end: bool
    ) -> LiveServer:
        """One that has served nothing, with room for a share of the run's requests.

        `each_end`: it stands still whenever one has ended. Raises as a replay of the run does.
        """
        run, times = times_of(run, tables, parameters)
        arguments = arguments_of(run, times, share=share)
        followers: Any = arguments.requests.followers
        keys = followers.keys
        own, shared = keys.own_blocks, int(keys.own_key[0])
        followers = followers._replace(each_end=each_end, keys=keys._replace(own_key=np.zeros(len(run), np.int64)))
        arguments = arguments._replace(requests=arguments.requests._replace(followers=followers))
        beside = (np.zeros(1, np.int64), compiled_in())
        followers.clock_us[UNTIL] = followers.clock_us[NOW]
        serve(*arguments, *beside)  # nothing is done yet, but it is compiled
        return cls(arguments, beside, entry_of(serve, (*arguments, *beside)), own, shared)

    def __post_init__(self) -> None:
        """Names for what is asked for at every step."""
        self.followers: Any = self.arguments.requests.followers
        self.clock_us: Floats = self.followers.clock_us

    @property
    def ready_us(self) -> float:
        """When it does something next, unless it is sent a request before: nothing earlier can change."""
        now, _, following = self.clock_us.tolist()
        return max(now, following)

    def send(self, request: int, when_us: float) -> None:
        """A request, not before any that was sent to it; the server sees it when it goes on.

        Raises NoRoomError where its share is full.
        """
        followers = self.followers
        due, own = int(followers.counts[DUE]), int(self.own_keys[request])
        room = self.arguments.requests.keys.total
        if followers.counts[ARRIVED] + due == len(followers.order) or self.next_key + own > room:
            raise NoRoomError
        followers.keys.own_key[request] = self.next_key
        self.next_key += own
        if followers.counts[ARRIVED] + due == 0:
            followers.clock_us[NOW] = when_us
        be_due(followers, request, when_us)
        followers.clock_us[NEXT] = min(followers.clock_us[NEXT], when_us) if self.under_way else when_us
        self.under_way += 1

    def go_on(self, until_us: float) -> Iterable[tuple[int, float]]:
        """Serve until then, or until a request has ended: which have ended, and when their clients know."""
        self.clock_us[UNTIL] = until_us
        _, sums, clock, cold = self.loop(*self.arguments, *self.beside)
        work = self.arguments.work
        if clock.shape[1] > work.times.shape[1]:
            self.arguments = self.arguments._replace(work=work._replace(sums=sums, times=clock, cold=cold))
        followers, told = self.followers, self.told
        self.told = int(followers.counts[ENDED])
        if self.told == told:
            return ()
        self.under_way -= self.told - told
        return zip(
            followers.ended[told : self.told].tolist(), followers.ended_us[told : self.told].tolist(), strict=True
        )
