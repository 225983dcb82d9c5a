"""Drawn replays: as wide as what is uncertain, around the prediction, and right about servers that were made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration, a_run, measured_again

from roofml.calibration.calibration import Calibration
from roofml.calibration.drawn_replays import DrawnReplays
from roofml.calibration.prior import Prior
from roofml.engine.replay import Replay, replay
from roofml.latency.parameters import NAMES, PRIOR_SD, PRIOR_VALUES, Parameters, to_coordinates
from roofml.traces.run import Run
from roofml.util.arrays import Floats

pytestmark = pytest.mark.slow

COVARIANCE = np.diag(PRIOR_SD**2) / 400
GROWN = np.array(
    [0.05 if name.startswith("growth") else value for name, value in zip(NAMES, PRIOR_VALUES, strict=True)]
)
"""Parameters far from their bounds."""


def a_fit(values: Floats = GROWN) -> Calibration:
    return a_calibration(values=values, covariance=COVARIANCE)


def another(run: Run) -> Run:
    """Its load on a server that was not fitted."""
    return measured_again(run, e2e_us=1.01 * run.e2e_us)


def figures(run: Run, served: Replay) -> dict[str, float]:
    tpot = (served.e2e_us - served.ttft_us) / (run.output_tokens - 1)
    return {
        "e2e_mean": float(np.mean(served.e2e_us)),
        "ttft_mean": float(np.mean(served.ttft_us)),
        "tpot_mean": float(np.mean(tpot)),
        "e2e_p90": float(np.quantile(served.e2e_us, 0.9)),
    }


def plain(spread: DrawnReplays) -> DrawnReplays:
    """With what draws contain alone."""
    return replace(spread, beside=lambda _: {}, stretch=lambda _: 1.0)


def test_draws_are_mirrored_and_as_wide_as_their_sources() -> None:
    spread = a_fit().replays(another(a_run()), 12)
    assert len(spread) == len(spread.paces) == 12
    assert np.sort(spread.paces) == pytest.approx(np.sort(-spread.paces))
    assert np.mean(spread.paces**2) == pytest.approx(sum(spread.sources.values()))


@pytest.mark.parametrize(
    "values", [GROWN, np.where(PRIOR_VALUES == 0, 1e-6, PRIOR_VALUES)], ids=["inside", "on bounds"]
)
def test_steps_of_draws_lie_around_those_of_the_parameters(values: Floats) -> None:
    """Also of parameters on their bounds, where half of all draws would leave them."""
    run, calibration = another(a_run()), a_fit(values)
    value = figures(run, calibration.replay(run))["tpot_mean"]
    logs = [np.log(figures(run, served)["tpot_mean"] / value) for served in calibration.replays(run)]
    assert abs(np.median(logs)) < 0.15 * np.std(logs)


def test_each_source_widens() -> None:
    run, calibration = a_run(), a_fit()
    known, unknown = calibration.replays(run), calibration.replays(another(run))
    full = calibration.replays(replace(another(run), saturated=True))
    value = figures(run, calibration.replay(run))["tpot_mean"]

    def sd(spread: DrawnReplays, **more: float) -> float:
        drawn = [figures(run, served)["tpot_mean"] for served in spread]
        return spread.predicted("tpot_mean", value, drawn, more).sd

    assert sd(plain(known)) < sd(plain(unknown)) < sd(plain(full))
    assert sd(unknown) < sd(unknown, arrivals=1e-4)


def test_the_level_of_a_server_that_was_fitted_is_known_whatever_the_parameters_are() -> None:
    """Its pace was fitted together with them: what is left is the formula's error, and how steps differ."""
    run, calibration = a_run(), a_calibration(values=GROWN, covariance=25 * COVARIANCE)
    value = figures(run, calibration.replay(run))["tpot_mean"]
    sds = [
        plain(spread).predicted("tpot_mean", value, [figures(run, served)["tpot_mean"] for served in spread]).sd
        for spread in (calibration.replays(run), calibration.replays(another(run)))
    ]
    assert sds[0] < 0.75 * sds[1]


def test_intervals_of_made_up_servers_hold_for_nine_in_ten() -> None:
    """Servers of all that a fit believes: parameters and pace drawn, their loads served, and measured exactly."""
    run, calibration = another(a_run(60)), a_fit()
    spread = plain(calibration.replays(run))
    value = figures(run, calibration.replay(run))
    drawn = [figures(run, served) for served in spread]
    predicted = {name: spread.predicted(name, value[name], [each[name] for each in drawn]) for name in value}
    servers = 80
    believed = Prior(to_coordinates(GROWN), COVARIANCE, "").draws(servers, seed=5)
    paces = np.random.default_rng(6).normal(0, sum(spread.sources.values()) ** 0.5, servers)
    z: dict[str, list[float]] = {name: [] for name in value}
    for values, pace in zip(believed, np.exp(paces), strict=True):
        truth = figures(run, replay(run, calibration.deployment.tables, Parameters.of(values).paced(float(pace))))
        for name, prediction in predicted.items():
            z[name].append(prediction.z(truth[name]))
    for name, of_metric in z.items():
        assert 0.8 < np.sqrt(np.mean(np.square(of_metric))) < 1.25, name
        assert 0.82 < np.mean(np.abs(of_metric) < 1.645) < 0.97, name
