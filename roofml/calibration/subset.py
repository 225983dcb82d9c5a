"""Subset: which requests of a very long run are fitted, chosen by information.

Requests of one run share what the formula gets wrong about it (`objective`), so a million say no more than some
thousand of the same kind. Which kinds there are, the derivatives tell: a stretch of requests is summed up in its
information matrix, the mean of squared derivatives of its latencies' logarithms by everything that is fitted. Stretches
are chosen so that their mean is that of the whole run: they then say of each parameter, and of each combination, what
all say (herding; Welling 2009). The first and the last are always among them, for what a server
does once and for the pace at which it ends, and those with the smallest and the largest steps.

The chosen are served alone, with what was sent around them (`thinning`). Whether that is how they were served among all
is looked at, and a run for which it is not so is fitted whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from roofml.calibration.fitted_run import FittedRun
from roofml.calibration.measured_load import decode_ratio
from roofml.calibration.objective import (
    COLD,
    DECODE_DISCREPANCY,
    TTFT_DISCREPANCY,
    freeze,
    latencies_and_gradients,
)
from roofml.calibration.prior import Prior
from roofml.calibration.solver import PACE_SD
from roofml.calibration.thinning import (
    LONG_RUN,
    MOST_KEPT,
    around_us,
    blocks_of,
    can_be_thinned,
    pilot,
    served_alike,
    thinned,
)
from roofml.engine.replay import Schedule, replay
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import LOGARITHMIC, STEP_COUNT, Parameters
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats, Ints

LONG_FIT, FEWEST = 100_000, 2_000
"""A run of more than `LONG_RUN` requests is fitted on a subset; of runs with more than the first together, each one
with more than its share of it, but for those shorter than the second."""
SUBSET = 8_000
"""Requests of a subset, at least. The mean of so many differs from the formula's by what the formula gets wrong, and
the tail of their waits shows pauses of a front end."""
LESS = 0.03
"""Along no direction does the subset say so much less than the whole, as a share, or it grows. More is welcome: what
happens once in a run is in the subset too, among fewer."""
STEPS_AT_ONCE = 65_536
"""Of which derivatives are held in memory."""
TRIES = 3
"""Times that what is kept around a stretch is doubled."""


class Subset(NamedTuple):
    """What was fitted of a run."""

    fitted: int
    of: int
    """Requests that could have been."""
    information: float
    """Of the least known direction among those that the whole run tells something of: the subset's share."""


def subsets_said(found: Mapping[str, Subset], runs: Sequence[FittedRun]) -> list[str]:
    """One sentence for each run of which a subset was fitted; `found` by the run's identity."""
    return [
        f"{run.name}: fitted on {subset.fitted:,} of {subset.of:,} requests, chosen by information: of every parameter "
        f"and combination they say at least {100 * subset.information:.3g} % of what all say"
        for run in runs
        if (subset := found.get(run.identity)) is not None
    ]


def subsets_written(found: Mapping[str, Subset | None]) -> dict[str, dict[str, float]] | None:
    """The subsets by run as a coefficients file has them; None without any."""
    return {
        name: {**subset._asdict(), "information": float(f"{subset.information:.4g}")}
        for name, subset in found.items()
        if subset is not None
    } or None


