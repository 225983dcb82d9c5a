"""Drawn replays: one load, served by servers that differ by all that is uncertain of them.

A replay takes long, so few are made, and what each draws is chosen: of the parameters only the directions that move the
times of this load's steps, or what its first tokens wait for. Along these, and along the server's pace, draws lie in
mirrored pairs that are orthogonal to each other, so that a latency that is linear in what is uncertain gets its
variance exactly. Bounds of parameters lift the steps of draws: they are paced until their median is that of the
parameters themselves, for near capacity steps that are all too long would only fill queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from roofml.calibration.prediction import Prediction
from roofml.calibration.prior import Prior
from roofml.calibration.thinning import LONG_RUN, MOST_KEPT, around_us, can_be_thinned, evenly, served_alike, thinned
from roofml.engine.replay import Replay
from roofml.engine.replay import replay as serve
from roofml.latency.batch import StepSums
from roofml.latency.doubts import Doubt
from roofml.latency.formula import step_times
from roofml.latency.launches import drawn_launches
from roofml.latency.parameters import NAMES, STEP_COUNT, Parameters, from_coordinates
from roofml.latency.pauses import NO_PAUSES, Pauses
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.at_once import each

T = TypeVar("T")
One = TypeVar("One")

SAMPLED_STEPS = 300
"""Steps of a load that say which parameters move its times."""
AT_ONCE = 500_000
"""Requests of the replays that are made at once, so that they fit into memory."""
DRAWS = 24
"""Replays behind an interval, an even number: half of them are mirrors of the others."""
SLOW, FEW_DRAWS = 100_000, 8
"""Of a run of more requests than the first a replay takes seconds, and there are so few."""
STRETCHES = 32
"""Of a very long run that are served for each draw."""
NUDGE = 0.1
"""Standard deviations by which a parameter is moved to see what it does."""


@dataclass(frozen=True, eq=False)
class Stretches:
    """Stretches of a very long run, served alone: how draws differ, which is all that is asked of them, they tell."""

    run: Run
    places: Ints
    """(requests of `run`,) in the whole run."""

    @classmethod
    def of(cls, judged: Selection | None, served: Replay, serve_alone: Callable[[Run], Replay]) -> Stretches | None:
        """Some of the judged requests, evenly; None of a run that is not very long or cannot be cut (`thinning`)."""
        if judged is None or len(judged) <= LONG_RUN or not can_be_thinned(judged):
            return None
        alone, places = thinned(judged, evenly(judged, STRETCHES), around_us(judged))
        if len(places) > MOST_KEPT * len(judged.run):
            return None
        alike = served_alike(alone, serve_alone(alone.run), served, places)
        return cls(alone.run, places) if alike else None

    def among_all(self, served: Replay, requests: int) -> Replay:
        """The replay as one of all requests, of which the others did not complete."""

        def spread(values: Any, missing: Any) -> Any:
            everywhere = np.full(requests, missing, values.dtype)
            everywhere[self.places] = values
            return everywhere

        schedule = served.schedule
        schedule = replace(
            schedule,
            first_step=spread(schedule.first_step, -1),
            last_step=spread(schedule.last_step, -1),
            arrival_us=spread(schedule.arrival_us, np.nan),
            queued_us=spread(schedule.queued_us, np.nan),
            running_at_arrival=spread(schedule.running_at_arrival, 0),
            cached_tokens=spread(schedule.cached_tokens, 0),
            preemptions=spread(schedule.preemptions, 0),
        )
        return Replay(spread(served.ttft_us, np.nan), spread(served.e2e_us, np.nan), schedule)


@dataclass(frozen=True, eq=False)
class DrawnReplays:
    """Replays of one load at draws of all that is uncertain of its server, and what other uncertainty there is.

    A replay is made when it is asked for, and not kept: of a million requests one takes what memory there is.
    """

    run: Run
    draws: Sequence[tuple[Parameters, Any]]
    """Parameters at their pace, and tables, of each."""
    paces: Floats
    """(draws,) logarithm of how much longer steps take than the drawn parameters say."""
    sources: Mapping[str, float]
    """Why paces are uncertain -> variance of the logarithm: server, formula, range, overload."""
    beside: Callable[[str], Mapping[str, float]]
    """Metric -> what no draw contains: source -> variance of the logarithm."""
    stretch: Callable[[str], float]
    """Metric -> how much wider intervals of its kind must be than the sources say, learned from other models' runs."""
    doubts: Sequence[Doubt] = ()
    """Why the deployment is less sure than one that was measured."""
    some: Stretches | None = None
    """What is served of a very long run: the others have no latency in the replays of `each`."""
    again: Callable[[Parameters, Any], Replay] | None = None
    """How the load is served by a draw's parameters and tables, where not one server has all of it."""

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Replay]:
        return map(self._served, self.draws)

    def _served(self, draw: tuple[Parameters, Any]) -> Replay:
        parameters, tables = draw
        return serve(self.run, tables, parameters) if self.again is None else self.again(parameters, tables)

    def each(self, figures: Callable[[Replay], T]) -> list[T]:
        """What `figures` makes of each replay. On several cores: the compiled loop drops the GIL."""
        some = self.some
        if some is None:
            return each_of(self.draws, lambda draw: figures(self._served(draw)), len(self.run))

        def of_draw(draw: tuple[Parameters, Any]) -> T:
            parameters, tables = draw
            return figures(some.among_all(serve(some.run, tables, parameters), len(self.run)))

        return each_of(self.draws, of_draw, len(some.run))

    def predicted(
        self, metric: str, value: float, drawn: Sequence[float | None], more: Mapping[str, float] | None = None
    ) -> Prediction:
        """The prediction of a figure of the load: `value` by the parameters themselves, `drawn` of each replay.

        `metric` is its kind and statistic: ttft_mean, e2e_p99, tpot_p50. A replay that has no such figure, None, is
        left out. `more` are further variances of its logarithm, by source, as of arrivals that are chance.
        """
        values = np.array([np.nan if each is None else each for each in drawn], np.float64)
        prediction = Prediction.of_draws(value, values, self.paces, self.sources)
        if not prediction.variances:
            return prediction
        for source, variance in {**self.beside(metric), **(more or {})}.items():
            prediction = prediction.wider(source, variance)
        return prediction.stretched(self.stretch(metric)).doubted(self.doubts)


