"""Sessions: a load whose requests follow each other's answers, served.

The engine sends each when the answer that it waits for is there. Where sessions are that began before the load depends
on how long answers take as well: they are drawn by a guess of it, and again where that was far off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.arguments import Waits
from roofml.engine.replay import Replay, replay
from roofml.latency.parameters import Parameters
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Ints
from roofml.workloads.load import Load
from roofml.workloads.workload import Workload

T = TypeVar("T")
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
        if not workload.endless_sessions:
            return served
        took_s, guesses = _mean_s(replay_of(served)), guesses + 1
        if abs(took_s - answer_s) <= FAR_OFF * (answer_s + workload.between_s) or guesses == GUESSES:
            return served
        answer_s = took_s


def _mean_s(replayed: Replay) -> float:
    """How long an answer took; all of them, where some have none."""
    return float(np.nanmean(replayed.e2e_us)) / 1e6 if replayed.completed.any() else 0.0


@dataclass(frozen=True, eq=False)
class Served:
    """A load as one server served it. Requests are in the order in which they were sent."""

    load: Load
    run: Run
    replay: Replay
    order: Ints
    """(requests,) which of the load each is."""


def serve(calibration: Calibration, load: Load, server: Server, progress: Ints | None = None) -> Served:
    """Serve a load, whoever waits for whose answer. Raises InputError as a replay does."""
    run = load.run(server)
    if not len(load.after):
        return Served(load, run, calibration.replay(run, progress), np.arange(len(load)))
    replayed = calibration.replay(replace(run, pause_us=np.zeros(0)), progress, Waits(load.after, load.pause_us))
    sent, order = load.sent(replayed.schedule.arrival_us)
    return Served(sent, sent.run(server), replayed.taken(order), order)


def sent_anew(served: Served, load: Load) -> Callable[[Parameters, Any], Replay] | None:
    """How a load that was `served` so is served at other step times: its sessions are then sent at other times.

    The replay of the same requests in their order. None where nobody waits, and a replay of the run says it.
    """
    if not len(load.after):
        return None
    run = replace(load.run(served.run.server), pause_us=np.zeros(0))
    waits = Waits(load.after, load.pause_us)
    return lambda parameters, tables: replay(run, tables, parameters, waits=waits).taken(served.order)
