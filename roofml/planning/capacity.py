"""Capacity: the largest rate, or number of clients, that one server holds under all SLOs, and how sure that is.

The knee is found by bisection in the logarithm of the level, and then looked at closely: with common random numbers a
latency still rises with the rate in the mean alone, so the answer is where the rising curve through all trials near
it crosses the limit (`isotonic`).

An open load is held only if its queue ends: its rate must also be below what a full server answers (`Trials.flood`).

How sure: a server all of whose steps take s times as long is this one with time stretched by s. So its figures at a
rate r are s times ours at s·r, and draws of s say which knees it may have, without another replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.calibration.aggregates import KINDS, ratios
from roofml.calibration.knowledge import pace_sources
from roofml.calibration.prediction import Prediction
from roofml.latency.parameters import Parameters
from roofml.planning.isotonic import crossing, rising
from roofml.planning.spread import CHANCE
from roofml.planning.trials import Target, Trial, Trials
from roofml.traces.engine_version import wider_for
from roofml.util.arrays import Floats
from roofml.util.errors import InputError

FIRST_SHARE, SHRINK = 0.95, 0.75
"""The first level that is tried, as a share of a full server's, and by how much the next ones are smaller."""
NEAR = 0.04
"""Relative: a bracket so narrow is looked at closely."""
NEAR_CLIENTS = 0.01
CLOSE = (-0.03, -0.015, -0.005, 0.005, 0.015, 0.03)
"""Further levels around the middle of the bracket, relative."""
CLOSER = (-0.02, -0.01, 0.0, 0.01, 0.02)
"""And around the knee that all of them give, where a latency falls with the level among them."""
FAR = 0.1
"""From its limit: a figure whose logarithm is below it by so much."""
LEAST_SHARE = 1e-3
"""Of a full server's rate: below, an SLO is taken for one that no load meets."""
MOST_CLIENTS = 65_536
RECOVERS = 0.9
"""Share of a level that a server answers which comes out of an overload: 0.97 where its cache holds every session."""
DRAWS = 200
"""Servers that differ by what is uncertain."""


@dataclass(frozen=True, eq=False)
class Capacity:
    """What one server holds."""

    level: Prediction
    """Requests a second, or clients."""
    unit: str
    binding: Target | None
    """The SLO that ends it; None: a full server."""
    full: float | None
    """What a full server answers, requests a second; None of clients."""
    trials: Sequence[Trial]
    """All that were made, by level."""
    at_knee: Trial
    """The trial nearest below the knee."""
    requests: int
    """Of each load that was tried."""
    unbounded: bool = False
    """No number of clients that was tried breaks an SLO."""
    after_overload: float | None = None
    """Of sessions without end: requests a second that are answered at that level after an overload."""

    @property
    def stays_overloaded(self) -> bool:
        """Whether a server that once had too many sessions does not come out of it at this level."""
        return self.after_overload is not None and self.after_overload < RECOVERS * self.level.value


class NotMetError(InputError):
    """An SLO that no load meets: a request that has the server for itself does not."""


def capacity(trials: Trials) -> Capacity:
    """The largest level that is held. Raises NotMetError, naming the SLO, where no load is."""
    lone = trials.alone()
    if lone.worst >= 0:
        raise NotMetError(_never(trials, lone))
    if trials.workload.closed:
        return _clients(trials)
    full = trials.flood()
    low, high = _bracket(trials, full, lone)
    while high / low > 1 + NEAR:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if trials.at(middle).worst < 0 else (low, middle)
    _look(trials, float(np.sqrt(low * high)), CLOSE, full)
    level, _ = knee(trials.by_level, trials.targets, full)
    if _falls_near(trials, level):
        _look(trials, level, CLOSER, full)
    made = trials.by_level
    level, binding = knee(made, trials.targets, full)
    at_knee = max((trial for trial in made if trial.level <= level), key=lambda t: t.level, default=made[0])
    after = trials.after_overload(level) if trials.workload.endless_sessions else None
    sure = _sure(trials, made, level, full)
    return Capacity(sure, "requests/s", binding, full, made, at_knee, trials.requests, after_overload=after)


