"""Cycles: the time from one step to the next, from neighbouring sampled steps.

`step.duration_us` is the time inside one call of the scheduler, after which the GPU works on. The start times give the
time of a step: between two sampled steps i and j the server formed id[j] - id[i] batches, so that one cycle took
(start[j] - start[i]) / (id[j] - id[i]) on average.

Which steps the time belongs to depends on the scheduler. With async scheduling the batch of a step is formed while the
step before runs, so the scheduler starts on step n when step n - 2 ends. From the start of i to that of j the GPU
therefore works on the steps id[i] - 1 ... id[j] - 2; without async scheduling on id[i] ... id[j] - 1. Cold prompts in
real tables show this: a step of 1,522 prompt tokens (Llama-2-70B on four H100) does not lengthen its own cycle, which
is as short as the prompt before it allows.

Logs that note what a step itself took need none of this: each is a cycle of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError

MOST_APART = 5
"""Most steps between neighbours whose mean is used. Further apart the batch has changed, and the mean says little about
one cycle. If 10 % of steps are sampled, two fifths of neighbours are near enough, if 1 %, a twentieth."""


@dataclass(frozen=True, eq=False)
class Cycles:
    """Mean times of cycles between neighbouring samples. Arrays have shape (cycles,)."""

    before: Ints
    """Row of the sampled step that begins the cycle; the next row ends it."""
    first: Ints
    """Number (`id`) of the first step that the time covers."""
    count: Ints
    """Number of steps that the time covers."""
    time_us: Floats
    """Mean time of one of these steps, µs."""
    apart: int
    """Number of neighbours more than MOST_APART steps apart, which are not used."""
    idle: int
    """Number of near neighbours of which one had an empty batch: the load sets the time between, not the server."""

    def __len__(self) -> int:
        return len(self.before)

    def take(self, chosen: Bools) -> Cycles:
        """The cycles where `chosen` (cycles,) is True."""
        arrays = {name: getattr(self, name)[chosen] for name in ("before", "first", "count", "time_us")}
        return replace(self, **arrays)


def cycles(steps: SampledSteps, ahead: int, most_apart: int = MOST_APART) -> Cycles:
    """The cycles of neighbours at most `most_apart` steps apart between which the server did not idle.

    The scheduler is `ahead` of the GPU by this number of steps: 1 with async scheduling, else 0. Raises InputError if
    no cycle is left.
    """
    if steps.own_us is not None:
        return _own(steps, steps.own_us)
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


def _own(steps: SampledSteps, own_us: Floats) -> Cycles:
    """A cycle for each step whose own time is known."""
    empty = steps.requests == 0
    timed = np.isfinite(own_us) & (own_us > 0)
    before = np.flatnonzero(timed & ~empty)
    if len(before) == 0:
        raise InputError(f"{steps.name}: no step of a busy server has a time, expected at least one")
    return Cycles(
        before=before,
        first=steps.id[before],
        count=np.ones(len(before), np.int64),
        time_us=own_us[before],
        apart=int((~timed & ~empty).sum()),
        idle=int(empty.sum()),
    )
