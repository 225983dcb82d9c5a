"""What every predictor of a run's latencies looks like, ours or another's, so that all are judged alike."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from roofml.engine.step_time import StepTimes
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats


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


Kind = Literal["e2e", "ttft", "tpot"]


def judged_us(judged: Selection, latencies: Latencies, kind: Kind) -> Floats:
    """E2E, TTFT or TPOT of the selected requests, µs, (requests,); TPOT has those of two or more tokens alone.

    TPOT is the mean time of an output token after the first: (E2E - TTFT) / (tokens - 1). Where the client gives up,
    they are those that completed in this world, be it the measured or a replayed one.
    """
    chosen = judged.requests if judged.late is None else judged.requests | judged.late
    return _of(judged, latencies, kind, chosen & np.isfinite(latencies.e2e_us))


def paired_us(judged: Selection, latencies: Latencies, kind: Kind) -> tuple[Floats, Floats]:
    """The same of the requests that completed in both worlds: as measured, and in `latencies`."""
    both = judged.requests & np.isfinite(latencies.e2e_us)
    return _of(judged, judged.run, kind, both), _of(judged, latencies, kind, both)


def _of(judged: Selection, latencies: Latencies, kind: Kind, chosen: Bools) -> Floats:
    tokens = judged.run.output_tokens
    if kind == "tpot":
        tpot = (latencies.e2e_us - latencies.ttft_us) / np.maximum(tokens - 1, 1)
        return tpot[chosen & (tokens > 1)]
    return (latencies.e2e_us if kind == "e2e" else latencies.ttft_us)[chosen]
