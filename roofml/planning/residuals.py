"""Residuals: how far the requests of a new run are from what a calibration says, and what each parameter would change.

The run is replayed at the measured load (`calibration.measured_load`) and its schedule frozen, so that a slower server
shows as longer steps and not as the longer queue that they make as well. Requests that are at both ends of a recording
are left out: of the first, those before them are not known; the last ones share batches that empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.measured_load import at_measured_load
from roofml.calibration.objective import COLD, freeze, latencies_and_gradients
from roofml.engine.replay import Schedule
from roofml.latency.parameters import LOGARITHMIC, STEP_COUNT
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError

FEWEST = 50
"""Requests, without those at both ends and those that a cold start touched, that a verdict takes at least."""

KNOWN, EARLY = 0.95, 0.25
"""Share of the repeated prompts that were sent once, and the share of a run in which they have to be."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One latency of every request that has it, against the calibration."""

    request: Ints
    """(rows,) places in the run."""
    residual: Floats
    """(rows,) logarithm of measured over predicted."""
    slopes: Floats
    """(rows, parameters) derivatives of the logarithm of the prediction by the coordinates of the parameters."""
    pace: Floats
    """(rows,) derivative by the logarithm of the server's pace."""
    begin_us: Floats
    """(rows,) when what was measured began, µs of the run."""
    end_us: Floats
    """(rows,) and when it ended."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """Decode times and TTFTs of a run's requests against a calibration."""

    decode: Rows
    ttft: Rows
    schedule: Schedule
    """At the measured load."""


def settled(selection: Selection) -> Selection:
    """The selected requests without those at the ends of the recording.

    Left out are those sent within a mean E2E of the first, or while the prompts that repeat were new to the recording,
    and those that got their last token after the last was sent. Raises InputError where too few are left.
    """
    run = selection.run
    if not len(selection):
        raise InputError(f"{run.name}: no request was answered: there is nothing to check")
    mean_e2e_us = float(np.mean(run.e2e_us[selection.requests]))
    begin_us = max(run.arrival_us[0] + mean_e2e_us, _cached_from_us(selection))
    with np.errstate(invalid="ignore"):
        inside = (run.arrival_us >= begin_us) & (run.arrival_us + run.e2e_us <= run.arrival_us[-1])
    kept = Selection(run, selection.requests & inside, selection.late)
    if len(kept) < FEWEST:
        raise InputError(_too_short(selection, len(kept), "sent and answered while others were", mean_e2e_us))
    return kept


def _cached_from_us(selection: Selection) -> float:
    """When most prompts that repeat have been sent once: a server that ran before may have known them.

    The beginning where new ones come all the time.
    """
    run = selection.run
    _, first = np.unique(run.prefix_group, return_index=True)
    first = first[run.prefix_group[first] >= 0]
    if not len(first):
        return float(run.arrival_us[0])
    early = first[first <= EARLY * len(run)]
    return float(run.arrival_us[early.max() if len(early) >= KNOWN * len(first) else 0])


def residuals_of(calibration: Calibration, selection: Selection) -> Residuals:
    """The residuals of the selected requests. Raises InputError where too few are left that say something."""
    run, values = selection.run, calibration.values
    tables = calibration.deployment.serving(run.server).tables
    schedule = at_measured_load(selection, tables, values)
    selection = selection.completed_in(schedule.last_step >= 0)
    frozen = freeze(schedule, tables, selection.requests)
    decode_us, ttft_us, decode_by, ttft_by = latencies_and_gradients(values, frozen)
    cold = (decode_by + ttft_by)[:, -COLD:].any(axis=1)
    request = np.flatnonzero(selection.requests)
    measured_ttft = run.ttft_us[request]
    measured_decode = run.e2e_us[request] - measured_ttft
    first_us = run.arrival_us[request] + measured_ttft
    decodes = ~cold & (decode_us > 0) & (measured_decode > 0) & (run.output_tokens[request] > 1)
    waits = ~cold & (ttft_us > 0) & (measured_ttft > 0)
    if decodes.sum() < FEWEST:
        mean_us = float(np.mean(run.e2e_us[request])) if len(request) else 0.0
        text = "with a decode time, and not touched by the stalls of a server that has just started"
        raise InputError(_too_short(selection, int(decodes.sum()), text, mean_us))
    by_coordinate = np.where(LOGARITHMIC, values, 1.0)

    def rows(chosen: Bools, measured: Floats, predicted: Floats, by: Floats, begin: Floats, end: Floats) -> Rows:
        slopes = by[chosen] / predicted[chosen, None]
        return Rows(
            request=request[chosen],
            residual=np.log(measured[chosen] / predicted[chosen]),
            slopes=slopes * by_coordinate,
            pace=1 - slopes[:, STEP_COUNT:] @ values[STEP_COUNT:],  # all that is no step's
            begin_us=begin[chosen],
            end_us=end[chosen],
        )

    sent_us = run.arrival_us[request]
    return Residuals(
        decode=rows(decodes, measured_decode, decode_us, decode_by, first_us, first_us + measured_decode),
        ttft=rows(waits, measured_ttft, ttft_us, ttft_by, sent_us, first_us),
        schedule=schedule,
    )


def _too_short(selection: Selection, left: int, what: str, mean_e2e_us: float) -> str:
    """Why a run says too little, and what would do."""
    return (
        f"{selection.run.name}: too short to check: {left} of {len(selection)} requests were {what}, expected at least "
        f"{FEWEST}; record 1,000 requests, and at least {max(60, 20 * mean_e2e_us / 1e6):.0f} s of the usual load"
    )
