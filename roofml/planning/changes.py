"""Changes: which change of a server, if any, its residuals show, and since when.

One linear model of the residuals, whose covariance holds all that is no change: noise of steps and requests (`noise`),
what the calibration itself does not know of its parameters, and that servers of one kind differ a little. A change is
one more column: every step longer by a share (a pace), one component longer, or either from some time on. A column
explains more the larger its score, the squared distance of its coefficient from 0 in standard deviations, which is
twice the logarithm of the ratio of likelihoods.

- Is there a change? The score of the pace is asked first, with most of the false alarms that are allowed. The others
  are many looks at one run: the largest score that they reach without any change is found by drawing (`_reached`).
- Which? The column with the largest score. A component is named, and a time is, only if its score is larger than those
  of all simpler explanations by a margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from roofml.calibration.calibration import Calibration
from roofml.calibration.objective import DECODE_DISCREPANCY
from roofml.calibration.solver import PACE_SD
from roofml.latency.parameters import BY_NAME, LOGARITHMIC, NAMES, STEP_COUNT
from roofml.planning.noise import LEAST_OWN_SD, TTFT_SD, Cells, Means, Noise, noise_of
from roofml.planning.residuals import Residuals
from roofml.util.arrays import Floats, Ints

SERVER_SD, SERVERS_IMAGINED = 0.003, 2.0
"""Relative, of the pace of another server of the same kind, or of the same one on another day; and its weight, in
servers, against the paces of those that were calibrated."""
REFERENCE_SD = 0.0015
"""Relative, of the pace of a calibrated server: what it wandered by in its own recording."""
WANDER_SD = 0.004
"""Relative, of how far a part of a run may be from the part before it without a change: in the public runs stretches of
minutes are."""
PACE_ALARM, OTHER_ALARM = 0.04, 0.01
"""Probability of a false alarm of the pace of the whole run, and of all others together."""
MARGIN = 4.0
"""By how much a score must be larger than that of another single explanation: odds of 7 to 1."""
TIME_MARGIN = 9.0
"""And than that of a change from the first request on, of a change at one of many times."""
NAMEABLE = 15.0
"""A load tells a component from the others if a step that it makes longer by `GROWTH` is expected to score by so much
more: then it does by `MARGIN` 9 times in 10."""
GROWTH = 0.03
CELLS_AROUND = 2
"""Before and after a change."""
LEAST_SHARE = 0.01
"""Of the mean step, that a component must have to be asked for: of a smaller one a few per cent of a step are a
multiple."""
FURTHEST = 0.15
"""Share of a run before and after the first and the last time that are asked for a change."""
MOST_TIMES = 32
"""Asked for: more are slow, and tell hardly more."""
DRAWS = 4000

COMPONENTS = (
    "prefill_gemm",
    "decode_gemm",
    "prefill_attention",
    "decode_attention",
    "weights",
    "expert_weights",
    "kv_cache",
    "attention_items",
    "long_context",
    "communication",
    "per_layer_us",
    "per_step_us",
    "mixed_step_us",
    "per_request_us",
    "cpu_floor_us",
    "queueing_us",
    "queueing_per_running_us",
)
"""Parameters that are the time of one thing. The others are shapes of a curve. `pipeline_delay_us` looks as
`queueing_us` does."""
FRONT_END = ("queueing_us", "queueing_per_running_us")
"""Those of them that no step holds: they lengthen TTFT alone."""


@dataclass(frozen=True)
class Change:
    """One way in which a server may have changed."""

    component: str | None
    """None: every step is longer or shorter by the same share."""
    since_us: float | None
    """When it began, µs of the run; None: before it."""
    growth: float
    """Logarithm of how much longer the mean step became; mean TTFT for a part of the front end."""
    sd: float
    """Standard deviation of `growth` as a measurement."""
    score: float
    """`growth` in standard deviations of what it is without a change."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a run's residuals say."""

    pace: Change
    """Of the whole run, whether it is a change or not."""
    change: Change | None
    """The best explanation, where there is a change."""
    explained_as_well: tuple[str, ...]
    """Single components that explain it as well as the best does, or nearly, where none is named."""
    nameable: tuple[str, ...]
    """Components that this load tells from all others."""
    noise_of_mean_sd: float
    """Relative, of mean step time: what the run's own noise leaves open."""
    cells: Cells


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Columns that may explain residuals, (rows, candidates), each scaled to a step that is 1 longer in the mean."""

    columns: Floats
    component: list[str | None]
    cell: Ints
    """(candidates,) cell that the change begins with; 0: it began before."""


def find_change(calibration: Calibration, residuals: Residuals) -> Found:
    """What has changed since the calibration, if anything, by the residuals of one run."""
    cells = Cells.of(residuals)
    decode = Means.of(residuals.decode, cells, LEAST_OWN_SD["decode"])
    ttft = Means.of(residuals.ttft, cells, LEAST_OWN_SD["ttft"])
    own = noise_of(decode, ttft, cells)
    noise = own.with_sources(_unknown(calibration, decode, ttft))
    candidates = _candidates(decode, ttft, cells)
    y = np.concatenate((decode.residual, ttft.residual))
    measured = noise.gram(np.column_stack((candidates.columns, y)))
    server_sd = server_sd_of(calibration)
    believed = _with_source(measured, 0, server_sd)  # the first candidate is the pace
    front = np.array([name in FRONT_END for name in candidates.component])
    extra = np.where(front, TTFT_SD, np.where(candidates.cell == 0, server_sd, WANDER_SD))
    scores, correlation = _scores(believed, extra), _correlation(believed, extra)
    pace = _mean_pace(decode, noise, server_sd)
    nameable = _nameable(candidates, believed)
    others = slice(1, None)
    alarm = abs(pace.score) > norm.isf(PACE_ALARM / 2) or bool(
        np.max(np.abs(scores[others])) > _reached(correlation[others, others])
    )
    best, as_well = _choose(candidates, _scores(believed, np.zeros(len(extra))) ** 2)
    change = _change(candidates, best, measured, scores, cells) if alarm else None
    return Found(pace, change, as_well if alarm else (), nameable, _mean_pace(decode, own, server_sd).sd, cells)


def server_sd_of(calibration: Calibration) -> float:
    """How much servers differ, relatively: `SERVER_SD`, and as those that were calibrated do, where there are several.

    Of one server alone the pace is the calibration's own, and says nothing.
    """
    paces = np.array([seen.pace for seen in calibration.runs if seen.pace is not None], np.float64)
    if len(paces) < 2:
        return SERVER_SD
    squares = SERVERS_IMAGINED * SERVER_SD**2 + float(np.sum(np.log(paces) ** 2))
    return float(np.sqrt(squares / (SERVERS_IMAGINED + len(paces) - 1)))


def _unknown(calibration: Calibration, decode: Means, ttft: Means) -> Floats:
    """(rows, sources) what the calibration does not know of this load, and how its servers stand to their kind.

    The covariance of a fit holds how far its servers may be from their kind (`solver.PACE_SD`,
    `objective.DECODE_DISCREPANCY`). That is asked here of one new server against them, so it is taken out: what is left
    is the covariance given the calibrated pace, and `REFERENCE_SD` for each of them.
    """
    values, posterior = calibration.values, calibration.posterior
    along = np.where(LOGARITHMIC, 1.0, values)
    along[STEP_COUNT:] = 0.0
    along[NAMES.index("max_weight")] = 0.0
    servers = max(1, len(calibration.runs))
    scale = np.where(posterior.sd > 0, posterior.sd, 1.0)
    correlation = posterior.covariance / np.outer(scale, scale)
    u = np.where(posterior.sd > 0, along / scale, 0.0)
    alone = 1 / max(float(u @ np.linalg.pinv(correlation, rcond=1e-10, hermitian=True) @ u), 1e-12)
    taken_out = min((PACE_SD**2 + DECODE_DISCREPANCY**2) / servers, alone)
    eigenvalues, vectors = np.linalg.eigh(correlation - taken_out * np.outer(u, u))
    factor = scale[:, None] * vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
    slopes = np.vstack((decode.slopes, ttft.slopes))
    pace = np.concatenate((decode.pace, ttft.pace))
    return np.column_stack((slopes @ factor, REFERENCE_SD / servers**0.5 * pace))


def _mean_pace(decode: Means, noise: Noise, server_sd: float) -> Change:
    """How much longer steps were in the mean over the run, every cell alike.

    The best linear estimate would weigh cells by what the fit is unsure of; this one is off by less where it is wrong.
    """
    weights = np.zeros(len(noise.own_sd))
    weights[: len(decode.residual)] = decode.weight / float(decode.weight @ decode.pace)
    sd = noise.sd_of(weights)
    growth = float(weights[: len(decode.residual)] @ decode.residual)
    return Change(None, None, growth, sd, growth / float(np.hypot(sd, server_sd)))


def _candidates(decode: Means, ttft: Means, cells: Cells) -> _Candidates:
    """The pace, each component that the load has, and the same from some cell on."""
    columns = [np.concatenate((decode.pace, ttft.pace))]
    names: list[str | None] = [None]
    for name in COMPONENTS:
        by = np.concatenate((decode.slopes[:, NAMES.index(name)], ttft.slopes[:, NAMES.index(name)]))
        scale = float(np.mean(by[len(decode.residual) :] if name in FRONT_END else by[: len(decode.residual)]))
        if scale > (LEAST_SHARE if BY_NAME[name].logarithmic else 1e-6):
            columns.append(by / scale)
            names.append(name)
    begin = max(CELLS_AROUND, round(FURTHEST * len(cells)))
    last = len(cells) - begin
    later = np.unique(np.linspace(begin, last, min(MOST_TIMES, max(0, last - begin + 1))).round().astype(np.int64))
    after = np.vstack((decode.shares, ttft.shares))[:, ::-1].cumsum(axis=1)[:, ::-1]
    first = np.column_stack(columns)
    from_cells = [first * after[:, cell, None] for cell in later]
    return _Candidates(
        columns=np.column_stack([first, *from_cells]),
        component=names * (1 + len(later)),
        cell=np.concatenate((np.zeros(len(names), np.int64), np.repeat(later, len(names)))),
    )


def _with_source(gram: Floats, place: int, sd: float) -> Floats:
    """A Gram matrix whose covariance has one more source, along one of its columns (Sherman and Morrison)."""
    along = gram[:, place]
    return gram - np.outer(along, along) * sd**2 / (1 + sd**2 * gram[place, place])


def _scores(gram: Floats, extra_sd: Floats) -> Floats:
    """Coefficients in standard deviations where there is no change; `extra_sd` is added to what they may be then."""
    information = np.maximum(np.diag(gram)[:-1], 1e-12)
    return gram[:-1, -1] / information / np.sqrt(1 / information + extra_sd**2)


def _correlation(gram: Floats, extra_sd: Floats) -> Floats:
    """Correlation of the columns' coefficients where there is no change."""
    information = np.maximum(np.diag(gram)[:-1], 1e-12)
    sd = np.sqrt(1 / information + extra_sd**2)
    return gram[:-1, :-1] / np.outer(information, information) / np.outer(sd, sd)


