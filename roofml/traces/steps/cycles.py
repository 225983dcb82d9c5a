"""Cycles: the time from one step to the next, from neighbouring sampled steps.

`step.duration_us` is the time inside one call of the scheduler; the GPU works on. The time of a step is in the same
table: between two sampled steps i and j the server formed id[j] - id[i] batches, so that one cycle took, on average,
(start[j] - start[i]) / (id[j] - id[i]).

Whose time it is: with async scheduling the batch of a step is formed while the step before runs, so the scheduler
starts on step n when step n - 2 ends. From the start of i to that of j the GPU therefore works on the steps
id[i] - 1 ... id[j] - 2; without async scheduling on id[i] ... id[j] - 1. Cold prompts in real tables show it: a step of
1,522 prompt tokens (Llama-2-70B on four H100) leaves its own cycle as short as the prompt before it allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError

MOST_APART = 5
"""Steps between neighbours past which their mean says little about one cycle: the batch has changed meanwhile. Of
neighbours sampled at 10 % two fifths are within it, of those at 1 % a twentieth."""


@dataclass(frozen=True)
class Cycles:
    """Mean times of cycles between neighbouring samples. Arrays have shape (cycles,)."""

    before: Ints
    """Row of the sampled step that each begins with; the next row ends it."""
    first: Ints
    """Number (`id`) of the first step whose time it is."""
    count: Ints
    """Steps whose mean time it is."""
    time_us: Floats
    """Mean time of one of them."""
    apart: int
    """Neighbours further than MOST_APART steps apart, not used."""
    idle: int
    """Neighbours near enough of which one had an empty batch: the time between is the load's, not the server's."""

    def __len__(self) -> int:
        return len(self.before)

    def take(self, which: Bools) -> Cycles:
        """Those where `which` (cycles,) is True."""
        return Cycles(
            self.before[which], self.first[which], self.count[which], self.time_us[which], self.apart, self.idle
        )


def cycles(steps: SampledSteps, ahead: int, most_apart: int = MOST_APART) -> Cycles:
    """The cycles of neighbours at most `most_apart` steps apart between which the server did not idle.

    `ahead`: how many steps before the one it forms the GPU is at: 1 with async scheduling, else 0. Raises InputError
    when none is left.
    """
    count = np.diff(steps.id)
    time = np.diff(steps.start_us) / count
    near = count <= most_apart
    empty = (steps.requests[:-1] == 0) | (steps.requests[1:] == 0)
    before = np.flatnonzero(near & ~empty)
    if len(before) == 0:
        raise InputError(f"{steps.name}: no two neighbouring steps of a busy server within {most_apart} of each other")
    return Cycles(
        before=before,
        first=steps.id[before] - ahead,
        count=count[before],
        time_us=time[before],
        apart=int((~near).sum()),
        idle=int((near & empty).sum()),
    )
