"""Limits of time that hold on a slow machine, and on one that is shared.

They were set on one machine. Where one is passed, a fixed piece of work says how much slower this one is, here and now.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

THERE_S = 0.02
"""What the piece of work takes on the machine of the limits."""


def assert_within(seconds: float, limit_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
    """Fail where something took longer than `limit_s` on the machine of the limits would be on this one."""
    if seconds < limit_s:
        return
    slower = max(1.0, statistics.median(_piece_of_work(clock) for _ in range(9)) / THERE_S)
    assert seconds < limit_s * slower, f"{seconds:.3g} s, expected less than {limit_s:g} s, {slower:.1f} times slower"


def best_s(job: Callable[[], object], times: int) -> float:
    """How long it takes, the best of so many times: the machine is shared."""
    taken: list[float] = []
    for _ in range(times):
        begin = time.perf_counter()
        job()
        taken.append(time.perf_counter() - begin)
    return min(taken)


@contextmanager
def quickly(limit_s: float, clock: Callable[[], float] = time.perf_counter) -> Generator[None]:
    """Fail where what is done within takes longer than that. `clock`: time.process_time for the processor's time."""
    begin = clock()
    yield
    assert_within(clock() - begin, limit_s, clock)


def _piece_of_work(clock: Callable[[], float]) -> float:
    begin = clock()
    for _ in range(4):
        json.loads(json.dumps({str(number): [number / 7] * 4 for number in range(1500)}))
    return clock() - begin
