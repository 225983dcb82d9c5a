"""What a server takes where it is told nothing, as the releases of vLLM have it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from roofml.hardware.gpu import load_gpu
from roofml.latency.components import GRAPHS, padded
from roofml.latency.server_defaults import default_batch, default_memory_utilization, graph_sizes
from roofml.traces.engine_version import Release
from roofml.traces.settings import SchedulerSettings

TOLD_NOTHING = SchedulerSettings()


@pytest.mark.parametrize(
    ("gpu", "release", "expected"),
    [
        ("H100", (0, 15, 1), (8192, 1024)),
        ("H200", (0, 33, 0), (8192, 1024)),
        ("A100-SXM", (0, 15, 1), (2048, 256)),
        ("A100-SXM", (0, 8, 5), (8192, 1024)),
        ("L40S", (0, 15, 1), (2048, 256)),
        ("B200", (0, 27, 0), (8192, 1024)),
        ("B200", (0, 28, 0), (16384, 1024)),
        ("MI300X", (0, 28, 0), (16384, 1024)),
        ("H100", (0, 8, 0), (8192, 1024)),
        ("A100-SXM", (0, 8, 0), (2048, 1024)),
        ("A100-SXM", (0, 8, 4), (2048, 256)),
    ],
)
def test_batch_limits(gpu: str, release: Release, expected: tuple[int, int]) -> None:
    assert default_batch(load_gpu(gpu), release) == expected


def test_memory_share() -> None:
    assert default_memory_utilization((0, 19, 1)) == 0.9
    assert default_memory_utilization((0, 20, 0)) == 0.92


@pytest.mark.parametrize(
    ("seats", "budget", "release", "last", "count"),
    [
        (128, 2048, (0, 15, 1), 256, 35),
        (128, 2048, (0, 9, 2), 512, 67),
        (128, 2048, (0, 10, 2), 256, 35),
        (1024, 8192, (0, 15, 1), 512, 51),
        (1024, 8192, (0, 10, 2), 512, 67),
        (20, 2048, (0, 15, 1), 40, 8),
        (60, 2048, (0, 31, 0), 120, 19),
        (100, 100, (0, 20, 0), 96, 15),
        (100, 100, (0, 21, 0), 100, 16),
        (1, 8, (0, 15, 1), 2, 2),
    ],
)
def test_sizes_of_graphs(seats: int, budget: int, release: Release, last: int, count: int) -> None:
    sizes = graph_sizes(seats, budget, release, TOLD_NOTHING)
    assert (sizes[-1], len(sizes)) == (last, count)
    assert list(sizes) == sorted(set(sizes))
    assert max(sizes) <= budget


def test_sizes_are_the_users_where_they_say_so() -> None:
    own = SchedulerSettings(cudagraph_capture_sizes=(64, 8, 16, 8, 9000))
    assert graph_sizes(128, 2048, (0, 15, 1), own) == (8, 16, 64)
    assert graph_sizes(128, 2048, (0, 15, 1), SchedulerSettings(enforce_eager=True)) == ()
    every = graph_sizes(128, 2048, (0, 17, 0), SchedulerSettings(performance_mode="interactivity"))
    assert every[:32] == tuple(range(1, 33))
    assert graph_sizes(1024, 8192, (0, 28, 0), TOLD_NOTHING, blackwell=True)[-1] == 1024
    assert 60 in graph_sizes(60, 2048, (0, 31, 0), TOLD_NOTHING)
    assert 60 not in graph_sizes(60, 2048, (0, 30, 0), TOLD_NOTHING)


def test_a_step_is_padded_to_its_graph_and_beyond_the_largest_runs_without() -> None:
    tokens = np.array([0.0, 1, 2, 3, 5, 17, 255, 256, 257, 500])
    assert padded(tokens).tolist() == [0, 1, 2, 4, 8, 24, 256, 256, 257, 500]
    assert padded(tokens, (8, 64)).tolist() == [0, 8, 8, 8, 8, 64, 255, 256, 257, 500]
    assert padded(tokens, ()).tolist() == tokens.tolist()
    assert graph_sizes(128, 2048, (0, 15, 1), TOLD_NOTHING) == GRAPHS


def test_gpus_over_pcie() -> None:
    assert [name for name in ("H100", "H100-NVL", "H100-PCIe", "L40S", "B200") if load_gpu(name).over_pcie] == [
        "H100-PCIe",
        "L40S",
    ]
    assert not replace(load_gpu("L40S"), interconnect_bytes_per_us=1e5).over_pcie