def each_of(draws: Sequence[One], figures: Callable[[One], T], requests: int) -> list[T]:
    """What `figures` makes of each draw of a load of so many requests, on several cores."""
    return each(figures, draws, 1 + AT_ONCE // max(requests, 1))


def draws_for(run: Run) -> int:
    """How many draws an interval of a run's figures needs, as far as there is time for them."""
    return DRAWS if len(run) <= SLOW else FEW_DRAWS


def draws_of(
    served: Replay,
    tables: Any,
    believed: Prior,
    pace: float,
    sources: Mapping[str, float],
    count: int,
    known: Bools | None = None,
    pauses: Pauses = NO_PAUSES,
) -> tuple[list[tuple[Parameters, Any]], Floats]:
    """`count` sets of parameters at their pace, with tables, and the logarithms of the paces, (count,).

    `served` is a replay by the parameters that `believed` has as its mean, on a server of `pace` and `pauses`. `known`,
    (steps,), are steps of `served` like those that the pace of this very server was fitted to: whatever the parameters
    are, that pace makes the mean of these what was measured. The same every time.
    """
    normal, of_pace = _orthogonal(_directions(served, tables, believed), count)
    values = believed.at(normal)
    paces = float(np.sqrt(sum(sources.values()))) * of_pace
    usual = Parameters.of(from_coordinates(believed.mean))
    if known is not None and known.any():
        lifted = _mean_ratios(_sampled(served, known), tables, usual, values)
    else:
        lifted = np.full(count, np.median(_mean_ratios(_sampled(served), tables, usual, values)))
    of_steps = np.exp(np.log(pace) + paces - lifted)
    drawn = [
        Parameters.of(each).paced(paced)._replace(pauses=pauses)
        for each, paced in zip(values, of_steps.tolist(), strict=True)
    ]
    return list(zip(drawn, drawn_launches(tables, count), strict=True)), paces


def _sampled(served: Replay, which: Bools | None = None) -> StepSums:
    """Some of its steps, or of `which`, evenly."""
    steps = served.schedule.steps
    places = np.arange(steps.length) if which is None else np.flatnonzero(which)
    return steps.at(places[np.linspace(0, len(places) - 1, min(SAMPLED_STEPS, len(places))).astype(np.int64)])


def _mean_ratios(steps: StepSums, tables: Any, usual: Parameters, values: Floats) -> Floats:
    """By how much longer the steps take with each of `values`, (draws, parameters), as logarithms, (draws,)."""
    total = float(np.sum(step_times(tables, steps, usual.step)))
    return np.log([float(np.sum(step_times(tables, steps, Parameters.of(each).step))) / total for each in values])


def _directions(served: Replay, tables: Any, believed: Prior) -> Floats:
    """(directions, parameters) orthonormal ones of a standard normal distribution that move this load, the most
    important first: by the singular values of the derivatives of step times and of first tokens' waiting."""
    unsure = np.flatnonzero(believed.sd > 0)
    root = np.zeros((len(NAMES), len(NAMES)))
    root[np.ix_(unsure, unsure)] = np.linalg.cholesky(believed.covariance[np.ix_(unsure, unsure)])
    steps = _sampled(served)
    usual = step_times(tables, steps, Parameters.of(from_coordinates(believed.mean)).step)
    by_coordinate = np.zeros((steps.length + len(NAMES) - STEP_COUNT, len(NAMES)))
    for place in unsure[unsure < STEP_COUNT]:
        moved = believed.mean.copy()
        nudge = NUDGE * believed.sd[place]
        moved[place] += nudge
        slower = step_times(tables, steps, Parameters.of(from_coordinates(moved)).step)
        by_coordinate[: steps.length, place] = (slower / usual - 1) / (nudge * np.sqrt(steps.length))
    waits = _waits_us(served)
    for row, place in enumerate(range(STEP_COUNT, len(NAMES)), start=steps.length):
        by_coordinate[row, place] = waits[place - STEP_COUNT]
    _, sizes, rows = np.linalg.svd(by_coordinate @ root)
    return rows[: len(sizes)][sizes > 1e-9 * max(float(sizes[0]), 1e-300)]


def _waits_us(served: Replay) -> Floats:
    """By each request parameter, how much longer first tokens take on average for one µs of it, over their mean."""
    schedule, done = served.schedule, served.completed
    if not done.any():
        return np.zeros(len(NAMES) - STEP_COUNT)
    mean_us = max(float(np.mean(served.ttft_us[done])), 1.0)
    once = schedule.cold.sum(axis=1) / max(len(done), 1)
    return np.array([1.0, float(np.mean(schedule.running_at_arrival[done])), 1.0, *once]) / mean_us


def _orthogonal(directions: Floats, count: int) -> tuple[Floats, Floats]:
    """Draws of a standard normal distribution along `directions` and of a pace: (count, parameters) and (count,).

    As many directions as there are mirrored pairs for. Half of the draws, whose mirrors the others are, are rows of a
    random orthogonal matrix, so long that every axis has variance 1. An odd one out is at the middle.
    """
    half = count // 2
    axes = min(half, len(directions) + 1)
    if axes < 1:
        return np.zeros((count, directions.shape[1])), np.zeros(count)
    random = np.random.default_rng(0).standard_normal((half, half))
    rotation = np.sqrt(half) * np.linalg.qr(random)[0][:, :axes]
    both = np.vstack((rotation, -rotation, np.zeros((count - 2 * half, axes))))
    return both[:, 1:] @ directions[: axes - 1], both[:, 0]
