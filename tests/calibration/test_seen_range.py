"""The range that a fit has seen is of the steps its requests were in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from served import served

from roofml.calibration.fit import ranges
from roofml.engine.replay import replay
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import PRIOR_VALUES, Parameters


def test_what_a_replay_meets_after_the_fitted_requests_was_not_seen() -> None:
    """Sixty requests one by one, and then forty at once."""
    run = served(100, gap_us=np.concatenate((np.full(60, 4e6), np.full(40, 1e3))))
    run = replace(run, arrival_us=np.where(np.arange(100) < 60, run.arrival_us, run.arrival_us + 60e6))
    schedule = replay(run, deployment_of([run]).tables, Parameters.of(PRIOR_VALUES)).schedule
    alone, all_of_them = np.arange(100) < 60, np.ones(100, np.bool_)
    seen, whole = ranges([schedule], [alone]), ranges([schedule], [all_of_them])
    assert seen["batch"][1] < 20 < whole["batch"][1]
    assert whole == ranges([schedule])
    assert ranges([schedule], [~all_of_them]) == whole
    for name, (low, high) in seen.items():
        assert whole[name][0] <= low <= high <= whole[name][1]
