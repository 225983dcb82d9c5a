"""Noise of a run's latencies: what requests that shared steps have in common, and what each has of its own.

Decode times of neighbours are off together: they are sums over nearly the same steps. In the public runs neighbours
differ by 0.02 to 0.05 %, and seconds by 0.3 to 1.2 %. So it is means over cells of time that are compared, each longer
than a request lasts. A step's time is taken to be off by noise that is new in every cell, and a mean by what its
requests met of it. How large that noise is is read off the run itself. What varies more slowly, and what servers differ
by, is known from the public runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import minimize  # pyright: ignore[reportUnknownVariableType]

from roofml.planning.residuals import Residuals, Rows
from roofml.util.arrays import Floats, Ints

MOST_CELLS = 100
CELL_OF_REQUESTS = 1.5
"""A cell is so many mean E2Es long, or longer where they would be too many."""
FEWEST_CELLS = 8
ROWS_AT_ONCE = 50_000
"""So that a million requests take no more memory."""
SPANS = 8
"""Parts of a run that may each be off as a whole when its noise is measured: so no drift is taken for noise."""
LEAST_OWN_SD = {"decode": 0.001, "ttft": 0.05}
"""Least relative noise of a single request."""
UNKNOWN_SD = 0.02
"""Noise of a cell where too few cells tell."""
OUTLYING = 4.0
"""A cell beyond this many usual distances from its neighbours counts for less: a host that paused is no drift."""
NEIGHBOURS = 3
"""On each side, of which one is the median."""
OF_MEDIAN = 1.2
"""A value less the median of seven, itself among them, scatters by so much less than the value itself."""
OUTLIER = 3.0
"""A request's own residual beyond this many standard deviations counts for less."""
SLOW_US, SLOW_SD = 50e6, 0.0015
"""A server wanders by so much from one such stretch of time to the next: means of 50 s of the public runs scatter by
0.1 to 0.4 %, the second halves around fits of the first."""
TTFT_SD = 0.03
"""Of a run's mean TTFT: of the public runs' second halves it is off by up to 4 % from fits of the first."""


