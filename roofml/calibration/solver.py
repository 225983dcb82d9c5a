"""The solver of a request-level fit: damped least squares within bounds, every server at a pace of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from scipy.optimize import lsq_linear  # pyright: ignore[reportUnknownVariableType]

from roofml.calibration.objective import Frozen, freeze, latencies_and_gradients, latency_weights
from roofml.calibration.prior import Prior
from roofml.engine.replay import Schedule
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import LOGARITHMIC, LOWER, STEP_COUNT, UPPER, from_coordinates
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats

PACE_SD = 0.007
"""Servers of one model and GPU differ: one run takes this much longer for the same steps than another, relatively. In
the public runs the in-sample means of a model's runs scatter by 0.2 to 1 % at equal batch and context."""
SETTLED = 0.05
"""A fit has settled when no parameter moves by more than this share of its prior's standard deviation in a round."""


class Block(Protocol):
    """What something besides requests measured, as rows of the least-squares problem, frozen for a round."""

    @property
    def run(self) -> int:
        """Place of the run among those fitted whose server was measured."""
        ...

    def rows(self, values: Floats) -> Floats:
        """(rows, 1 + parameters + 1): derivatives of the weighted residuals by the logarithm of the server's pace and
        by the parameters, and the residuals."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """One round's least-squares problem: the frozen schedules, and what the requests in them measured."""

    frozen: list[Frozen]
    measured: list[tuple[Floats, Floats]]
    """Decode times and TTFTs (requests,)."""
    weights: list[tuple[Floats, Floats, Floats]]
    """As `latency_weights` has them."""
    place: list[int]
    """Of the run that each is of."""
    runs: int
    prior: Prior
    blocks: Sequence[Block]

    @classmethod
    def of(
        cls,
        selections: Sequence[Selection],
        schedules: Sequence[Schedule],
        tables: Sequence[ComponentTables],
        x: Floats,
        prior: Prior,
        blocks: Sequence[Block] = (),
    ) -> Problem:
        """The problem of the selected requests of each run, weighted for coordinates near `x`."""
        pairs = zip(selections, schedules, strict=True)
        selections = [selection.completed_in(schedule.last_step >= 0) for selection, schedule in pairs]
        place = [i for i, selection in enumerate(selections) if len(selection)]
        frozen = [freeze(schedules[i], tables[i], selections[i].requests) for i in place]
        measured = [_measured(selections[i]) for i in place]
        weights = [latency_weights(from_coordinates(x), *of_run) for of_run in zip(frozen, measured, strict=True)]
        return cls(frozen, measured, weights, place, len(selections), prior, blocks)

    def qr_factor(self, x: Floats) -> Floats:
        """R of the QR factorization of [jacobian | residuals], priors included: (parameters + 1, parameters + 1).

        Its last column's norm is that of the residuals, and R'R their normal equations: 50,000 rows become 28. The
        paces of the servers have taken their best values for these coordinates.
        """
        whitening = self.prior.whitening()
        prior = np.column_stack((whitening, whitening @ (x - self.prior.mean)))
        return _qr(np.vstack([prior, *(run[1:, 1:] for run in self._qr_factors(x))]))

    def paces(self, x: Floats) -> list[float]:
        """The pace of each run's server for coordinates x; 1 of a run without a row."""
        return [float(np.exp(-run[0, -1] / run[0, 0])) for run in self._qr_factors(x)]

    def _qr_factors(self, x: Floats) -> list[Floats]:
        """For each run R of its rows, with the logarithm of its server's pace, around 0, as the first column."""
        values = from_coordinates(x)
        by_coordinate = np.concatenate(([1.0], np.where(LOGARITHMIC, values, 1.0), [1.0]))
        believed = np.zeros((1, len(by_coordinate)))
        believed[0, 0] = 1 / PACE_SD
        rows: list[list[Floats]] = [[believed] for _ in range(self.runs)]
        for i, f, measured, weights in zip(self.place, self.frozen, self.measured, self.weights, strict=True):
            decode, ttft, decode_by, ttft_by = latencies_and_gradients(values, f)
            for now, by, truth, weight in (
                (decode, decode_by, measured[0], weights[0]),
                (ttft, ttft_by, measured[1], weights[1]),
                (decode + ttft, decode_by + ttft_by, measured[0] + measured[1], weights[2]),
            ):
                paced = now - by[:, STEP_COUNT:] @ values[STEP_COUNT:]
                rows[i].append(_qr(np.column_stack((paced, by, now - truth)) * weight[:, None] * by_coordinate))
        for more in self.blocks:
            rows[more.run].append(_qr(more.rows(values) * by_coordinate))
        return [_qr(np.vstack(of_run)) for of_run in rows]


def _qr(rows: Floats) -> Floats:
    """R of the QR factorization, square; with rows of zeros where there are fewer rows than columns."""
    missing = max(0, rows.shape[1] - len(rows))
    full = np.vstack((rows, np.zeros((missing, rows.shape[1])))) if missing else rows
    return np.asarray(np.linalg.qr(full, mode="r"), np.float64)


def solve(problem: Problem, x: Floats) -> tuple[Floats, Floats, float]:
    """Damped Gauss-Newton within the bounds: the best coordinates, the normal matrix there and the residuals' norm."""
    r = problem.qr_factor(x)
    for _ in range(10):
        solution = cast("Any", lsq_linear(r[:, :-1], -r[:, -1], bounds=(LOWER - x - 1e-12, UPPER - x + 1e-12)))
        step = np.asarray(solution.x, np.float64)
        for damping in (1.0, 0.5, 0.25, 0.1, 0.03):
            tried: Floats = np.clip(x + damping * step, LOWER, UPPER)
            r_tried = problem.qr_factor(tried)
            if np.linalg.norm(r_tried[:, -1]) < np.linalg.norm(r[:, -1]):
                break
        else:
            break
        moved = float(np.max(np.abs(tried - x) / problem.prior.sd))
        x, r = tried, r_tried
        if moved < SETTLED / 5:
            break
    return x, r[:, :-1].T @ r[:, :-1], float(np.linalg.norm(r[:, -1]))


def _measured(selection: Selection) -> tuple[Floats, Floats]:
    """Decode times and TTFTs (requests,)."""
    run, chosen = selection.run, selection.requests
    return (run.e2e_us - run.ttft_us)[chosen], run.ttft_us[chosen]
