"""Information: what a set of measurements would add to what is known, the criterion of every design here.

Everything is linear and normal: knowledge is a covariance of coordinates, a measurement a row of derivatives of its
logarithm over its standard deviation. Two criteria, Bayesian both (Chaloner and Verdinelli 1995):

- D: entropy of the coordinates removed, in nats. For knowing parameters.
- I: variance of the predictions that are wanted, averaged over them. For predicting them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.util.arrays import Floats

EXCHANGES = 3
"""Passes over a greedy choice in which each member may be exchanged for a better one (Fedorov 1972)."""


def nats(before: Floats, after: Floats) -> float:
    """Entropy that leads from one covariance to another: half the logarithm of their determinants' ratio."""
    return 0.5 * float(np.linalg.slogdet(before)[1] - np.linalg.slogdet(after)[1])


def after(covariance: Floats, rows: Floats) -> Floats:
    """The covariance once `rows` (measurements, coordinates), each over its standard deviation, are measured.

    By the measurements' own covariance, so that what is known without doubt (a variance of 0) stays so.
    """
    moved = covariance @ rows.T
    gain = np.linalg.solve(np.eye(len(rows)) + rows @ moved, moved.T)
    left = covariance - moved @ gain
    return 0.5 * (left + left.T)


def variances(covariance: Floats, wanted: Floats) -> Floats:
    """(predictions,) variance of each prediction, from derivatives (predictions, coordinates) of its logarithm."""
    return np.sum((wanted @ covariance) * wanted, axis=1)


@dataclass(frozen=True, eq=False)
class Belief:
    """One set of parameter values that may be true, as a design sees it: everything linear around it."""

    rows: Floats
    """(candidates, coordinates): derivatives of the logarithm of each candidate's time, over its standard deviation."""
    wanted: Floats
    """(predictions, coordinates): derivatives of the logarithms of what is to be predicted."""

    @property
    def root(self) -> Floats:
        """(coordinates, some): its product with its transpose is the mean of the predictions' squared derivatives."""
        left, scale, _ = np.linalg.svd(self.wanted.T / len(self.wanted) ** 0.5, full_matrices=False)
        some = scale > 1e-12 * scale.max()
        return left[:, some] * scale[some]


def chosen(covariance: Floats, beliefs: Sequence[Belief], count: int) -> list[int]:
    """The `count` candidates that leave the least mean variance of what is wanted, over all beliefs, best first.

    Greedy, one at a time, and then exchanged as long as that helps. No candidate is taken twice: what the formula gets
    wrong about a batch, another timing of it gets wrong too.
    """
    count = min(count, len(beliefs[0].rows))
    state = _State(covariance, beliefs)
    picked: list[int] = []
    while len(picked) < count:
        best = int(np.argmax(state.gains(picked)))
        picked.append(best)
        state.add(best)
    for _ in range(EXCHANGES):
        moved = False
        for place in range(count):
            old = picked[place]
            state.remove(old)
            gains = state.gains([*picked[:place], *picked[place + 1 :]])
            best = int(np.argmax(gains))
            if gains[best] > gains[old] * (1 + 1e-6):
                picked[place], moved = best, True
            state.add(picked[place])
        if not moved:
            break
    return _ordered(covariance, beliefs, picked)


def _ordered(covariance: Floats, beliefs: Sequence[Belief], picked: Sequence[int]) -> list[int]:
    """The same candidates, each the best of those that are left."""
    places = np.array(picked, np.int64)
    state = _State(covariance, [Belief(belief.rows[places], belief.wanted) for belief in beliefs])
    order: list[int] = []
    while len(order) < len(picked):
        order.append(int(np.argmax(state.gains(order))))
        state.add(order[-1])
    return [picked[place] for place in order]


class _State:
    """What is known after some candidates, for each belief."""

    def __init__(self, covariance: Floats, beliefs: Sequence[Belief]) -> None:
        self.beliefs = beliefs
        self.left = [covariance] * len(beliefs)
        self.roots = [belief.root for belief in beliefs]
        self.starts = [float(np.sum((covariance @ root) * root)) for root in self.roots]

    def add(self, candidate: int) -> None:
        """Measure one more."""
        self._change(candidate, 1.0)

    def remove(self, candidate: int) -> None:
        """As if it had not been measured."""
        self._change(candidate, -1.0)

    def _change(self, candidate: int, sign: float) -> None:
        for place, belief in enumerate(self.beliefs):
            row = belief.rows[candidate]
            moved = self.left[place] @ row
            self.left[place] = self.left[place] - np.outer(moved, moved) * (sign / (1 + sign * float(row @ moved)))

    def gains(self, picked: Sequence[int]) -> Floats:
        """(candidates,) share of the first mean variance that each would remove; nothing for those that are there."""
        total = np.zeros(len(self.beliefs[0].rows))
        for belief, left, root, start in zip(self.beliefs, self.left, self.roots, self.starts, strict=True):
            moved = belief.rows @ left
            removed = np.sum((moved @ root) ** 2, axis=1)
            total += removed / (1 + np.sum(moved * belief.rows, axis=1)) / max(start, 1e-300)
        total[list(picked)] = -1.0
        return total / len(self.beliefs)