@dataclass(frozen=True, eq=False)
class Cells:
    """A run's time in pieces of one length."""

    edges_us: Floats
    """(cells + 1,)"""

    @classmethod
    def of(cls, residuals: Residuals) -> Cells:
        """Cells that all rows lie in."""
        both = (residuals.decode, residuals.ttft)
        begin = min(float(rows.begin_us.min()) for rows in both if len(rows.residual))
        end = max(float(rows.end_us.max()) for rows in both if len(rows.residual))
        lasted_us = float(np.mean(residuals.decode.end_us - residuals.decode.begin_us))
        count = int(np.clip((end - begin) / (CELL_OF_REQUESTS * lasted_us), FEWEST_CELLS, MOST_CELLS))
        return cls(np.linspace(begin, end, count + 1))

    def __len__(self) -> int:
        return len(self.edges_us) - 1

    def place(self, time_us: Floats) -> Ints:
        """The cell of each time."""
        return np.clip(np.searchsorted(self.edges_us, time_us, side="right") - 1, 0, len(self) - 1)

    def shares(self, begin_us: Floats, end_us: Floats) -> Floats:
        """(rows, cells) which share of the time of each row lies in each cell."""
        begin, end = begin_us[:, None], np.maximum(end_us, begin_us + 1.0)[:, None]
        before = np.clip(self.edges_us[None, :], begin, end) - begin
        return np.diff(before, axis=1) / (end - begin)

    def mean_shares(self, rows: Rows, place: Ints, weights: Floats) -> Floats:
        """(cells, cells) the weighted mean of the shares of the rows whose `place` is a cell; NaN where none is."""
        sums, total = np.zeros((len(self), len(self))), np.bincount(place, weights, len(self))
        for first in range(0, len(place), ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            np.add.at(sums, place[some], weights[some, None] * self.shares(rows.begin_us[some], rows.end_us[some]))
        return sums / np.where(total > 0, total, np.nan)[:, None]

    def spans(self, length_us: float) -> Floats:
        """(cells, spans) 1 where a cell lies in a span of about `length_us`."""
        total = float(self.edges_us[-1] - self.edges_us[0])
        count = max(1, min(len(self), round(total / length_us)))
        return np.eye(count)[np.arange(len(self)) * count // len(self)]


@dataclass(frozen=True, eq=False)
class Means:
    """One latency, by cell: means over the requests whose middle lies in it. Cells without any have no row."""

    residual: Floats
    """(rows,)"""
    slopes: Floats
    """(rows, parameters)"""
    pace: Floats
    """(rows,)"""
    shares: Floats
    """(rows, cells) where the time of its requests lies."""
    own_sd: Floats
    """(rows,) of what its requests do not share; more for an outlying cell, in which a host paused."""
    weight: Floats
    """(rows,) 1, and less for an outlying cell."""

    @classmethod
    def of(cls, rows: Rows, cells: Cells, least_sd: float) -> Means:
        """The means of `rows`, outliers weighted down."""
        own_sd = _own_sd(rows, least_sd)
        weights = own_sd**-2.0
        place = cells.place(0.5 * (rows.begin_us + rows.end_us))
        total = np.bincount(place, weights, len(cells))
        some = total > 0

        several = np.column_stack((rows.residual, rows.pace, rows.slopes))
        sums = [np.bincount(place, weights * column, len(cells)) for column in several.T]
        several = np.stack(sums, axis=1)[some] / total[some, None]
        off, usual_sd = _off_neighbours(several[:, 0])
        far = np.abs(off) / (OUTLYING * usual_sd + 1e-9)
        return cls(
            residual=several[:, 0],
            slopes=several[:, 2:],
            pace=several[:, 1],
            shares=cells.mean_shares(rows, place, weights)[some],
            own_sd=np.hypot(total[some] ** -0.5, np.where(far > 1, off, 0.0)),
            weight=1 / np.maximum(1.0, far) ** 2,
        )


@dataclass(frozen=True, eq=False)
class Noise:
    """The covariance of stacked rows, decode times before TTFTs: diagonal + factor · factor'."""

    own_sd: Floats
    """(rows,) what each request has of its own, outliers more."""
    factor: Floats
    """(rows, sources) what each independent source of one standard deviation adds."""

    def with_sources(self, more: Floats) -> Noise:
        """With further independent sources, (rows, sources)."""
        return Noise(self.own_sd, np.column_stack((self.factor, more)))

    def sd_of(self, weights: Floats) -> float:
        """Standard deviation of a weighted sum of the rows, for weights (rows,)."""
        return float(np.sqrt(np.sum((weights * self.own_sd) ** 2) + np.sum((weights @ self.factor) ** 2)))

    def gram(self, columns: Floats) -> Floats:
        """columns' · inverse covariance · columns, for columns (rows, columns)."""
        scaled, factor = columns / self.own_sd[:, None], self.factor / self.own_sd[:, None]
        cross = factor.T @ scaled
        inner = np.eye(factor.shape[1]) + factor.T @ factor
        return scaled.T @ scaled - cross.T @ np.linalg.solve(inner, cross)


def noise_of(decode: Means, ttft: Means, cells: Cells) -> Noise:
    """The noise of a run, read off its residuals; without what the calibration does not know."""
    decode_sd, ttft_sd = (_cell_sd(means, cells) for means in (decode, ttft))
    slow = decode.shares @ cells.spans(SLOW_US)
    decode_factor = np.column_stack((decode_sd * decode.shares, SLOW_SD * slow))
    ttft_factor = np.column_stack((ttft_sd * ttft.shares, np.full(len(ttft.residual), TTFT_SD)))
    factor = np.zeros((len(decode_factor) + len(ttft_factor), decode_factor.shape[1] + ttft_factor.shape[1]))
    factor[: len(decode_factor), : decode_factor.shape[1]] = decode_factor
    factor[len(decode_factor) :, decode_factor.shape[1] :] = ttft_factor
    return Noise(np.concatenate((decode.own_sd, ttft.own_sd)), factor)


def _own_sd(rows: Rows, least: float) -> Floats:
    """(rows,) what a request differs by from its neighbours, which shared its steps; outliers more."""
    order = np.argsort(rows.end_us, kind="stable")
    off, usual_sd = _off_neighbours(rows.residual[order])
    typical = max(least, usual_sd)
    far = np.empty_like(off)
    far[order] = np.maximum(1.0, np.abs(off) / (OUTLIER * typical))
    return typical * far


def _off_neighbours(values: Floats) -> tuple[Floats, float]:
    """How far each of a series is from the median of those around it, and how far usually."""
    if len(values) == 0:
        return values, 0.0
    around = np.pad(values, NEIGHBOURS, mode="reflect")
    usual = np.median(np.stack([around[i : i + len(values)] for i in range(2 * NEIGHBOURS + 1)]), axis=0)
    off = values - usual
    return off, 1.4826 * OF_MEDIAN * float(np.median(np.abs(off)))


def _cell_sd(means: Means, cells: Cells) -> float:
    """Standard deviation of the cells' noise by restricted maximum likelihood, each span free to be off as a whole."""
    shares, own_sd = means.shares, means.own_sd
    if len(own_sd) <= SPANS:
        return UNKNOWN_SD
    spans = shares @ cells.spans(float(cells.edges_us[-1] - cells.edges_us[0]) / SPANS)
    scaled = shares / own_sd[:, None]
    fixed = np.column_stack((spans, means.residual)) / own_sd[:, None]
    inside, cross, outside = scaled.T @ scaled, scaled.T @ fixed, fixed.T @ fixed

    def loss(log_sd: Sequence[float]) -> float:
        sd = float(np.exp(log_sd[0]))
        inner = np.eye(len(inside)) + sd**2 * inside
        gram = np.asarray(outside - sd**2 * cross.T @ np.linalg.solve(inner, cross), np.float64)
        of_spans = gram[:-1, :-1] + 1e-9 * np.trace(gram[:-1, :-1]) * np.eye(len(gram) - 1)
        explained = np.asarray(np.linalg.solve(of_spans, gram[:-1, -1]), np.float64)
        left = float(gram[-1, -1] - gram[-1, :-1] @ explained)
        return float(np.linalg.slogdet(inner)[1] + np.linalg.slogdet(of_spans)[1] + left)

    grid = np.log(np.geomspace(1e-5, 1.0, 26))
    start = min(grid, key=lambda log_sd: loss([log_sd]))
    found = cast("Any", minimize)(loss, [start], method="Nelder-Mead", options={"xatol": 0.02, "fatol": 0.01})
    return float(np.exp(found.x[0]))
