"""Stairs: what a fit found at captured sizes, in the tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import any_tables, tables

from roofml.latency.batch import Batch
from roofml.latency.components import ComponentTables
from roofml.latency.formula import step_times
from roofml.latency.parameters import PRIOR_VALUES, Parameters
from roofml.latency.stairs import SIZES, climbed, stair_of, stair_sd

STEP = Parameters.of(PRIOR_VALUES).step


def test_a_step_is_of_the_size_it_is_padded_to() -> None:
    tokens = np.array([0.0, 1, 8, 9, 40, 41, 256, 257, 2048])
    assert stair_of(tokens).tolist() == [-1, 0, 0, 1, 4, 5, 31, -1, -1]


@given(any_tables, st.dictionaries(st.sampled_from(SIZES), st.floats(-0.1, 0.1), max_size=5))
def test_only_steps_of_a_size_with_a_factor_change(ours: ComponentTables, stairs: dict[int, float]) -> None:
    climbed_tables = climbed(ours, stairs)
    for place, size in enumerate(SIZES):
        inside = slice(8 * place + 1, size + 1)
        for name in ("weights", "expert_weights"):
            before, after = getattr(ours, name)[inside], getattr(climbed_tables, name)[inside]
            np.testing.assert_allclose(after, before * (1 + stairs.get(size, 0.0)), rtol=1e-12)
    assert (climbed_tables.weights[257:] == ours.weights[257:]).all()
    assert climbed_tables.gemm is ours.gemm


def test_without_stairs_the_tables_are_the_same() -> None:
    ours = tables()
    assert climbed(ours, {}) is ours


def test_a_step_takes_longer_by_the_share_of_its_weights() -> None:
    ours = tables()
    times = [
        float(step_times(each, Batch(decode=[(700, decodes)]).sums(), STEP)[0])
        for each in (ours, climbed(ours, {40: 0.03}))
        for decodes in (40, 41)
    ]
    assert times[3] == times[1], "another size"
    assert 1.01 < times[2] / times[0] < 1.03


def test_mixtures_are_known_less() -> None:
    assert stair_sd(tables("mixtral-8x7b-v0.1", 2)) > stair_sd(tables())


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_its_own(size: int) -> None:
    assert SIZES[stair_of(np.array([float(size)]))[0]] == size
