"""Selection: which requests of which run a fit learns from, or a prediction is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.traces.run import Run
from roofml.util.arrays import Bools
from roofml.util.errors import InputError


@dataclass(frozen=True, eq=False)
class Selection:
    """Some requests of one run."""

    run: Run
    requests: Bools
    """(requests,) which: never one without a valid latency."""

    def __len__(self) -> int:
        return int(self.requests.sum())

    @classmethod
    def of(cls, run: Run, requests: Bools) -> Selection:
        """The successful ones of `requests` (requests,)."""
        return cls(run, run.ok & requests)

    @classmethod
    def between(cls, run: Run, after: float = 0.0, until: float = 1.0) -> Selection:
        """The successful requests between two shares of a run. Raises InputError when there is none."""
        place = np.arange(len(run))
        chosen = cls.of(run, (place >= after * len(run)) & (place < until * len(run)))
        if not len(chosen):
            raise InputError(
                f"{run.name}: no successful request from {after:.0%} to {until:.0%} of the run to judge by"
            )
        return chosen


def first(runs: Sequence[Run], share: float) -> list[Selection]:
    """The successful ones of the first `share` of each run's requests; none of some runs, perhaps.

    Raises InputError for a share that is none.
    """
    if not 0 < share <= 1:
        raise InputError(f"train fraction {share:g}: expected more than 0 and at most 1")
    return [Selection.of(run, np.arange(len(run)) < share * len(run)) for run in runs]


def trainable(runs: Sequence[Run]) -> list[Run]:
    """The runs to learn from: those not saturated, or all where every one is. Survivors of overload are biased."""
    return [run for run in runs if not run.saturated] or list(runs)


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one model, GPU and tensor parallel size together, in order of first appearance."""
    together: dict[tuple[str, str | None, int], list[Run]] = {}
    for run in runs:
        server = run.server
        together.setdefault((server.model, server.gpu, server.tensor_parallel), []).append(run)
    return list(together.values())
