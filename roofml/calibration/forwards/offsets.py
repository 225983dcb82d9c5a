"""Offsets: how the forward that `vllm bench forward` times differs from the one inside a served step.

Each is a number of the benchmark alone, with a prior, that a fit finds beside the parameters and forgets. No such file
is public yet: the priors are read from what vLLM does (0.33), and wide enough for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.util.arrays import Floats


@dataclass(frozen=True)
class Offset:
    """One difference between the benchmark and a served step, with its prior."""

    name: str
    unit: str
    prior: float
    sd: float
    meaning: str


OFFSETS = (
    Offset(
        "pace",
        "",
        0.0,
        0.007,
        "logarithm: one graph replayed without a pause keeps other clocks than a server; as servers of a kind differ",
    ),
    Offset(
        "fixed_us",
        "µs",
        8.0,
        8.0,
        "embedding, final norm and what the two events of a graph take: a server has it in per_step_us",
    ),
    Offset(
        "unfused_us",
        "µs",
        1.0,
        1.0,
        "per layer: norm, rotary and activation kernels are not fused with each other or with quantization",
    ),
    Offset(
        "unfused_prefill",
        "",
        0.01,
        0.01,
        "logarithm of prefill_gemm: the same, for each token of a long prompt",
    ),
    Offset(
        "unfused_communication",
        "",
        0.05,
        0.07,
        "logarithm of communication: the all-reduce is not fused with the norm after it",
    ),
    Offset(
        "even_routing",
        "",
        0.1,
        0.08,
        "logarithm of expert_weights where half of the experts are hit, none where one token or all experts are: the "
        "benchmark chooses evenly, and loads of a power law hit 0.8 of as many at M·k = E (hardware/expert_routing.py)",
    ),
)
STAIR_SD = 0.007
"""Relative error of the formula that all batches of one number of new tokens share: kernels change in stairs by it."""


def stairs(*new_tokens: Sequence[int]) -> list[Floats]:
    """For each list of batches (batches, sizes): 1 in the column of a batch's number of new tokens, else 0.

    So two batches of one size say no more of the formula than STAIR_SD allows, and a design takes several sizes.
    """
    sizes = sorted({tokens for batches in new_tokens for tokens in batches})
    place = {tokens: number for number, tokens in enumerate(sizes)}
    return [np.eye(len(sizes))[[place[tokens] for tokens in batches]] for batches in new_tokens]


OFFSET_NAMES = tuple(offset.name for offset in OFFSETS)
OFFSET_PRIOR: Floats = np.array([offset.prior for offset in OFFSETS])
OFFSET_SD: Floats = np.array([offset.sd for offset in OFFSETS])

ABSENT = ("per_step_us", "mixed_step_us", "per_request_us", "cpu_floor_us")
"""Step parameters that are no part of a bare forward: nothing of the sampler, of the CPU's work or of steps that run
outside of a full graph. `fixed_us` stands where `per_step_us` does."""
CLIENT = "the sampler, CPU work, padding, and how requests wait"
"""What needs a client's file of a server, in words."""
