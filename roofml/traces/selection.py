"""Selection: which requests of which run a fit learns from, or a prediction is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roofml.traces.run import Run
from roofml.util.arrays import Bools
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line


@dataclass(frozen=True, eq=False)
class Selection:
    """Some requests of one run."""

    run: Run
    requests: Bools
    """(requests,) True for the selected requests, which all have valid latencies."""
    late: Bools | None = None
    """(requests,) True for those beside them that the client gave up: another server might have answered them."""

    def __len__(self) -> int:
        return int(self.requests.sum())

    @classmethod
    def of(cls, run: Run, requests: Bools) -> Selection:
        """The successful requests among those where `requests` (requests,) is True."""
        return cls(run, run.ok & requests, run.late & requests if len(run.late) else None)

    def completed_in(self, completed: Bools) -> Selection:
        """Those of the selected requests that complete in a replay, (requests,), as well."""
        return self if completed[self.requests].all() else replace(self, requests=self.requests & completed)

    @classmethod
    def between(cls, run: Run, after: float = 0.0, until: float = 1.0) -> Selection:
        """The successful requests between two shares of a run. Raises InputError if there is none."""
        position = np.arange(len(run))
        chosen = cls.of(run, (position >= after * len(run)) & (position < until * len(run)))
        if not len(chosen):
            raise InputError(
                f"{for_line(run.name)}: no successful request from {after:.0%} to {until:.0%} of the run to judge by"
            )
        return chosen


def first(runs: Sequence[Run], share: float) -> list[Selection]:
    """The successful requests among the first `share` of each run's; a run may have none.

    Raises InputError for a share outside of (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"train fraction {share:g}: expected more than 0 and at most 1")
    return [Selection.of(run, np.arange(len(run)) < share * len(run)) for run in runs]


def trainable(runs: Sequence[Run]) -> list[Run]:
    """The runs to learn from: those not saturated, or all if all are. The survivors of overload are biased.

    Raises InputError, with the reason, for a run that no fit may see.
    """
    for run in runs:
        if run.overview is not None and run.overview.unfit is not None:
            raise InputError(f"{for_line(run.name)}: cannot be fitted on: {run.overview.unfit}")
    return [run for run in runs if not run.saturated] or list(runs)


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Lists of runs with the same model, GPU and tensor parallel size, in order of first appearance."""
    by_server: dict[tuple[str, str | None, int], list[Run]] = {}
    for run in runs:
        server = run.server
        by_server.setdefault((server.model, server.gpu, server.tensor_parallel), []).append(run)
    return list(by_server.values())
