"""What `vllm serve` takes where it is told nothing, by release and GPU: batch limits, memory, CUDA graphs.

Read from the releases (vllm/engine/arg_utils.py, vllm/config/{scheduler,cache,vllm,compilation}.py); the first release
that has a thing is named with it. Where nobody says the release, it is that of `traces/engine_version.ASSUMED`, as it
is for a recorded run.
"""

from __future__ import annotations

from collections.abc import Iterable

from roofml.hardware.gpu import Gpu
from roofml.traces.engine_version import ASSUMED, Release, release_of
from roofml.traces.server import Server
from roofml.traces.settings import SchedulerSettings

GIB = 2**30

BY_MEMORY: Release = (0, 8, 5)
"""Before, limits went by the GPU's name."""
NOT_A100: Release = (0, 9, 0)
LARGEST_GPUS: Release = (0, 28, 0)
MEMORY_92: Release = (0, 20, 0)
GRAPHS_BY_SEATS: Release = (0, 10, 0)
GRAPHS_OF_16: Release = (0, 11, 1)
GRAPHS_OF_EVERY_SIZE: Release = (0, 17, 0)
GRAPH_OF_THE_BUDGET: Release = (0, 21, 0)
GRAPHS_OF_BLACKWELL: Release = (0, 28, 0)
GRAPH_OF_THE_SEATS: Release = (0, 31, 0)

DENSE, COARSE = 8, 16
"""Steps between sizes: below 256 tokens, and from there on."""
COARSE_FROM = 256
MOST_CAPTURED, MOST_ON_BLACKWELL = 512, 1024
EVERY_SIZE_TO = 32
"""With `performance_mode: interactivity`."""


def default_batch(gpu: Gpu, release: Release = ASSUMED) -> tuple[int, int]:
    """(max_num_batched_tokens, max_num_seqs) of `vllm serve` on a GPU."""
    name = gpu.name.lower()
    if release < BY_MEMORY:
        large = "h100" in name or "h200" in name
        return (8192, 1024) if large else (2048, 1024 if release < (0, 8, 4) else 256)
    if release >= LARGEST_GPUS and gpu.memory_bytes >= 160 * GIB:
        return 16384, 1024
    large = gpu.memory_bytes >= 70 * GIB and not (release >= NOT_A100 and "a100" in name)
    return (8192, 1024) if large else (2048, 256)


def default_memory_utilization(release: Release = ASSUMED) -> float:
    """Share of the memory that the driver reports."""
    return 0.92 if release >= MEMORY_92 else 0.9


def graph_sizes(
    max_num_seqs: int, budget: int, release: Release, settings: SchedulerSettings, *, blackwell: bool = False
) -> tuple[int, ...]:
    """Numbers of tokens, ascending, for which a server captures CUDA graphs; none if it runs without.

    The user's own list, or those of the release: 1, 2, 4, multiples of 8 and then of 16 up to twice `max_num_seqs`,
    never above the budget.
    """
    if settings.enforce_eager:
        return ()
    if settings.cudagraph_capture_sizes is not None:
        return tuple(sorted({size for size in settings.cudagraph_capture_sizes if size <= budget}))
    most = MOST_ON_BLACKWELL if blackwell and release >= GRAPHS_OF_BLACKWELL else MOST_CAPTURED
    if release >= GRAPHS_BY_SEATS:
        most = min(2 * max_num_seqs, most)
    if release < GRAPHS_OF_16:
        sizes = {1, 2, 4, *range(DENSE, most + 1, DENSE)}
        return tuple(sorted(size for size in sizes if size <= min(most, budget)))
    most = min(most, budget)
    few: Iterable[int] = (1, 2, 4)
    if settings.performance_mode == "interactivity" and release >= GRAPHS_OF_EVERY_SIZE:
        few = range(1, min(most, EVERY_SIZE_TO) + 1)
    sizes = {*few, *range(DENSE, min(most + 1, COARSE_FROM), DENSE), *range(COARSE_FROM, most + 1, COARSE)}
    if release >= GRAPH_OF_THE_BUDGET:
        sizes.add(budget)
    if release >= GRAPH_OF_THE_SEATS:
        sizes.add(max_num_seqs)
    return tuple(sorted(size for size in sizes if size <= most))


def graphs_of(server: Server, gpu: Gpu) -> tuple[int, ...]:
    """The sizes of CUDA graphs that a run's server has on this GPU."""
    return graph_sizes(
        server.max_num_seqs,
        server.max_num_batched_tokens,
        release_of(server.engine, server.engine_version),
        server.settings,
        blackwell=gpu.name.startswith(("B200", "GB200")),
    )
