"""The unit of a run's times: whether they can be µs at all. Tools also write ms, s or ns, and nothing else shows it."""

from __future__ import annotations

import numpy as np

from roofml.traces.finding import Evidence, Finding
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats
from roofml.util.display import us

MOST = 0.9
"""Share of the requests that must be out of bounds: wrong counts and bundled chunks put many out, never nearly all."""
SHORTEST_TTFT_US = 100.0
"""A network alone takes longer."""
LONGEST_TTFT_US = 36_000e6
SHORTEST_TOKEN_US = 100.0
"""To read a model of 100 million weights takes longer on any GPU."""
LONGEST_TOKEN_US = 1e6
"""Real servers at their limit take 0.06 s."""
USUAL_TTFT_US = (2e3, 600e6)
USUAL_TOKEN_US = (1.5e3, 500e3)
UNITS = {"ms": 1e3, "ns": 1e-3, "s": 1e6}
"""Unit -> µs."""


def time_unit(run: Run) -> list[Finding]:
    """The finding about times that are no µs, and the unit that they look like."""
    several = run.ok & (run.output_tokens > 1)
    bundled = run.e2e_us <= run.ttft_us
    ttft_us, token_us = run.ttft_us[run.ok], run.tpot_us[several & ~bundled]
    wrong = _nearly_all(ttft_us < SHORTEST_TTFT_US) or _nearly_all(ttft_us > LONGEST_TTFT_US)
    if len(token_us) >= len(ttft_us) / 2:
        wrong |= _nearly_all(token_us < SHORTEST_TOKEN_US) or _nearly_all(token_us > LONGEST_TOKEN_US)
    if not wrong:
        return []
    first = _median(ttft_us)
    token = _median(token_us) if len(token_us) else None
    unit = _unit(first, token)
    read = f"read as {unit} they would be usual" if unit else "in ms, s and ns they are as unusual"
    tokens = f" and a token every {us(token)}" if token is not None else ""
    evidence: Evidence = {"ttft_median_us": first, "token_median_us": token, "unit": unit}
    return [
        Finding(
            "time-unit-doubtful",
            "error",
            f"No server has a first chunk after {us(first)}{tokens} (medians): the times are no µs; {read}.",
            evidence,
            "Write all times of the trace in µs. Do not fit before that.",
        )
    ]


def _nearly_all(wrong: Bools) -> bool:
    return bool(wrong.mean() >= MOST) if len(wrong) else False


def _median(values: Floats) -> float:
    return round(float(np.median(values)), 3)


def _unit(ttft: float, token: float | None) -> str | None:
    """The unit in which the two medians are usual."""
    for unit, factor in UNITS.items():
        usual = USUAL_TTFT_US[0] <= factor * ttft <= USUAL_TTFT_US[1]
        if usual and (token is None or USUAL_TOKEN_US[0] <= factor * token <= USUAL_TOKEN_US[1]):
            return unit
    return None
