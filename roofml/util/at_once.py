"""At once: the same of several things, on as many cores as there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def each(function: Callable[[S], T], things: Sequence[S], most: int | None = None) -> list[T]:
    """What `function` makes of each of `things`, in their order, of `most` at a time where memory sets a limit.

    For compiled code, which lets other threads run.
    """
    workers = min(os.cpu_count() or 1, len(things), len(things) if most is None else most)
    if workers < 2:
        return [function(thing) for thing in things]
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(function, things))
