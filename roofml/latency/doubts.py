"""Doubts: why a deployment's step times are less sure than those of one that was measured, and by how much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Doubt:
    """One reason. Doubts are independent: their variances add."""

    name: str
    """Short, for a table: neighbour GPU, other dtype, other version, no table, other engine, ..."""
    sentence: str
    """For people: what stands for what."""
    sd: float
    """Relative standard deviation of a step's time from this alone."""

    @property
    def variance(self) -> float:
        """Of the step time's logarithm."""
        return self.sd**2

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"name": self.name, "sentence": self.sentence, "sd_pct": 100 * self.sd}


def total_sd(doubts: Iterable[Doubt]) -> float:
    """Relative standard deviation of a step's time from all of them."""
    return sum(doubt.variance for doubt in doubts) ** 0.5


def by_size(doubts: Iterable[Doubt]) -> list[Doubt]:
    """The largest first; equal ones by name."""
    return sorted(doubts, key=lambda doubt: (-doubt.sd, doubt.name))
