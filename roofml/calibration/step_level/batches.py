"""Batches: what the steps of each cycle computed, as far as a sample can say.

A cycle time is the mean time of the steps between two samples, and the file holds only the sampled ones of them.
Sampled steps are taken as they are. Steps that were not sampled get their number of decodes by interpolation between
the samples on either side, because a batch changes slowly. Prefills come and go within a step, so each missing step is
represented by the prefills of all sampled steps around it. That is an average over different steps and not one average
step, because the time of a step is not linear where tokens are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.calibration.step_level.contexts import MeanContexts
from roofml.latency.batch import StepSums
from roofml.traces.steps.cycles import Cycles
from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError

SAMPLES_AROUND = 16
"""Sampled steps whose prefills stand for those of steps that were not sampled."""


@dataclass(frozen=True)
class CycleSteps:
    """The steps that cycles are made of. Those of a cycle stand together, in the order of the cycles."""

    steps: StepSums
    weight: Floats
    """(steps,) share of each in the mean time of its cycle; sums to 1 over a cycle."""
    start: Ints
    """(cycles,) row of the first step of each cycle."""
    stand_in: Floats
    """(steps,) 1 of a step that stands in for those that were not sampled, else 0."""
    missing: Floats
    """(cycles,) share of each cycle's steps that were not sampled."""
    count: Ints
    """(cycles,) its steps."""

    def mean(self, times: Floats) -> Floats:
        """Means over each cycle: shape (..., steps) -> (..., cycles)."""
        return np.add.reduceat(times * self.weight, self.start, axis=-1)

    def spread(self, times: Floats) -> Floats:
        """Standard deviation of each cycle's mean from not knowing which steps were not sampled, (cycles,).

        `times` (steps,): those that were not are as different as those that stand in for them.
        """
        here = np.maximum(np.add.reduceat(self.stand_in, self.start), 1.0)
        mean = np.add.reduceat(times * self.stand_in, self.start) / here
        square = np.add.reduceat(times**2 * self.stand_in, self.start) / here
        return np.sqrt(np.maximum(square - mean**2, 0.0) * self.missing / self.count)


def cycle_steps(steps: SampledSteps, cycles: Cycles, means: MeanContexts, budget: int) -> CycleSteps:
    """What the steps of every cycle computed, with contexts a request from `means`.

    Raises InputError where a sampled step has more new tokens than the server's `budget` for one.
    """
    most = int((steps.prefill_tokens + steps.decode_requests).max())
    if most > budget:
        raise InputError(
            f"{steps.name}: a step of {most} new tokens, but the server's max_num_batched_tokens is {budget}"
        )
    samples = len(steps)
    around = min(SAMPLES_AROUND, samples)
    # Rows of the sampled steps of each cycle: from `first` on, `count` of them at most.
    low = np.searchsorted(steps.id, cycles.first)
    high = np.searchsorted(steps.id, cycles.first + cycles.count)
    known = high - low
    missing = cycles.count - known
    spread = np.where(missing > 0, around, 0)
    size = known + spread
    start = np.concatenate(([0], np.cumsum(size)[:-1]))
    cycle = np.repeat(np.arange(len(cycles)), size)
    place = np.arange(len(cycle)) - start[cycle]
    sampled = place < known[cycle]
    # A stand-in takes its prefills from a sample around, its decodes and contexts from where it stands.
    window = np.clip(cycles.before - around // 2 + 1, 0, samples - around)
    source = np.where(sampled, low[cycle] + place, window[cycle] + place - known[cycle])
    middle = _middle_of_missing(steps, cycles, low, high, missing)
    decodes = np.where(
        sampled, steps.decode_requests[source], np.rint(np.interp(middle, steps.id, steps.decode_requests))[cycle]
    )
    nearest = np.where(sampled, source, cycles.before[cycle])
    prefills, new = steps.prefill_requests[source].astype(np.float64), steps.prefill_tokens[source].astype(np.float64)
    new = np.minimum(new, budget - decodes)  # a stand-in's own decodes were fewer
    before = means.prefill[source] * prefills
    each = new / np.maximum(prefills, 1)
    pairs = each * before + new * (each + 1) / 2
    if means.pairs is not None:
        known_pairs = means.pairs[source]
        pairs = np.where(sampled & np.isfinite(known_pairs), known_pairs, pairs)
    weight = np.where(sampled, 1.0, (missing / np.maximum(spread, 1))[cycle]) / cycles.count[cycle]
    return CycleSteps(
        StepSums(
            prefill_tokens=new,
            decode_tokens=decodes.astype(np.float64),
            requests=prefills + decodes,
            prefill_pairs=pairs,
            prefill_context=before,
            decode_context=means.decode[nearest] * decodes,
            decode_beyond=means.beyond[nearest] * decodes,
        ),
        weight,
        start,
        np.where(sampled, 0.0, 1.0),
        missing / cycles.count,
        cycles.count,
    )


def _middle_of_missing(steps: SampledSteps, cycles: Cycles, low: Ints, high: Ints, missing: Ints) -> Floats:
    """Mean number (`id`) of the steps of each cycle that were not sampled, (cycles,); 0 where none is missing."""
    total = np.concatenate(([0], np.cumsum(steps.id)))
    all_of_them = cycles.count * cycles.first + cycles.count * (cycles.count - 1) // 2
    return (all_of_them - (total[high] - total[low])) / np.maximum(missing, 1)
