"""`roofml.planning.noise` and `changes`: covariances against dense ones, cells, and how much servers differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fitted import a_calibration
from hypothesis import given
from hypothesis import strategies as st

from roofml.calibration.fitted_run import FittedRun
from roofml.planning.changes import SERVER_SD, server_sd_of
from roofml.planning.noise import SLOW_SD, Cells, Means, Noise, noise_of
from roofml.planning.residuals import Rows

CELLS = Cells(np.linspace(0.0, 1000.0, 21))


def rows(begin: np.ndarray, end: np.ndarray, residual: np.ndarray) -> Rows:
    count = len(begin)
    return Rows(np.arange(count), residual, np.zeros((count, 3)), np.ones(count), begin, end)


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 100)), min_size=1, max_size=20))
def test_the_shares_of_a_request_add_up(windows: list[tuple[float, float]]) -> None:
    begin, lasts = np.array(windows).T
    shares = CELLS.shares(begin, begin + lasts)
    assert shares.min() >= 0
    inside = np.maximum(begin + lasts, begin + 1.0) <= 1000.0
    assert shares.sum(axis=1)[inside] == pytest.approx(1.0)


def test_a_gram_matrix_is_that_of_the_dense_covariance() -> None:
    random = np.random.default_rng(0)
    noise = Noise(random.uniform(0.5, 2, 12), random.normal(size=(12, 3)))
    more = random.normal(size=(12, 2))
    columns = random.normal(size=(12, 4))
    factor = np.column_stack((noise.factor, more))
    covariance = np.diag(noise.own_sd**2) + factor @ factor.T
    found = noise.with_sources(more)
    assert found.gram(columns) == pytest.approx(columns.T @ np.linalg.solve(covariance, columns))
    weights = random.normal(size=12)
    assert found.sd_of(weights) == pytest.approx(float(np.sqrt(weights @ covariance @ weights)))


@pytest.mark.parametrize("sd", [0.002, 0.01])
def test_noise_is_read_off_a_run_whatever_its_drift(sd: float) -> None:
    """Of requests that last a cell or so, on a server that is 5 % slower from the middle on."""
    random = np.random.default_rng(1)
    cells = Cells(np.linspace(0.0, 1000.0, 101))
    begin = np.sort(random.uniform(0, 985, 3000))
    window = rows(begin, begin + 12.0, np.zeros(3000))
    truth = cells.shares(begin, begin + 12.0) @ (sd * random.standard_normal(100) + 0.05 * (np.arange(100) >= 50))
    decode = Means.of(replace(window, residual=truth + 0.001 * random.standard_normal(3000)), cells, 0.001)
    ttft = Means.of(rows(begin, begin + 0.1, 0.1 * random.standard_normal(3000)), cells, 0.05)
    noise = noise_of(decode, ttft, cells)
    mean = np.concatenate((np.full(len(decode.residual), 1 / len(decode.residual)), np.zeros(len(ttft.residual))))
    without_wander = (noise.sd_of(mean) ** 2 - SLOW_SD**2) ** 0.5
    assert without_wander == pytest.approx(sd / 10, rel=0.3)


def test_a_cell_in_which_the_host_paused_counts_for_less() -> None:
    begin = np.linspace(0, 985, 2000)
    residual = 0.002 * np.random.default_rng(0).standard_normal(2000)
    residual[(begin > 400) & (begin < 450)] += 0.3
    means = Means.of(rows(begin, begin + 10.0, residual), CELLS, 0.001)
    assert means.weight.argmin() == 8
    assert means.weight.min() < 0.01
    assert np.median(means.weight) == 1


def test_servers_differ_as_much_as_those_that_were_calibrated() -> None:
    calibration = a_calibration()

    def of(*paces: float | None) -> float:
        return server_sd_of(replace(calibration, runs=tuple(FittedRun("run", "", pace) for pace in paces)))

    assert of(None) == of(1.02) == SERVER_SD
    assert of(1.0, 1.0) < SERVER_SD < of(1.01, 0.99)
    assert of(*(1 + 0.01 * (-1) ** i for i in range(200))) == pytest.approx(0.01, rel=0.03)