def _reached(correlation: Floats) -> float:
    """The largest of many correlated standard normal numbers, in `OTHER_ALARM` of all cases."""
    values, vectors = np.linalg.eigh(correlation)
    kept = values > 1e-9 * values[-1]
    factor = vectors[:, kept] * np.sqrt(values[kept])
    own = np.sqrt(np.maximum(1 - np.sum(factor**2, axis=1), 0.0))
    random = np.random.default_rng(0)
    drawn = random.standard_normal((DRAWS, factor.shape[1])) @ factor.T
    common = drawn + own * random.standard_normal((DRAWS, 1))
    return float(np.quantile(np.abs(common).max(axis=1), 1 - OTHER_ALARM))


def _choose(candidates: _Candidates, squares: Floats) -> tuple[int, tuple[str, ...]]:
    """The place of the explanation to give, and components that explain it about as well where none is named."""
    whole = np.flatnonzero(candidates.cell == 0)
    cell = int(candidates.cell[np.argmax(squares)])
    if squares.max() <= squares[whole].max() + TIME_MARGIN:
        cell = 0
    places = np.flatnonzero(candidates.cell == cell)
    order = places[np.argsort(-squares[places], kind="stable")]
    best, lone = int(order[0]), int(next(place for place in places if candidates.component[place] is None))
    if best == lone:
        return lone, ()
    if squares[best] > squares[order[1]] + MARGIN:
        return best, ()
    close: list[int] = [int(place) for place in order if squares[place] > squares[best] - MARGIN]
    return lone, tuple(name for place in close if (name := candidates.component[place]) is not None)


def _nameable(candidates: _Candidates, gram: Floats) -> tuple[str, ...]:
    """Components that the load tells from all others and from a pace, if they make a step longer by `GROWTH`."""
    places = np.flatnonzero(candidates.cell == 0)
    inner = gram[np.ix_(places, places)]
    information = np.maximum(np.diag(inner), 1e-12)
    alike = inner**2 / np.outer(information, information)
    np.fill_diagonal(alike, 0.0)
    gaps = GROWTH**2 * information * (1 - alike.max(axis=1))
    return tuple(
        name
        for place, gap in zip(places, gaps, strict=True)
        if (name := candidates.component[place]) is not None and gap > NAMEABLE
    )


def _change(candidates: _Candidates, place: int, gram: Floats, scores: Floats, cells: Cells) -> Change:
    information = max(float(gram[place, place]), 1e-12)
    cell = int(candidates.cell[place])
    return Change(
        component=candidates.component[place],
        since_us=float(cells.edges_us[cell]) if cell else None,
        growth=float(gram[place, -1]) / information,
        sd=information**-0.5,
        score=float(scores[place]),
    )
