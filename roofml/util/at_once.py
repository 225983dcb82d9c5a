"""At once: the same of several things, on as many cores as there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def each(function: Callable[[S], T], things: Sequence[S]) -> list[T]:
    """What `function` makes of each of `things`, in their order. For compiled code, which lets other threads run."""
    if len(things) < 2:
        return [function(thing) for thing in things]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(things))) as threads:
        return list(threads.map(function, things))
