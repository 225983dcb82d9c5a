"""Stages: the rates at which a run was sent, one after another, as its generator planned them or as they were."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats, Ints

AS_PLANNED = 1.25
"""A stage was sent as planned if its measured rate is at most so many times the planned one, or as much below it."""
DOUBLED = 1.8
"""Ratio of two measured rates from which the second is double the first: over some hundred requests a ratio is known to
a tenth."""
FEWEST = 50
"""Fewest requests by which a rate is measured."""
LEAST_SHARE = 0.05
"""Of a run's requests on either side of a change of rate; less is a burst."""
EVIDENCE = 10.0
"""Least gain in log-likelihood of two rates over one."""


def planned_stage(send_us: Floats, plan: Sequence[tuple[float, float]]) -> Ints:
    """(requests,) the stage of the generator's plan, from 0, that each request in the order of sending is of.

    `plan` holds requests per second and seconds of each stage, of which a run may have fewer or be cut short. Empty
    where nothing is planned, or where the rates of sending are not those of the plan.
    """
    none = np.zeros(0, np.int64)
    if not plan:
        return none
    ends = np.cumsum([round(rate * seconds) for rate, seconds in plan])
    stage = np.minimum(np.searchsorted(ends, np.arange(len(send_us)), side="right"), len(plan) - 1)
    for place, (rate, _) in enumerate(plan):
        measured = _rate_per_s(send_us[stage == place])
        if math.isfinite(measured) and not 1 / AS_PLANNED < measured / rate < AS_PLANNED:
            return none
    return stage


def low_and_high(run: Run) -> tuple[Bools, Bools] | None:
    """(requests,) those of the stage of the lowest rate, and those of the stages above it; None of a run of one stage.

    The stages are the generator's, where its plan is known; else the lowest is the first requests, before the measured
    rate doubles. Clients of a closed loop have no rate.
    """
    if run.clients:
        return None
    if not len(run.stage):
        change = first_doubling(run.arrival_us)
        position = np.arange(len(run))
        return None if change is None else (position < change, position >= change)
    rates = {int(stage): _rate_per_s(run.arrival_us[run.stage == stage]) for stage in np.unique(run.stage)}
    rates = {stage: rate for stage, rate in rates.items() if math.isfinite(rate)}
    if not rates:
        return None
    lowest = min(rates, key=lambda stage: rates[stage])
    above = [stage for stage, rate in rates.items() if rate > AS_PLANNED * rates[lowest]]
    return (run.stage == lowest, np.isin(run.stage, above)) if above else None


def first_doubling(arrival_us: Floats) -> int | None:
    """The first request after the rate of sending has doubled; None where it never does.

    The change is where two constant rates describe the arrivals best; it is sought again before it.
    """
    change, found = _change(arrival_us), None
    while change is not None:
        found = change
        change = _change(arrival_us[:change])
    return found


def _change(arrival_us: Floats) -> int | None:
    """Where two constant rates, the second double the first, describe arrivals best; None where one does."""
    least = max(FEWEST, math.ceil(LEAST_SHARE * len(arrival_us)))
    before = np.arange(least, len(arrival_us) - least + 1)
    if not len(before):
        return None
    whole_s = (arrival_us[-1] - arrival_us[0]) / 1e6
    first_s = np.maximum((arrival_us[before] - arrival_us[0]) / 1e6, 1e-9)
    after = len(arrival_us) - before
    second_s = np.maximum(whole_s - first_s, 1e-9)
    gain = before * np.log(before / first_s) + after * np.log(after / second_s)
    best = int(np.argmax(gain))
    one_rate = len(arrival_us) * math.log(len(arrival_us) / max(whole_s, 1e-9))
    ratio = (after[best] / second_s[best]) / (before[best] / first_s[best])
    return int(before[best]) if ratio >= DOUBLED and gain[best] - one_rate > EVIDENCE else None


def _rate_per_s(arrival_us: Floats) -> float:
    """Requests per second; NaN of too few to tell."""
    if len(arrival_us) < FEWEST or arrival_us[-1] <= arrival_us[0]:
        return math.nan
    return 1e6 * (len(arrival_us) - 1) / float(arrival_us[-1] - arrival_us[0])
