"""Followers: requests that are sent when another one is answered, as the next turn of a session is.

The compiled loop knows a request by its place in the order of arrival, and when a follower arrives is found out on the
way. So requests are kept aside until they arrive, and each then takes the next place. Functions that numba compiles
into `scheduler`; for a run in which nobody waits for an answer `followers` is None, and they cost nothing (asked of
every run, they cost it a sixth).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from roofml.engine.incoming import Incoming, take_place
from roofml.engine.kv_cache import NOTHING, BlockKeys
from roofml.util.arrays import Floats, Ints
from roofml.util.jit_cache import called_by_compiled

DUE, ARRIVED, ENDED = 0, 1, 2
"""Places in `Followers.counts`: requests that are under way to the server, that have arrived, and that have ended."""
NOW, UNTIL, NEXT = 0, 1, 2
"""Places in `Followers.clock_us`: where the loop stands, where it is to stand still, and what it waits for there, if it
does."""


class Followers(NamedTuple):
    """Requests that are not sent yet, those of a run in its order. Arrays have shape (requests,)."""

    prompt: Ints
    output: Ints
    keys: BlockKeys
    priority: Ints
    first: Ints
    """The first request that follows the answer of each, or NOTHING."""
    others: Ints
    """The next that follows the same answer, or NOTHING."""
    pause_us: Floats
    """How long after that answer each is sent."""
    due: Ints
    """Requests whose time is known, the next one last: the first `counts[DUE]`."""
    due_us: Floats
    """When these are sent."""
    order: Ints
    """Which request has arrived first, second and so on. Filled in."""
    ended: Ints
    """Which has ended first, second and so on. Filled in."""
    ended_us: Floats
    """When its client knew. Filled in."""
    counts: Ints
    clock_us: Floats
    each_end: bool
    """Whether the loop stands still whenever a request has ended."""
    incoming: Incoming | None
    """Of prompts that another server computed."""
    kept: Ints
    """What the loop knows beside all this when it stands still."""


def followers_of(
    arrival_us: Floats, prompt: Ints, output: Ints, keys: BlockKeys, priority: Ints, after: Ints, pause_us: Floats,
    incoming: Incoming | None, places: int,
) -> Followers:  # fmt: skip
    """Of requests each of which waits for the answer of `after`, an earlier one, or is sent at `arrival_us`: -1.

    One whose `after` is itself is sent by whoever runs the loop (`live`). So many `places` are there for them.
    """
    size = len(after)
    first, others = np.full(size, NOTHING, np.int64), np.full(size, NOTHING, np.int64)
    for request in np.flatnonzero((after >= 0) & (after != np.arange(size)))[::-1]:
        others[request], first[after[request]] = first[after[request]], request
    known = np.flatnonzero(after < 0)
    known = known[np.argsort(arrival_us[known], kind="stable")][::-1]
    due, due_us = np.zeros(size, np.int64), np.zeros(size)
    due[: len(known)], due_us[: len(known)] = known, arrival_us[known]
    return Followers(
        prompt,
        output,
        keys,
        priority,
        first,
        others,
        np.ascontiguousarray(pause_us, np.float64),
        due,
        due_us,
        np.zeros(places, np.int64),
        np.zeros(places, np.int64),
        np.zeros(places),
        np.array([len(known), 0, 0]),
        np.array([due_us[len(known) - 1] if len(known) else 0.0, np.inf, 0.0]),
        False,
        incoming,
        np.zeros(8, np.int64),
    )


@called_by_compiled
def resume(followers: Any, prefill_interval: int, first_us: float) -> Any:
    """Where the loop stands: at its beginning, or where it stood still.

    Requests that have arrived, that gave up, and that ended; steps in flight, and steps; tokens in the queue; the last
    step with prefill, and whether some waits; and the time.
    """
    if followers is None:
        return 0, 0, 0, 0, 0, 0, -prefill_interval, False, first_us
    kept, now = followers.kept, followers.clock_us[NOW]
    return kept[0], kept[1], kept[2], kept[3], kept[4], kept[5], kept[6] - prefill_interval, kept[7] > 0, now


@called_by_compiled
def stands_still(followers: Any, now: float, ended: int) -> bool:
    """Whether the loop is to stop here, before a batch is formed."""
    if followers is None:
        return False
    return now >= followers.clock_us[UNTIL] or (followers.each_end and ended > followers.kept[2])


@called_by_compiled
def no_later(followers: Any, when: float) -> float:
    """Until when the loop may wait for something that comes at `when`."""
    if followers is None:
        return when
    followers.clock_us[NEXT] = when
    return min(when, followers.clock_us[UNTIL])


@called_by_compiled
def stand_still(
    followers: Any, arrived: int, given_up: int, ended: int, in_flight: int, steps: int, queued_tokens: int,
    last_prefill_step: int, prefill_interval: int, prefill_waits: bool, now: float,
) -> None:  # fmt: skip
    """Note all this for `resume`."""
    if followers is not None:
        kept = followers.kept
        kept[0], kept[1], kept[2], kept[3], kept[4], kept[5] = arrived, given_up, ended, in_flight, steps, queued_tokens
        kept[6], kept[7] = last_prefill_step + prefill_interval, int(prefill_waits)
        followers.clock_us[NOW] = now


@called_by_compiled
def expect(followers: Any, requests: Any) -> None:
    """The next place is that of the next request that is due, as far as is known now."""
    if followers is not None:  # decided when it is compiled, as in the functions below
        place, due = followers.counts[ARRIVED], followers.counts[DUE]
        if place < len(requests.arrival_us):
            when = followers.due_us[due - 1] if due > 0 else np.inf
            requests.arrival_us[place] = when
            requests.given_up_us[place] = when + requests.deadline_us


@called_by_compiled
def arrive(followers: Any, requests: Any, booked: Any, place: int) -> None:
    """The request that is due takes its place."""
    if followers is not None:
        followers.counts[DUE] -= 1
        r = followers.due[followers.counts[DUE]]
        followers.order[place] = r
        booked[place].prompt, booked[place].output = followers.prompt[r], followers.output[r]
        requests.priority[place] = followers.priority[r]
        theirs, ours = followers.keys, requests.keys
        ours.shared_blocks[place] = theirs.shared_blocks[r]
        ours.shared_key[place] = theirs.shared_key[r]
        ours.own_key[place] = theirs.own_key[r]
        take_place(requests.incoming, place, followers.incoming, r)
        followers.counts[ARRIVED] = place + 1
        expect(followers, requests)


@called_by_compiled
def be_due(followers: Any, r: int, when_us: float) -> None:
    """Request r is sent at this time: those that are due stay in order, of equal times that of the run."""
    i = followers.counts[DUE]
    while i > 0 and (followers.due_us[i - 1], followers.due[i - 1]) < (when_us, r):
        followers.due[i], followers.due_us[i] = followers.due[i - 1], followers.due_us[i - 1]
        i -= 1
    followers.due[i], followers.due_us[i] = r, when_us
    followers.counts[DUE] += 1


@called_by_compiled
def follow(followers: Any, requests: Any, place: int, answered_us: float) -> None:
    """Those that follow the request at a place are due: it was answered, or its client waits no longer."""
    if followers is not None:
        ended = followers.order[place]
        followers.ended[followers.counts[ENDED]], followers.ended_us[followers.counts[ENDED]] = ended, answered_us
        followers.counts[ENDED] += 1
        r = followers.first[ended]
        while r != NOTHING:
            be_due(followers, r, answered_us + followers.pause_us[r])
            r = followers.others[r]
        expect(followers, requests)
