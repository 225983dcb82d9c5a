"""Clients: the requests of a run as the compiled loop takes them, and when those of a closed loop are sent."""

from __future__ import annotations

from typing import Any, NamedTuple

from roofml.engine.followers import Followers
from roofml.engine.incoming import Incoming
from roofml.engine.kv_cache import BlockKeys
from roofml.util.arrays import Floats, Ints
from roofml.util.jit_cache import called_by_compiled


class Requests(NamedTuple):
    """What the compiled loop needs of the requests, in order of arrival."""

    arrival_us: Floats
    prompt: Ints
    output: Ints
    keys: BlockKeys
    priority: Ints
    """Lower numbers first; read where priorities rule."""
    given_up_us: Floats
    """When the client goes away if its answer is not there; infinite where it never does."""
    giving_up: Ints
    """The requests in order of `given_up_us`."""
    clients: int
    """Of a closed loop, each of which sends the next request when its last is answered; 0: arrivals are given. Times
    of requests that are not sent yet are infinite, and filled in when they are."""
    deadline_us: float
    """After how long a client gives up."""
    pause_us: Floats
    """Of a closed loop, how long a client waits after an answer before it sends this request."""
    incoming: Incoming | None = None
    """Of prompts that another server computed (`incoming`)."""
    followers: Followers | None = None
    """Of requests that wait for others' answers (`followers`): what is said above is then of the first to arrive, the
    second and so on, and filled in when they do."""
    seen_ttft_us: Floats | None = None
    """(requests,) measured times to the first token, infinite where nobody knows one: they say when kernels were
    compiled (`cold_start`). None where nothing was measured: then the rule does."""


@called_by_compiled
def send(requests: Any, arrived: int, sent: int, when: float) -> None:
    """One more request of a closed loop, whose pause ends at `when`: those that are on their way stay in order."""
    arrival, place = requests.arrival_us, sent
    while place > arrived and arrival[place - 1] > when:
        arrival[place] = arrival[place - 1]
        requests.given_up_us[place] = requests.given_up_us[place - 1]
        place -= 1
    arrival[place] = when
    requests.given_up_us[place] = when + requests.deadline_us