def _look(trials: Trials, centre: float, around: Sequence[float], full: float) -> None:
    """Try levels around one, relative to it."""
    for off in around:
        if centre * (1 + off) < full:
            trials.at(centre * (1 + off))


def _falls_near(trials: Trials, level: float) -> bool:
    """Whether a figure that comes near its limit is lower at a higher level, of those that were tried near this one."""
    near = np.array([trial.excess for trial in trials.by_level if abs(np.log(trial.level / level)) < NEAR])
    return bool(((near[1:] < near[:-1]) & (near.max(axis=0, initial=-np.inf) > -FAR)).any())


def knee(made: Sequence[Trial], targets: Sequence[Target], full: float) -> tuple[float, Target | None]:
    """(where the first target reaches its limit, that target), or what a full server answers and None.

    `made` are trials by level.
    """
    levels: Floats = np.log(np.array([trial.level for trial in made]))
    found, binding = np.log(full), None
    for place, target in enumerate(targets):
        crosses = crossing(levels, np.array([trial.excess[place] for trial in made]))
        if crosses is not None and crosses < found:
            found, binding = crosses, target
    return float(np.exp(found)), binding


def _bracket(trials: Trials, full: float, lone: Trial) -> tuple[float, float]:
    """A level that is held and one above it that is not, of those that were tried already the nearest."""
    tried = [trial for trial in trials.by_level if trial.level < full]
    held = [trial.level for trial in tried if trial.worst < 0]
    if held:
        return held[-1], min((trial.level for trial in tried if trial.level > held[-1]), default=full)
    high = tried[0].level if tried else full
    level = high * (SHRINK if tried else FIRST_SHARE)
    while trials.at(level).worst >= 0:
        if level < LEAST_SHARE * full:
            raise NotMetError(_never(trials, lone))
        high, level = level, level * SHRINK
    return level, high


def _clients(trials: Trials) -> Capacity:
    """The most clients, a whole number."""
    low, high = 1, 2
    most = min(MOST_CLIENTS, 4 * trials.server.max_num_seqs)
    while _with(trials, high).worst < 0:
        low, high = high, 2 * high
        if low >= most:
            made = trials.by_level
            return Capacity(
                Prediction(float(low)),
                "clients",
                None,
                None,
                made,
                trials.made[float(low)],
                trials.requests,
                unbounded=True,
            )
    while high - low > max(1, int(NEAR_CLIENTS * low)):
        middle = (low + high) // 2
        low, high = (middle, high) if _with(trials, middle).worst < 0 else (low, middle)
    made = trials.by_level
    level, binding = knee(made, trials.targets, float(high))
    if binding is None:
        place = int(np.argmax(trials.made[float(high)].excess))
        binding = trials.targets[place]
    at_knee = trials.made[float(low)]
    sure = _sure(trials, made, max(1.0, float(np.floor(level))), None)
    return Capacity(sure, "clients", binding, None, made, at_knee, trials.requests)


def _with(trials: Trials, clients: int) -> Trial:
    """The trial of so many clients, with requests for all of them."""
    if trials.workload.requests is None:
        trials.requests = max(trials.requests, 12 * clients)
    return trials.at(float(clients))


def _never(trials: Trials, lone: Trial) -> str:
    """Why no load meets an SLO."""
    place = int(np.argmax(lone.excess))
    target = trials.targets[place]
    found_us = target.slo.limit_us * float(np.exp(lone.excess[place]))
    shown = f"{found_us / 1e3:.3g} ms" if found_us < 1e6 else f"{found_us / 1e6:.3g} s"
    return f"{target}: no load meets it: requests that have the server for themselves come to {shown}"


def _sure(trials: Trials, made: Sequence[Trial], level: float, full: float | None) -> Prediction:
    """The knee with what it may be."""
    slower, chance = _slower(trials, level), _chance(trials, made, level)
    levels: Floats = np.log(np.array([trial.level for trial in made]))
    curves = [rising(np.array([trial.excess[place] for trial in made])) for place in range(len(trials.targets))]
    knees = np.array([_stretched(trials.targets, levels, curves, level, full, each) for each in slower])
    found = Prediction.of_draws(level, knees)
    return found.wider(CHANCE, chance) if chance > 0 else found


