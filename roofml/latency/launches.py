"""Launches: a step that no CUDA graph runs is never shorter than the CPU takes to launch its kernels.

While a GPU works longer than that the launches are hidden, as in all steps of the public runs: what their mixed steps,
which also run without a graph, take beyond the physics (`mixed_step_us`, 119 to 146 µs) is the same with 32 layers and
with 80. So they are a floor and no addend. Its size per layer is from figures that others published, and known to a
factor of two: it depends on the CPU.

- Nothing compiled (`enforce_eager`): Voxtral-Mini-4B on an H200, 58 layers with those of its encoder (59 pieces are
  launched a token): 16.5 ms a step, 285 µs a layer (github.com/vllm-project/vllm/pull/51167); Qwen2.5-Omni-7B on an
  A800, 28 layers: 22.5 ms, 800 µs a layer (github.com/vllm-project/vllm-omni/issues/7960).
- Compiled, without a graph, as beyond the largest one: less than that, and more than with graphs of the pieces between
  attention, with which the first takes 5.9 ms, 100 µs a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from roofml.util.arrays import Bools, Floats
from roofml.util.jit_cache import called_by_compiled

EAGER_US = 450.0
"""Of a layer, where nothing is compiled: the geometric mean of 285 and 800."""
COMPILED_US = 170.0
"""Of a layer of a compiled model: the geometric mean of 100 and 285."""
LAUNCH_SD = 0.5
"""Standard deviation of their logarithm: the figures above lie 1 to 1.2 of it away."""


def launches_us(layers: int, graphs: Sequence[int]) -> float:
    """CPU time to launch the kernels of a step that is larger than all of a server's `graphs`; µs, known to a factor.

    A server without any is taken for one with `enforce_eager`.
    """
    return layers * (COMPILED_US if graphs else EAGER_US)


def drawn_launches_us(tables: Any, count: int) -> Floats:
    """(count,) what launches of the `ComponentTables` may take, as uncertain as they are; the same every time."""
    return tables.launches_us * np.exp(LAUNCH_SD * np.random.default_rng(1).standard_normal(count))


def drawn_launches(tables: Any, count: int) -> list[Any]:
    """`count` times the `ComponentTables`, each with such launches."""
    drawn: list[float] = drawn_launches_us(tables, count).tolist()
    return [tables._replace(launches_us=launches) for launches in drawn]


def said_of_launches(times: Floats, new_tokens: Floats, tables: Any) -> list[str]:
    """A sentence where launches decide the time of steps, µs, (steps,) each; none where they do not."""
    decided: Bools = (new_tokens > tables.captured) & (times <= tables.launches_us)
    launched = 100 * float(np.mean(decided))
    if not launched:
        return []
    of_layer = tables.launches_us / tables.layers
    return [
        f"{launched:.3g} % of steps run without a CUDA graph and take as long as the CPU launches their kernels: "
        f"{of_layer:.0f} µs a layer, known to a factor of two"
    ]


@called_by_compiled
def no_shorter_than_launches(time: Any, new_tokens: Any, tables: Any) -> Any:
    """The time of a step of M new tokens, µs, and at least that of its launches where no CUDA graph holds M tokens.

    `tables` say `launches_us` and `captured`: those of components, or the limits of the compiled loop. Plain arithmetic
    on numbers or arrays. A longer time, or one of no tokens, is the same to the bit.
    """
    short = tables.launches_us * (new_tokens > tables.captured) - time
    return time + 0.5 * (abs(short) + short)
