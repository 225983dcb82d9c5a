"""Sessions: a load whose requests follow each other's answers, served until it is known when each is sent.

Where sessions are that began before the load depends on how long answers take as well: they are drawn by a guess of it,
and again where that was far off.

When a session's next request comes depends on when its last is answered, and that on what else comes. So the load is
served with a first guess of the arrivals, again with those that its answers then give, and so on. A request can change
only what comes after it, so that each round is right for longer; it ends where arrivals move by less than a thousandth
of the mean E2E. Near a full server a moment more or less changes all that follows, and arrivals move for ever: there it
ends where latencies no longer change on the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats, Ints
from roofml.workloads.load import Load
from roofml.workloads.workload import Workload

T = TypeVar("T")
ROUNDS = 48
SETTLED = 1e-3
AT_LEAST, BEFORE, ALIKE = 12, 4, 0.03
"""Rounds after which a load may end that never settles, where its mean and p95 of E2E are those of so many rounds
before, to this share."""
GUESSES, FAR_OFF = 3, 0.1
"""Draws of a load without end, and by how much of the time between two requests a guess may be wrong."""


def as_drawn(
    workload: Workload, draw: Callable[[float], Load], serve: Callable[[Load], T], replay_of: Callable[[T], Replay]
) -> T:
    """What `serve` makes of a load that `draw` makes of a guess of how long an answer takes, s.

    Drawn once, but of sessions without end where the guess was far off.
    """
    answer_s, guesses = 0.0, 0
    while True:
        served = serve(draw(answer_s))
        if not workload.sessions or workload.requests is not None:
            return served
        took_s, guesses = _mean_s(replay_of(served)), guesses + 1
        if abs(took_s - answer_s) <= FAR_OFF * (answer_s + workload.between_s) or guesses == GUESSES:
            return served
        answer_s = took_s


def _mean_s(replayed: Replay) -> float:
    """How long an answer took; all of them, where some have none."""
    return float(np.nanmean(replayed.e2e_us)) / 1e6 if replayed.completed.any() else 0.0


def serve(
    calibration: Calibration, load: Load, server: Server, progress: Ints | None = None
) -> tuple[Load, Run, Replay]:
    """The load as it was sent, its run, and how it was served. One replay where nobody waits for an answer."""
    if not len(load.after):
        run = load.run(server)
        return load, run, calibration.replay(run, progress)
    arrival, took, rounds = load.arrival_us, np.zeros(len(load)), 0
    figures: list[tuple[float, float]] = []
    while True:
        sent, order = load.sent(arrival)
        run = sent.run(server)
        replayed = calibration.replay(run, progress)
        took[order] = np.where(replayed.completed, replayed.e2e_us, 0.0)
        following, rounds = _arrivals(load, took), rounds + 1
        moved = float(np.mean(np.abs(following - arrival)))
        figures.append((float(np.mean(took)), float(np.percentile(took, 95))))
        if moved <= SETTLED * figures[-1][0] or rounds == ROUNDS or _alike(figures):
            return sent, run, replayed
        arrival = following


def _alike(figures: list[tuple[float, float]]) -> bool:
    """Whether the last round's figures are those of some rounds before, whenever each request comes."""
    if len(figures) < AT_LEAST:
        return False
    return all(
        abs(now - before) <= ALIKE * before for now, before in zip(figures[-1], figures[-1 - BEFORE], strict=True)
    )


def _arrivals(load: Load, took_us: Floats) -> Floats:
    """(requests,) when each is sent, if each takes so long. A request stands after the one it waits for."""
    arrival = load.arrival_us.copy()
    pause, after = load.pause_us.tolist(), load.after.tolist()
    took = took_us.tolist()
    for request, before in enumerate(after):
        if before >= 0:
            arrival[request] = arrival[before] + took[before] + pause[request]
    return arrival