def _slower(trials: Trials, level: float) -> Floats:
    """(draws, 1 + kinds) how many times as long steps take, and TTFT, TPOT and E2E, on servers that may be this one."""
    calibration, seed = trials.calibration, trials.seeds[0]
    workload = trials.workload.at(float(np.floor(level)) if trials.workload.closed else level)
    served = trials.serve(workload, trials.requests, seed)
    parameters = calibration.parameters_for(served.run)
    others = [Parameters.of(values) for values in calibration.draws(DRAWS)]
    tables = calibration.deployment.serving(trials.server).tables
    of_kinds = np.log(ratios(served.replay, tables, parameters, others))
    steps = served.replay.schedule.steps
    knowledge = calibration.knowledge(served.run)
    sources = pace_sources(knowledge, False, steps, calibration.posterior.valid)
    variance = sum(sources.values()) + sum(doubt.variance for doubt in calibration.open_doubts)
    pace = np.sqrt(variance) * np.random.default_rng(2).standard_normal(DRAWS)
    # Bounds of parameters lift the steps of draws: the parameters themselves are in the middle of them.
    of_kinds = of_kinds - np.median(of_kinds, axis=0) + pace[:, None]
    wider = wider_for(served.run.server.engine)
    stretch = np.array([wider * calibration.stretch(knowledge, f"{kind}_mean") for kind in KINDS])
    of_kinds = of_kinds * stretch
    return np.exp(np.column_stack((of_kinds[:, KINDS.index("tpot")], of_kinds)))


def _stretched(
    targets: Sequence[Target],
    levels: Floats,
    curves: Sequence[Floats],
    level: float,
    full: float | None,
    slower: Floats,
) -> float:
    """The knee of a server that is slower by so much. `levels` are logarithms."""
    most = np.log(full) if full is not None else np.inf
    own, other = most, most
    for target, curve in zip(targets, curves, strict=True):
        kind = "tpot" if target.slo.latency == "itl" else target.slo.latency
        own = min(own, _reaches(levels, curve, 0.0))
        other = min(other, _reaches(levels, curve, -float(np.log(slower[1 + KINDS.index(kind)]))))
    if not (np.isfinite(own) and np.isfinite(other)):
        return level / float(slower[0])
    stretch = np.log(slower[0]) if full is not None else 0.0  # clients do not come faster to a faster server
    return level * float(np.exp(other - own - stretch))


def _reaches(levels: Floats, curve: Floats, limit: float) -> float:
    """Where a rising curve reaches a limit; below its first level it goes on as steeply as it runs on the whole."""
    if curve[0] > limit:
        slope = max((curve[-1] - curve[0]) / max(levels[-1] - levels[0], 1e-9), 1e-3)
        return float(levels[0] - (curve[0] - limit) / slope)
    above = np.flatnonzero(curve >= limit)
    if not len(above):
        return float("inf")
    after = int(above[0])
    if after == 0:
        return float(levels[0])
    share = (limit - curve[after - 1]) / (curve[after] - curve[after - 1])
    return float(levels[after - 1] + share * (levels[after] - levels[after - 1]))


def _chance(trials: Trials, made: Sequence[Trial], level: float) -> float:
    """Variance of the knee's logarithm from loads of this length: the figures' own, over how steep they are there."""
    workload = trials.workload.at(float(np.floor(level)) if trials.workload.closed else level)
    served = trials.serve(workload, trials.requests, trials.seeds[-1])
    levels: Floats = np.log(np.array([trial.level for trial in made]))
    most = 0.0
    for place, target in enumerate(trials.targets):
        curve = rising(np.array([trial.excess[place] for trial in made]))
        here = _value_at(levels, curve, np.log(level))
        if here < -FAR:
            continue
        unsure = served.unsure([target.slo.metric]).get(target.slo.metric, 0.0) / len(trials.seeds) ** 0.5
        before, after = np.log(level) - 0.05, np.log(level) + 0.02
        slope = max((_value_at(levels, curve, after) - _value_at(levels, curve, before)) / (after - before), 0.1)
        most = max(most, (unsure / slope) ** 2)
    return most


def _value_at(levels: Floats, curve: Floats, place: float) -> float:
    """A curve between its points."""
    found: Floats = np.asarray(np.interp(np.array([place]), levels, curve), np.float64)
    return float(found[0])
