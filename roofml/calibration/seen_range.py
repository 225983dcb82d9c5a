"""The range of steps that a fit has seen, and how far other steps leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from roofml.latency.batch import StepSums
from roofml.util.arrays import Floats

WORDS = {"batch": "batch", "context": "mean context", "new_tokens": "new tokens"}
"""What a range is of -> for people to read."""


@dataclass(frozen=True)
class Beyond:
    """How steps leave one range."""

    name: str
    """A key of WORDS."""
    asked: tuple[int, int]
    """Smallest and largest of the steps."""
    seen: tuple[int, int]
    """Smallest and largest that the fit has seen."""
    steps_pct: float
    """Share of the steps that lie outside."""

    @property
    def sentence(self) -> str:
        """For people to read."""
        low, high = self.seen
        return (
            f"{WORDS[self.name]} {self.asked[0]} to {self.asked[1]}: the fit has seen {low} to {high} "
            f"({self.steps_pct:.3g} % of steps lie outside)"
        )


def beyond(
    steps: StepSums, valid: Mapping[str, tuple[int, int]], more_than_pct: float, room: float = 0.0
) -> list[Beyond]:
    """The ranges of `valid` that more than so many per cent of `steps` leave by more than the share `room`."""
    decodes = steps.decode_tokens > 0
    context = steps.decode_context[decodes] / steps.decode_tokens[decodes]
    asked = {"batch": steps.requests, "context": context, "new_tokens": steps.new_tokens}
    left: list[Beyond] = []
    for name, (low, high) in valid.items():
        values = asked[name]
        share = 100 * float(np.mean((values < low * (1 - room)) | (values > high * (1 + room)))) if len(values) else 0.0
        if share > more_than_pct:
            left.append(Beyond(name, (int(values.min()), int(values.max())), (low, high), share))
    return left


def excesses(steps: StepSums, valid: Mapping[str, tuple[int, int]]) -> Floats:
    """(steps,) logarithm of how many times as much, or as little, as any that was seen: of the range that a step leaves
    most. 0 within all of them."""
    decodes = steps.decode_tokens > 0
    asked = {
        "batch": steps.requests,
        "context": steps.decode_context / np.maximum(steps.decode_tokens, 1),
        "new_tokens": steps.new_tokens,
    }
    most = np.zeros(steps.length)
    for name, (low, high) in valid.items():
        values = np.maximum(asked[name], 1.0)
        off = np.maximum(np.log(values / max(high, 1)), np.log(max(low, 1) / values))
        most = np.maximum(most, np.where(decodes, off, 0.0) if name == "context" else off)
    return most
