"""Closed loops of our replay, from one client to as many as a server holds: what another simulator's form is fitted to.

Each client sends its next request when its last one is answered, so that a known number of requests is in flight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roofml.engine.replay import replay
from roofml.export.subject import Subject
from roofml.latency.parameters import Parameters
from roofml.util.arrays import Floats, Ints
from roofml.workloads.load import closed_load

ROUNDS, LEAST = 6, 24
"""Requests of each client, and of all of them at least."""
WARM_UP = 2
"""Requests of each client that are not looked at: all clients begin at once."""
MOST_CLIENTS = 512


@dataclass(frozen=True)
class ClosedLoop:
    """What requests took with so many clients. Arrays of shape (requests,)."""

    clients: int
    prompt_tokens: Ints
    ttft_us: Floats
    tpot_us: Floats
    """Of requests of two or more tokens; NaN of the others."""
    step_sd: float
    """Standard deviation of a step's time over its mean."""

    @property
    def mean_ttft_us(self) -> float:
        """Mean time to first token."""
        return float(self.ttft_us.mean())

    @property
    def mean_tpot_us(self) -> float:
        """Mean time per output token after the first."""
        return float(np.nanmean(self.tpot_us))


def ladder(most: int) -> list[int]:
    """Numbers of clients: powers of two up to `most`, and that."""
    most = min(most, MOST_CLIENTS)
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def closed_loop(subject: Subject, clients: int, parameters: Parameters | None = None) -> ClosedLoop:
    """Serve a closed loop of `clients` on the subject's server, warm and without shared prompts.

    `parameters` in place of the calibration's, for how uncertain a form's constants are.
    """
    size = max(LEAST, ROUNDS * clients)
    prompts, outputs = subject.lengths.drawn(size)
    calibration = subject.calibration
    run = closed_load(f"{clients} clients", clients, prompts, outputs).run(subject.server)
    tables = calibration.deployment.serving(run.server).tables
    served = replay(run, tables, calibration.parameters if parameters is None else parameters)
    late = np.arange(size) >= WARM_UP * clients
    gaps = np.where(outputs > 1, outputs - 1, np.nan)
    steps = served.schedule.step_time_us
    return ClosedLoop(
        clients,
        prompts[late],
        served.ttft_us[late],
        ((served.e2e_us - served.ttft_us) / gaps)[late],
        float(steps.std() / steps.mean()),
    )
