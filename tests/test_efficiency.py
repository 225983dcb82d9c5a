"""Efficiencies: interpolated all-reduces, what is shipped, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from synthetic import GPU, ROUND

from roofml import efficiency
from roofml.efficiency import load_efficiency
from roofml.errors import InputError
from roofml.files import data_folder
from roofml.gpu import load_gpu

MEASURED = sorted(folder.name for folder in data_folder("bench_data").iterdir() if folder.is_dir())
GOOD = {
    "source": "made up",
    "gemm": 0.8,
    "moe": 0.5,
    "weights": 0.9,
    "moe_weights": 0.7,
    "prefill_attention": 0.5,
    "decode_attention": 0.9,
    "decode_attention_grouped": 0.6,
    "allreduce_bytes": [128, 1024],
    "allreduce_us": {2: [4.0, 5.0]},
}


@pytest.mark.parametrize("name", MEASURED)
def test_shipped_efficiencies_are_fractions_with_a_source(name: str) -> None:
    found = load_efficiency(load_gpu(name))
    fractions = [found.gemm, found.moe, found.weights, found.moe_weights]
    fractions += [found.prefill_attention, found.decode_attention, found.decode_attention_grouped]
    assert all(0.05 < fraction < 1 for fraction in fractions)
    assert found.source
    for times in found.allreduce_us.values():
        assert np.all(np.diff(times) > 0)


def test_an_all_reduce_by_hand() -> None:
    """4 µs up to 1 kB, 24 µs at 2 MB, in between linear in bytes, beyond at the bandwidth of the largest."""
    found = ROUND.allreduce_us_at(2, np.array([0.0, 1000.0, 1_000_500.0, 2e6, 6e6]))
    assert found.tolist() == [4.0, 4.0, 14.0, 24.0, 72.0]


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.sampled_from([2, 4, 8]))
def test_larger_messages_take_no_less_time(size: float, more: float, gpus: int) -> None:
    """And the time is continuous: 1e-9 relative for rounding."""
    first, second = ROUND.allreduce_us_at(gpus, np.array([size, size + more]))
    assert first <= second * (1 + 1e-9)
    steepest = 46 / 2e6  # µs a byte, where 8 GPUs go on at the bandwidth of the largest message
    assert second - first <= more * steepest + 1e-9 * second


def test_a_number_of_gpus_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError) as error:
        ROUND.allreduce_us_at(3, np.zeros(1))
    assert str(error.value) == "tensor parallel size 3: no all-reduce was measured for it (known: 1, 2, 4, 8)"


def test_a_gpu_without_measurements_is_refused() -> None:
    with pytest.raises(InputError, match=r"bench_data/round/efficiency.yaml: no measured kernel efficiencies for Roun"):
        load_efficiency(GPU)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(efficiency, "data_folder", lambda name: tmp_path)
    return tmp_path / "mine" / "efficiency.yaml"


MINE = replace(GPU, name="Mine")


def test_a_file_is_read_as_it_stands(folder: Path) -> None:
    with folder.open("w") as file:
        YAML(typ="safe").dump(GOOD, file)
    found = load_efficiency(MINE)
    assert (found.gemm, found.decode_attention_grouped, found.source) == (0.8, 0.6, "made up")
    assert found.allreduce_us[2].tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gemm": None}, "gemm: expected a positive number, found None"),
        ({"gemm": -0.5}, "gemm: expected a positive number, found -0.5"),
        ({"moe": True}, "moe: expected a positive number, found True"),
        ({"weights": "0.9"}, "weights: expected a positive number, found '0.9'"),
        ({"weights": float("nan")}, "weights: expected a positive number, found nan"),
        ({"allreduce_bytes": 5}, "allreduce_bytes: expected a list of at least 2 numbers"),
        ({"allreduce_bytes": [5]}, "allreduce_bytes: expected a list of at least 2 numbers"),
        ({"allreduce_bytes": [5, 5]}, "expected ascending allreduce_bytes and allreduce_us by number of GPUs"),
        ({"allreduce_us": [1, 2]}, "expected ascending allreduce_bytes and allreduce_us by number of GPUs"),
        ({"allreduce_us": {2: [1.0]}}, "allreduce_us.2: expected a list of 2 numbers"),
        ({"allreduce_us": {2: [1.0, 0]}}, "allreduce_us.2: expected a positive number, found 0"),
        ({"allreduce_us": {"two": [1.0, 2.0]}}, "allreduce_us: 'two': expected a number of GPUs of at least 2"),
    ],
)
def test_impossible_numbers_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    with folder.open("w") as file:
        YAML(typ="safe").dump(GOOD | changes, file)
    with pytest.raises(InputError) as error:
        load_efficiency(MINE)
    assert str(error.value) == f"{folder}: {message}"
