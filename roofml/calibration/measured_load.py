"""Measured load: step times are scaled until a replay decodes for as long as was measured, so that loads agree.

With a queue, a step that is a little too long makes far more requests run at once: neither the schedule nor the ratio
of measured to predicted times says anything before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from roofml.calibration.seen_stalls import replay_as_seen
from roofml.engine.replay import Replay, Schedule
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import Parameters
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats

RATIO_ROUNDS = 12


class _Measured(NamedTuple):
    """The selected requests that decoded for a measured time, and the logarithm of its mean, µs; None without any."""

    requests: Bools
    log_us: float

    def short(self, replayed: Replay) -> float | None:
        """Logarithm of measured over replayed mean decode time; None where none of them completes there."""
        if not replayed.completed[self.requests].any():
            return None
        return self.log_us - float(np.log(np.nanmean((replayed.e2e_us - replayed.ttft_us)[self.requests])))


def _measured(selection: Selection) -> _Measured | None:
    run = selection.run
    decode_us = run.e2e_us - run.ttft_us
    with np.errstate(invalid="ignore"):  # an answer that came in one piece has no decode time
        decodes = selection.requests & (run.output_tokens > 1) & (decode_us > 0)
    return _Measured(decodes, float(np.log(np.mean(decode_us[decodes])))) if decodes.any() else None


def at_measured_load(selection: Selection, tables: ComponentTables, values: Floats) -> Schedule:
    """The schedule of a replay whose step times are scaled until mean decode time is the measured one."""
    parameters, measured = Parameters.of(values), _measured(selection)
    if measured is None:
        return replay_as_seen(selection, tables, parameters).schedule
    low, high, scale, last = np.log(0.05), np.log(20.0), 0.0, (0.0, 0.0)
    for attempt in range(16):
        result = replay_as_seen(selection, tables, parameters.paced(float(np.exp(scale))))
        short = measured.short(result)
        if short is None or abs(short) < 1e-3:
            break
        low, high = (low, scale) if short < 0 else (scale, high)
        slope = (last[1] - short) / (scale - last[0]) if attempt else 2.0
        last = (scale, short)
        guess = scale + short / max(slope, 1.0)
        scale = guess if low < guess < high else 0.5 * (low + high)
    return result.schedule  # pyright: ignore[reportPossiblyUnboundVariable]


def decode_ratio(selection: Selection, tables: ComponentTables, values: Floats) -> float:
    """Mean measured decode time over the predicted one, at the measured load: how much longer steps must have been.

    NaN where no decode time was measured. Ratios of a thousand, of a wrong unit, are found too, so nothing bounds
    them; where decode times never agree, the first guess stands if it is the milder.
    """
    parameters, measured = Parameters.of(values), _measured(selection)
    if measured is None:
        return float("nan")
    scale, first, last = 0.0, 0.0, (0.0, 0.0)
    for attempt in range(RATIO_ROUNDS):
        short = measured.short(replay_as_seen(selection, tables, parameters.paced(float(np.exp(scale)))))
        if short is None:
            break
        if not attempt:
            first = short
        if abs(short) < 0.01:
            return float(np.exp(scale))
        slope = (last[1] - short) / (scale - last[0]) if attempt else 1.0
        last = (scale, short)
        scale = float(np.clip(scale + short / max(slope, 0.5), -20.0, 20.0))
        if scale == last[0]:
            break
    return float(np.exp(min(scale, first, key=abs)))