def subsets_of(
    selections: Sequence[Selection], tables: Sequence[ComponentTables], prior: Prior
) -> tuple[list[Selection], dict[str, Subset]]:
    """The selections, very long ones as subsets; and what was left out, by the run's identity."""
    total = sum(map(len, selections))
    most = LONG_RUN if total <= LONG_FIT else min(LONG_RUN, max(FEWEST, LONG_FIT // len(selections)))
    chosen, said = list(selections), dict[str, Subset]()
    for i, (selection, of_run) in enumerate(zip(selections, tables, strict=True)):
        if len(selection) > most and can_be_thinned(selection):
            found = _subset(selection, of_run, prior, min(SUBSET, most // 2))
            if found is not None:
                chosen[i], said[selection.run.identity] = found
    return chosen, said


def _subset(selection: Selection, tables: ComponentTables, prior: Prior, least: int) -> tuple[Selection, Subset] | None:
    """The subset of one run; None where it has to be fitted whole."""
    pace = decode_ratio(pilot(selection), tables, prior.values)
    parameters = Parameters.of(prior.values).paced(pace if np.isfinite(pace) else 1.0)
    served = replay(selection.run, tables, parameters)
    blocks = blocks_of(selection.completed_in(served.completed))
    blocks = [block for block in blocks if len(block)]
    if sum(map(len, blocks)) < 2 * least:
        return None
    information = _information(served.schedule, tables, prior, blocks)
    first = _must_have(served.schedule, selection, blocks)
    taken, share = _alike(information, np.array([len(block) for block in blocks]), first, least)
    stretches = [blocks[number] for number in sorted(taken)]
    before_us = around_us(selection)
    for _ in range(TRIES):
        alone, places = thinned(selection, stretches, before_us)
        if len(places) > MOST_KEPT * len(selection.run):
            return None
        if served_alike(alone, replay(alone.run, tables, parameters), served, places):
            return alone, Subset(len(alone), len(selection), share)
        before_us *= 2
    return None


def _information(schedule: Schedule, tables: ComponentTables, prior: Prior, blocks: Sequence[Ints]) -> Floats:
    """(blocks, coordinates, coordinates) information of each, as if the run were made of nothing else.

    Coordinates are those of the prior, in directions along which it is 1, and the logarithm of the server's pace.
    """
    values = prior.values
    root = np.linalg.cholesky(prior.covariance)
    by_coordinate = np.where(LOGARITHMIC, values, 1.0)[:, None] * root
    found: list[Floats] = []
    for together in _pieces(schedule, blocks):
        frozen = freeze(_piece(schedule, np.concatenate(together)), tables, np.ones(sum(map(len, together)), np.bool_))
        decode, ttft, decode_by, ttft_by = latencies_and_gradients(values, frozen)
        warm: Bools = np.logical_not(
            (decode_by + ttft_by)[:, -COLD:].any(axis=1)
        )  # the others count by their mean alone
        ends = np.cumsum([0, *map(len, together)])
        for begin, end in pairwise(ends.tolist()):
            matrix = np.zeros((len(values) + 1, len(values) + 1))
            for now, by, sd in ((decode, decode_by, DECODE_DISCREPANCY), (ttft, ttft_by, TTFT_DISCREPANCY)):
                counted: Bools = warm[begin:end] & (now[begin:end] > 0)
                some, slopes = now[begin:end][counted], by[begin:end][counted]
                paced = PACE_SD * (some - slopes[:, STEP_COUNT:] @ values[STEP_COUNT:])
                rows = np.column_stack((paced, slopes @ by_coordinate)) / (sd * some[:, None])
                matrix += rows.T @ rows / (end - begin)
            found.append(matrix)
    return np.array(found)


def _pieces(schedule: Schedule, blocks: Sequence[Ints]) -> Iterator[list[Ints]]:
    """Blocks one after another, as many together as have not too many steps: memory does not grow with the run."""
    together: list[Ints] = []
    for block in blocks:
        more = [*together, block]
        low, high = _span(schedule, np.concatenate((more[0], block)))
        if together and high - low > STEPS_AT_ONCE:
            yield together
            more = [block]
        together = more
    if together:
        yield together


def _span(schedule: Schedule, requests: Ints) -> tuple[int, int]:
    """The first step that any of these waits for, one before it, and the end of the last that it takes."""
    queued_us = float(schedule.queued_us[requests].min())
    entered = int(np.searchsorted(schedule.step_start_us, queued_us - 1e-6))
    return max(0, entered - 1), int(schedule.last_step[requests].max()) + 1


def _piece(schedule: Schedule, requests: Ints) -> Schedule:
    """The schedule of these requests alone, and its steps from the first of them to the last."""
    low, high = _span(schedule, requests)
    taken = schedule.taken(requests)
    return replace(
        taken,
        steps=schedule.steps.at(slice(low, high)),
        step_start_us=schedule.step_start_us[low:high],
        step_time_us=schedule.step_time_us[low:high],
        first_step=taken.first_step - low,
        last_step=taken.last_step - low,
        cold=schedule.cold[:, low:high],
    )


def _must_have(schedule: Schedule, selection: Selection, blocks: Sequence[Ints]) -> list[int]:
    """The first block and the last, and those that meet the largest and smallest batch, mean context and new tokens."""
    begins = selection.run.arrival_us[np.array([block[0] for block in blocks])]
    ends = schedule.last_step[blocks[-1]].max() + 1
    steps, starts = schedule.steps.at(slice(0, int(ends))), schedule.step_start_us[: int(ends)]
    contexts = np.where(steps.decode_tokens > 0, steps.decode_context / np.maximum(steps.decode_tokens, 1), np.nan)
    places = [0, len(blocks) - 1]
    for values in (steps.requests, steps.new_tokens, contexts):
        if np.isfinite(values).any():
            for step in (np.nanargmax(values), np.nanargmin(values)):
                places.append(max(0, int(np.searchsorted(begins, float(starts[step]), side="right")) - 1))
    return list(dict.fromkeys(places))


def _alike(information: Floats, counts: Ints, first: Sequence[int], least: int) -> tuple[list[int], float]:
    """Blocks whose mean information is nearly that of all, beginning with `first`, and its least share of it.

    Greedy: each next one makes the mean most like the whole's. All is seen in units of what is known after the whole.
    """
    size = information.shape[1]
    whole = np.average(information, axis=0, weights=counts)
    back = np.linalg.inv(np.linalg.cholesky(np.eye(size) + whole))
    seen = (back @ information @ back.T).reshape(len(information), -1)
    wanted = (back @ whole @ back.T).reshape(-1)
    length = np.sum(seen**2, axis=1)
    taken = list(first)
    total, fitted = seen[taken].sum(axis=0), int(counts[taken].sum())
    left: Bools = np.ones(len(seen), np.bool_)
    left[taken] = False
    share = _least_share(total / len(taken), wanted, size)
    while left.any() and (fitted < least or share < 1 - LESS):
        apart = 2 * seen @ (total - (len(taken) + 1) * wanted) + length
        best = int(np.argmin(np.where(left, apart, np.inf)))
        taken.append(best)
        left[best] = False
        total, fitted = total + seen[best], fitted + int(counts[best])
        share = _least_share(total / len(taken), wanted, size)
    return taken, min(1.0, share)


def _least_share(mean: Floats, wanted: Floats, size: int) -> float:
    """Precision along the direction that it says least of, over the whole's, priors included."""
    return float(np.linalg.eigvalsh(np.eye(size) + (mean - wanted).reshape(size, size))[0])
