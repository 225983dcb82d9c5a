"""Kernels at another release: measured ratios apply, nearest wins, and what nobody measured is less sure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import ROUND

from roofml.hardware.gpu import load_gpu
from roofml.hardware.kernel_drift import at_version, change_of, release_number
from roofml.hardware.kernel_tables import Rows, rising
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.deployment import deploy

RATIOS = Rows(
    "drift.csv",
    {},
    ("moe.bfloat16",) * 4,
    np.array([[1400, 1], [1400, 1024], [3100, 1], [3100, 1024]], float),
    np.array([[1.0, 0.1], [1.5, 0.1], [0.9, 0.02], [0.9, 0.02]]),
)
"""A table of release 0.25: half as slow again at 0.14 and many tokens, a tenth quicker at 0.31."""


def change(release: int) -> tuple[list[float], float]:
    found = change_of(RATIOS, "moe", "bfloat16", 2500, release)
    return found.at(np.array([1.0, 32, 1024, 8192])).tolist(), found.sd


def test_the_tables_own_release_is_as_measured() -> None:
    assert change(2500) == ([1, 1, 1, 1], 0)


def test_a_measured_release_has_its_ratios_and_the_nearest_serves_another() -> None:
    assert change(1400)[0] == pytest.approx([1, 1.5**0.5, 1.5, 1.5])
    assert change(1501)[0] == change(1400)[0]
    assert change(3100)[0] == change(3300)[0] == pytest.approx([0.9] * 4)


def test_what_nobody_measured_is_less_sure_the_farther_it_is() -> None:
    sds = [change(release)[1] for release in (1400, 1500, 1700, 1900)]
    assert sds == sorted(sds)
    assert len(set(sds)) == 4
    assert change(3300)[1] > change(3100)[1]
    nothing = change_of(None, "gemm", "bfloat16", 2500, 1500)
    assert (nothing.ratio.tolist(), nothing.sd > 0) == ([1.0], True)


@pytest.mark.parametrize(("release", "number"), [((0, 15, 1), 1501), ((0, 31, 0), 3100), ((1, 2, 3), 10203)])
def test_release_numbers(release: tuple[int, int, int], number: int) -> None:
    assert release_number(release) == number


def test_tables_that_do_not_say_their_release_stay() -> None:
    found = at_version(ROUND, (0, 15, 1))
    assert found.gemm.slowdown["bfloat16"].tolist() == ROUND.gemm.slowdown["bfloat16"].tolist()
    assert found.decode_attention_rows.values.tolist() == ROUND.decode_attention_rows.values.tolist()


def test_h100_of_the_public_runs() -> None:
    """vLLM 0.15.1: mixtures and prompts slower than of 0.25; small all-reduces take 0.7 of the time at 0.31."""
    measured = load_efficiency(load_gpu("H100"))
    old, new = at_version(measured, (0, 15, 1)), at_version(measured, (0, 31, 0))
    small = np.array([256.0])
    assert new.allreduce_us_at(2, small) / old.allreduce_us_at(2, small) == pytest.approx(0.7, abs=0.05)
    ratio = measured.prefill_attention("bfloat16", 32, 8, 128)[0] / old.prefill_attention("bfloat16", 32, 8, 128)[0]
    assert ratio == pytest.approx(1 / 0.92, abs=0.03)
    assert old.moe is not None
    assert measured.moe is not None
    slower = measured.moe.values[:, -1] / old.moe.values[:, -1]
    own = np.array(measured.moe.dtype) == "bfloat16"
    assert 1.2 < np.median(slower[own]) < 1.8
    tuned = own & (measured.moe.sizes == [8, 2, 4096, 7168]).all(axis=1)
    assert slower[tuned] == pytest.approx(1, abs=0.2)  # Mixtral at TP2 was tuned all along


def test_a_deployment_is_priced_at_its_version() -> None:
    old = deploy("mixtral-8x7b-v0.1", "H100", 2, 512, engine_version="0.15.1")
    unsaid = deploy("mixtral-8x7b-v0.1", "H100", 2, 512)
    new = deploy("mixtral-8x7b-v0.1", "H100", 2, 512, engine_version="0.31.0")
    assert unsaid.tables.communication.tolist() == old.tables.communication.tolist()
    assert np.all(new.tables.communication[1:] < old.tables.communication[1:])
    again = new.fitted_on("vllm", "0.15.1")
    assert again.tables.communication.tolist() == old.tables.communication.tolist()
    assert again.reaching(1024).tables.communication[512] == old.tables.communication[512]


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), min_size=2, max_size=5))
def test_rising_never_falls_and_leaves_what_rises(times: list[list[float]]) -> None:
    found = rising(np.array(times))
    for axis in (0, 1):
        assert np.all(np.diff(found, axis=axis) >= -1e-12)
    assert rising(found) == pytest.approx(found, rel=1e-12)


def test_one_outlier_moves_no_other_by_more_than_half_of_itself() -> None:
    times = np.array([1.0, 2, 16, 4, 5, 6])
    found = rising(times)
    assert found[0] == 1
    assert found[-1] == pytest.approx((16 * 6) ** 0.5)
    assert replace(ROUND.gemm, n=np.array([1.0, 2])).n.tolist() == [1, 2]
