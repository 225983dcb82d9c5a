"""The solver of a request-level fit: damped least squares within bounds, every server at a pace of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from roofml.calibration.bounded import solved_within
from roofml.calibration.front_end import pauses_of
from roofml.calibration.objective import (
    OUTLIER,
    Frozen,
    freeze,
    latencies_and_gradients,
    latency_weights,
    stairs_and_gradients,
)
from roofml.calibration.prior import Prior
from roofml.engine.replay import Schedule
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import LOGARITHMIC, LOWER, STEP_COUNT, UPPER, from_coordinates
from roofml.latency.pauses import NO_PAUSES, Pauses
from roofml.latency.stairs import SIZES, stair_sd
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats, Ints
from roofml.util.at_once import each

PACE_SD = 0.007
"""Servers of one model and GPU differ: one run takes this much longer for the same steps than another, relatively. In
the public runs the in-sample means of a model's runs scatter by 0.2 to 1 % at equal batch and context."""
RECENT, FEWEST_RECENT = 0.15, 100
"""The share of a run's requests, the last ones, and at least how many, by which its pace at the end is judged."""
DRIFT_SD, RECENT_SD = 0.0035, 0.0015
"""Of one server's pace, relatively: how far it moves from its mean over a run of ten to twenty minutes (clocks, heat;
a Llama-2-7B took 2.5 % less from one minute to the next), and what the mean of so many requests leaves open."""
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
    sizes: Ints
    """(stairs,) places in `stairs.SIZES` of the sizes that the fitted requests' steps have."""
    climbs: list[tuple[Floats, Floats]]
    """(requests, stairs) derivatives of decode times and TTFTs by these stairs."""
    stair_sd: float
    held_us: list[float]
    """What pauses of each run's front end add to a mean TTFT."""
    latest: dict[bytes, list[Floats]] = field(default_factory=dict[bytes, list[Floats]])
    """Coordinates whose normal equations were asked for last, and the answer."""

    @classmethod
    def of(
        cls,
        selections: Sequence[Selection],
        schedules: Sequence[Schedule],
        tables: Sequence[ComponentTables],
        x: Floats,
        prior: Prior,
        blocks: Sequence[Block] = (),
        pauses: Sequence[Pauses] | None = None,
    ) -> Problem:
        """The problem of the selected requests of each run, weighted for coordinates near `x`.

        `pauses` are those of the run's front ends, by default none.
        """
        held = [0.0] * len(selections) if pauses is None else [of_run.mean_us for of_run in pauses]
        pairs = zip(selections, schedules, strict=True)
        selections = [selection.completed_in(schedule.last_step >= 0) for selection, schedule in pairs]
        place = [i for i, selection in enumerate(selections) if len(selection)]
        frozen = each(lambda i: freeze(schedules[i], tables[i], selections[i].requests), place)
        measured = [_measured(selections[i], held[i]) for i in place]
        values = from_coordinates(x)
        weights = each(lambda of_run: latency_weights(values, *of_run), list(zip(frozen, measured, strict=True)))
        sizes = np.unique(np.concatenate([np.zeros(0, np.int64), *(of_run.stair for of_run in frozen)]))
        sizes = sizes[sizes >= 0]
        climbs = each(lambda of_run: stairs_and_gradients(values, of_run, sizes), frozen)
        sd = max((stair_sd(of_run) for of_run in tables), default=0.0)
        return cls(frozen, measured, weights, place, len(selections), prior, blocks, sizes, climbs, sd, held)

    def without_stairs(self) -> Problem:
        """The same of a formula that knows no sizes."""
        none = [(decode[:, :0], ttft[:, :0]) for decode, ttft in self.climbs]
        return replace(self, sizes=self.sizes[:0], climbs=none, latest={})

    def qr_factor(self, x: Floats) -> Floats:
        """R of the QR factorization of [jacobian | residuals], priors included: (parameters + 1, parameters + 1).

        Its last column's norm is that of the residuals, and R'R their normal equations: 50,000 rows become 28. The
        stairs and the paces of the servers have taken their best values for these coordinates.
        """
        whitening = self.prior.whitening()
        prior = np.column_stack((whitening, whitening @ (x - self.prior.mean)))
        normal = prior.T @ prior + _without(self._shared(self._normals(x)), len(self.sizes))
        return _root(normal, self.prior.sd)

    def stairs(self, x: Floats) -> dict[int, float]:
        """The best stairs for coordinates x, by size."""
        found: list[float] = self._stairs(self._normals(x)).tolist()
        return {SIZES[int(size)]: longer for size, longer in zip(self.sizes, found, strict=True)}

    def servers(self, x: Floats) -> list[tuple[float, Pauses]]:
        """The pace of each run's server, at the end of what was fitted, and the pauses of its front end.

        Both for coordinates x and their stairs. Servers drift: the mean over a run says less of its next requests than
        its last ones do. 1 and no pauses of a run without a row.
        """
        normals, count = self._normals(x), len(self.sizes)
        stairs = self._stairs(normals)
        logs = [-float(run[0, -1] + run[0, 1 : 1 + count] @ stairs) / float(run[0, 0]) for run in normals]
        found, values = [(float(np.exp(log)), NO_PAUSES) for log in logs], from_coordinates(x)
        for i, f, measured, weights, climbs in zip(
            self.place, self.frozen, self.measured, self.weights, self.climbs, strict=True
        ):
            decode, ttft, _, _ = latencies_and_gradients(values, f)
            moved = self._drift(decode, measured[0], weights[0], climbs[0] @ stairs, logs[i])
            waits = weights[1] > 0
            pauses = pauses_of((measured[1] - ttft - climbs[1] @ stairs - f.guessed_us)[waits])
            found[i] = (float(np.exp(logs[i] + moved)), pauses)
        return found

    def _drift(self, now: Floats, measured: Floats, weights: Floats, climb: Floats, pace: float) -> float:
        """By how much the logarithm of a server's pace has moved from its mean by the end, as far as the data say."""
        timed = np.flatnonzero(weights > 0)
        last = timed[-max(FEWEST_RECENT, int(RECENT * len(timed))) :]
        if len(last) < FEWEST_RECENT:
            return 0.0
        off = np.log(measured[last] / (now + climb)[last]) - pace
        off = off[np.abs(off - np.median(off)) < OUTLIER * 1.4826 * np.median(np.abs(off - np.median(off))) + 1e-9]
        noise = RECENT_SD**2 + float(off.var()) / len(off)
        return float(off.mean()) * DRIFT_SD**2 / (DRIFT_SD**2 + noise)

    def _stairs(self, normals: Sequence[Floats]) -> Floats:
        count = len(self.sizes)
        shared = self._shared(normals)
        return np.asarray(-np.linalg.solve(shared[:count, :count], shared[:count, -1]), np.float64)

    def _shared(self, normals: Sequence[Floats]) -> Floats:
        """Normal equations of all runs without their paces, with the prior of the stairs, which stand first."""
        shared = np.sum([_without(run, 1) for run in normals], axis=0)
        count = len(self.sizes)
        shared[range(count), range(count)] += self.stair_sd**-2 if count else 0.0
        return np.asarray(shared, np.float64)

    def _normals(self, x: Floats) -> list[Floats]:
        """For each run the normal equations of its rows: the logarithm of its server's pace, around 0, and the stairs,
        then coordinates and residuals. What was asked for last is remembered."""
        asked = x.tobytes()
        if asked not in self.latest:
            self.latest.clear()
            self.latest[asked] = self._normals_at(x)
        return self.latest[asked]

    def _normals_at(self, x: Floats) -> list[Floats]:
        values = from_coordinates(x)
        by_coordinate = np.where(LOGARITHMIC, values, 1.0)
        width = 1 + len(self.sizes) + len(x) + 1
        normals = [np.zeros((width, width)) for _ in range(self.runs)]
        for of_run in normals:
            of_run[0, 0] = PACE_SD**-2

        def add(number: int) -> None:
            measured, weights, climbs = self.measured[number], self.weights[number], self.climbs[number]
            decode, ttft, decode_by, ttft_by = latencies_and_gradients(values, self.frozen[number])
            for now, by, climb, truth, weight in (
                (decode, decode_by, climbs[0], measured[0], weights[0]),
                (ttft, ttft_by, climbs[1], measured[1], weights[1]),
                (decode + ttft, decode_by + ttft_by, climbs[0] + climbs[1], measured[0] + measured[1], weights[2]),
            ):
                if not weight.any():
                    continue
                paced = now - by[:, STEP_COUNT:] @ values[STEP_COUNT:]
                rows = np.column_stack((paced, climb, by * by_coordinate, now - truth))
                rows *= weight[:, None]
                normals[self.place[number]] += rows.T @ rows

        each(add, range(len(self.frozen)))
        for more in self.blocks:
            block = more.rows(values)
            climb = np.zeros((len(block), len(self.sizes)))  # what few steps measured tells nothing of sizes
            rows = np.column_stack((block[:, :1], climb, block[:, 1:-1] * by_coordinate, block[:, -1:]))
            normals[more.run] += rows.T @ rows
        return normals


