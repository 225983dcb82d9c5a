"""FittedRun: one run that a calibration was learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FittedRun:
    """A run that was learned from."""

    name: str
    identity: str
    """Digest of what was measured; empty in a file of 0.1.0."""
    pace: float | None
    """Its server's step times over those of the parameters; None where none was found."""
    error_pct: Mapping[str, float] = field(default_factory=dict[str, float])
    """Signed errors of the means on the requests fitted, %; empty where they were not."""
    requests: int = 0
    """Requests behind the errors."""
    means_alone: bool = False
    """Means and percentiles of it were learned from, and no request's times."""
    forwards: bool = False
    """It is a file of exact batches, and no request was served."""
