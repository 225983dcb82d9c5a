"""Sessions: a load whose requests follow each other's answers, served until it is known when each is sent.

When a session's next request comes depends on when its last is answered, and that on what else comes. So the load is
served with a first guess of the arrivals, again with those that its answers then give, and so on. A request can change
only what comes after it, so that each round is right for longer; it ends where arrivals move by less than a thousandth
of the mean E2E.
"""

from __future__ import annotations

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.arrays import Floats, Ints
from roofml.workloads.load import Load

ROUNDS = 20
SETTLED = 1e-3


def serve(
    calibration: Calibration, load: Load, server: Server, progress: Ints | None = None
) -> tuple[Load, Run, Replay]:
    """The load as it was sent, its run, and how it was served. One replay where nobody waits for an answer."""
    if not len(load.after):
        run = load.run(server)
        return load, run, calibration.replay(run, progress)
    arrival, took, rounds = load.arrival_us, np.zeros(len(load)), 0
    while True:
        sent, order = load.sent(arrival)
        run = sent.run(server)
        replayed = calibration.replay(run, progress)
        took[order] = np.where(replayed.completed, replayed.e2e_us, 0.0)
        following, rounds = _arrivals(load, took), rounds + 1
        moved = float(np.mean(np.abs(following - arrival)))
        if moved <= SETTLED * float(np.mean(took)) or rounds == ROUNDS:
            return sent, run, replayed
        arrival = following


def _arrivals(load: Load, took_us: Floats) -> Floats:
    """(requests,) when each is sent, if each takes so long. A request stands after the one it waits for."""
    arrival = load.arrival_us.copy()
    pause, after = load.pause_us.tolist(), load.after.tolist()
    took = took_us.tolist()
    for request, before in enumerate(after):
        if before >= 0:
            arrival[request] = arrival[before] + took[before] + pause[request]
    return arrival
