"""What every predictor of a run's latencies looks like, ours or another's, so that all are judged alike."""

from __future__ import annotations

from typing import Protocol

from roofml.engine.step_time import StepTimes
from roofml.traces.run import Run
from roofml.util.arrays import Floats


class Latencies(Protocol):
    """Latencies of every request of a run, µs: measured, or predicted by a replay."""

    @property
    def ttft_us(self) -> Floats:
        """(requests,)"""
        ...

    @property
    def e2e_us(self) -> Floats:
        """(requests,)"""
        ...


class LatencyModel(Protocol):
    """Something that says how long a deployment's steps take, and what its requests wait for besides."""

    def replay(self, run: Run) -> Latencies:
        """Serve the run's requests. Raises what the replay raises."""
        ...

    def step_times(self, run: Run) -> StepTimes:
        """How long steps take on the server of `run`."""
        ...
