"""Continued load: the last requests of a recording that was cut are not alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from served import served

from roofml.engine.continued import continued
from roofml.engine.replay import replay
from roofml.latency.deployment import deployment_of
from roofml.latency.parameters import PRIOR_VALUES, Parameters


def test_a_cut_recording_is_replayed_as_the_whole_one_is() -> None:
    """The first 60 % of a steady load: with what follows them, their last requests take as long as in the whole."""
    whole = served(600, gap_us=4e4)
    tables, parameters = deployment_of([whole]).tables, Parameters.of(PRIOR_VALUES)
    cut = whole.take(np.arange(600) < 360)
    truth = replay(whole, tables, parameters).e2e_us[:360]
    alone, beside = (replay(replace(cut, goes_on=on), tables, parameters) for on in (False, True))
    last = slice(340, 360)
    wrong = [abs(float(np.mean(each.e2e_us[last] / truth[last])) - 1) for each in (alone, beside)]
    assert wrong[1] < 0.5 * wrong[0]
    assert len(beside.e2e_us) == len(beside.schedule.first_step) == 360
    assert beside.schedule.steps.length == len(beside.schedule.step_start_us) == beside.schedule.last_step.max() + 1
    np.testing.assert_array_equal(alone.e2e_us[:200], beside.e2e_us[:200])


def test_only_a_recording_that_was_cut_goes_on() -> None:
    run = served(100)
    assert continued(run) is run
    assert continued(replace(run, goes_on=True, clients=4)).clients == 4
    longer = continued(replace(run, goes_on=True))
    assert len(longer) > len(run)
    assert (np.diff(longer.arrival_us) >= 0).all()
    assert (longer.arrival_us[:100] == run.arrival_us).all()
