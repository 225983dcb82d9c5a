"""Pauses: how long a request is held up, and that they are found where they were."""

from __future__ import annotations

import numpy as np
import pytest

from roofml.calibration.front_end import pauses_of
from roofml.latency.pauses import NO_PAUSES, Pauses, held_us


def test_who_comes_in_a_pause_waits_for_its_end() -> None:
    pauses = Pauses(every_us=1000.0, pause_us=40.0)
    assert [held_us(us, pauses) for us in (0.0, 10.0, 40.0, 999.0, 1000.0, 2030.0)] == [40, 30, 0, 0, 40, 10]
    assert held_us(5.0, NO_PAUSES) == 0.0
    arrivals = np.random.default_rng(0).uniform(0, 1e6, 100_000)
    assert np.mean([held_us(us, pauses) for us in arrivals]) == pytest.approx(pauses.mean_us, rel=0.1)


def late(pauses: Pauses, requests: int = 6000, seed: int = 0) -> np.ndarray:
    """How much later than expected requests get their first token: a step more or less, and what pauses hold up."""
    random = np.random.default_rng(seed)
    held = np.array([held_us(us, pauses) for us in random.uniform(0, 1e9, requests)])
    return random.uniform(-5e3, 5e3, requests) + random.uniform(-5e3, 5e3, requests) + held


@pytest.mark.parametrize("pauses", [Pauses(1e6, 4e4), Pauses(7e5, 3e4), Pauses(2e6, 8e4)])
@pytest.mark.parametrize("seed", range(3))
def test_pauses_are_found(pauses: Pauses, seed: int) -> None:
    found = pauses_of(late(pauses, seed=seed))
    assert found.pause_us == pytest.approx(pauses.pause_us, rel=0.25)
    assert found.pause_us / found.every_us == pytest.approx(pauses.pause_us / pauses.every_us, rel=0.35)


@pytest.mark.parametrize("seed", range(5))
def test_scatter_is_no_pause(seed: int) -> None:
    random = np.random.default_rng(seed)
    assert pauses_of(late(NO_PAUSES, seed=seed)) == NO_PAUSES
    assert pauses_of(random.normal(0, 5e3, 6000)) == NO_PAUSES
    assert pauses_of(late(Pauses(1e6, 4e4), 200, seed)) == NO_PAUSES, "too few requests to tell"
    assert pauses_of(np.zeros(1000)) == NO_PAUSES
