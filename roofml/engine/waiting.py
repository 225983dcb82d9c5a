"""The waiting queue: requests that have no seat, in the order in which they may have one.

First come, first served: those that were preempted, the last one first, and then the others as they came. By priority:
the lowest number first, and of these the first to arrive, preempted or not (vllm/v1/core/sched/request_queue.py).
Functions on the arrays of the compiled loop in `scheduler`, which numba compiles into it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from roofml.engine.seats import RUNNING, free_seat
from roofml.util.arrays import Ints
from roofml.util.jit_cache import called_by_compiled


class Waiting(NamedTuple):
    """What waits."""

    preempted: Ints
    """(seats,) those to be computed again, the next one last: the first `counts[PREEMPTED]`."""
    heap: Ints
    """(requests,) by priority: a binary heap of all that wait, `counts[HEAPED]` of them; else unused."""
    priority: Ints
    """(requests,)"""
    counts: Ints


PREEMPTED, HEAPED, ENTERED, ADMITTED, LENGTH = 0, 1, 2, 3, 4
"""Places in `Waiting.counts`. Requests have entered the queue in order of arrival, the first `ENTERED` of them; first
come, first served, the first `ADMITTED` have left it. `LENGTH` is how many wait."""


def nobody_waits(seats: int, priority: Ints, by_priority: bool) -> Waiting:
    """An empty queue."""
    return Waiting(
        np.empty(seats, np.int64),
        np.empty(len(priority) if by_priority else 0, np.int64),
        priority,
        np.zeros(5, np.int64),
    )


@called_by_compiled
def first_waiting(waiting: Any, noted: Any, by_priority: bool) -> int:
    """The request that is admitted next. One must wait."""
    counts = waiting.counts
    if by_priority:
        while noted[waiting.heap[0]].gone:
            _pop(waiting)
        return waiting.heap[0]
    if counts[PREEMPTED] > 0:
        return waiting.preempted[counts[PREEMPTED] - 1]
    while noted[counts[ADMITTED]].gone:
        counts[ADMITTED] += 1
    return counts[ADMITTED]


@called_by_compiled
def enter(waiting: Any, by_priority: bool, gone: bool) -> None:
    """The next request in order of arrival enters the queue, unless it has gone."""
    r = waiting.counts[ENTERED]
    waiting.counts[ENTERED] += 1
    if not gone:
        waiting.counts[LENGTH] += 1
        if by_priority:
            _push(waiting, r)


@called_by_compiled
def next_in_queue_us(waiting: Any, queued: Any, arrival: Any, arrived: int) -> float:
    """When the next request reaches the queue, or arrives where none is on its way; infinite after the last."""
    entered = waiting.counts[ENTERED]
    if entered < arrived:
        return queued[entered]
    return arrival[arrived] if arrived < len(arrival) else np.inf


@called_by_compiled
def leave_queue(waiting: Any, by_priority: bool) -> None:
    """The first one has a seat."""
    waiting.counts[LENGTH] -= 1
    if by_priority:
        _pop(waiting)
    elif waiting.counts[PREEMPTED] > 0:
        waiting.counts[PREEMPTED] -= 1
    else:
        waiting.counts[ADMITTED] += 1


@called_by_compiled
def put_back(waiting: Any, r: int, by_priority: bool) -> None:
    """Request r was preempted."""
    waiting.counts[LENGTH] += 1
    if by_priority:
        _push(waiting, r)
    else:
        waiting.preempted[waiting.counts[PREEMPTED]] = r
        waiting.counts[PREEMPTED] += 1


@called_by_compiled
def preempt(
    place: int, books: Any, seats: Any, waiting: Any, cache: Any, requests: Any, limits: Any, rules: Any, oldest: int
) -> None:
    """The running request at `place` loses its seat and blocks, and waits to be computed again."""
    victim = seats.running[place]
    seats.counts[RUNNING] -= 1
    for i in range(place, seats.counts[RUNNING]):
        seats.running[i] = seats.running[i + 1]
    booked = books.booked[victim]
    free_seat(booked, seats, cache, requests.keys, victim, limits, rules.empty_first, oldest)
    books.noted[victim].preemptions += 1
    if booked.generated < booked.output:  # else it ends with the step in flight
        put_back(waiting, victim, rules.by_priority)


@called_by_compiled
def give_up_waiting(waiting: Any, r: int, by_priority: bool) -> None:
    """Request r, which is marked as gone, waits no more."""
    counts = waiting.counts
    if r >= counts[ENTERED]:
        return  # on its way to the queue
    counts[LENGTH] -= 1
    if by_priority:
        return
    for i in range(counts[PREEMPTED]):
        if waiting.preempted[i] == r:
            counts[PREEMPTED] -= 1
            for j in range(i, counts[PREEMPTED]):
                waiting.preempted[j] = waiting.preempted[j + 1]
            return


@called_by_compiled
def _before(waiting: Any, a: int, b: int) -> bool:
    return waiting.priority[a] < waiting.priority[b] or (waiting.priority[a] == waiting.priority[b] and a < b)


@called_by_compiled
def _push(waiting: Any, r: int) -> None:
    heap, place = waiting.heap, waiting.counts[HEAPED]
    waiting.counts[HEAPED] += 1
    while place > 0 and _before(waiting, r, heap[(place - 1) // 2]):
        heap[place] = heap[(place - 1) // 2]
        place = (place - 1) // 2
    heap[place] = r


@called_by_compiled
def _pop(waiting: Any) -> None:
    heap = waiting.heap
    waiting.counts[HEAPED] -= 1
    size, place = waiting.counts[HEAPED], 0
    r = heap[size]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _before(waiting, heap[child + 1], heap[child]):
            child += 1
        if not _before(waiting, heap[child], r):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = r