def _without(normal: Floats, count: int) -> Floats:
    """Normal equations for the best values of the first `count` coordinates."""
    first, rest = normal[:count, :count], normal[:count, count:]
    return np.asarray(normal[count:, count:] - rest.T @ np.linalg.solve(first, rest), np.float64)


def _root(normal: Floats, scale: Floats) -> Floats:
    """R, upper triangular, of which R'R are these normal equations, positive definite but for the residuals' own.

    Coordinates are taken in units of `scale` on the way, in which none is larger than another by much.
    """
    coordinates = normal[:-1, :-1] * scale * scale[:, None]
    r = np.linalg.cholesky(coordinates).T
    last = np.linalg.solve(r.T, scale * normal[:-1, -1])
    residuals = max(0.0, float(normal[-1, -1] - last @ last)) ** 0.5
    full = np.zeros_like(normal)
    full[:-1, :-1], full[:-1, -1], full[-1, -1] = r / scale, last, residuals
    return full


def solve(problem: Problem, x: Floats) -> tuple[Floats, Floats, float]:
    """Damped Gauss-Newton within the bounds: the best coordinates, the normal matrix there and the residuals' norm."""
    r = problem.qr_factor(x)
    for _ in range(10):
        step = solved_within(r[:, :-1], -r[:, -1], LOWER - x - 1e-12, UPPER - x + 1e-12)
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


def _measured(selection: Selection, held_us: float) -> tuple[Floats, Floats]:
    """Decode times and TTFTs (requests,), these without what pauses add to their mean."""
    run, chosen = selection.run, selection.requests
    return (run.e2e_us - run.ttft_us)[chosen], run.ttft_us[chosen] - held_us
