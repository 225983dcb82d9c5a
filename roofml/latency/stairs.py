"""Stairs: how much longer a captured size takes to read its weights than the tables say, relatively.

A step is padded to the next size for which a CUDA graph was captured, and for each of them libraries choose kernels and
tiles anew. Kernels that were measured apart do not tell which are chosen inside of a graph: the public runs of Mixtral
take 3 % longer than a smooth curve at 33 to 40 tokens and 2 % less at 41 to 48, those of Llama-2-70B 0.6 % less at 25
to 32 and 0.5 % more at 33 to 40, in every run alike. So a fit learns one factor for each size of vLLM's default ones,
up to 256 tokens: on the weights, which take most of such a step.

What is true of one size says nothing of the next, and less than nothing of another model: each is believed to be 0,
give or take `stair_sd`, and a model without a trace has none. More tokens may shorten a step where a factor falls.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from roofml.latency.components import ComponentTables
from roofml.util.arrays import Floats, Ints

SPACING = 8
"""Tokens from one of vLLM's captured sizes to the next, up to `LARGEST`."""
LARGEST = 256
SIZES = tuple(range(SPACING, LARGEST + 1, SPACING))
DENSE_SD, EXPERTS_SD = 0.0125, 0.04
"""How far a factor is from 1: of dense models, and of mixtures, whose tiles follow the tokens per expert too."""


def stair_of(new_tokens: Floats) -> Ints:
    """(steps,) place in `SIZES` of the size to which so many tokens, (steps,), are padded; -1 of larger ones."""
    place = np.ceil(new_tokens / SPACING).astype(np.int64) - 1
    return np.where(place < len(SIZES), place, -1)


def stair_sd(tables: ComponentTables) -> float:
    """Standard deviation of each factor, before any trace."""
    return EXPERTS_SD if tables.experts else DENSE_SD


def climbed(tables: ComponentTables, stairs: Mapping[int, float]) -> ComponentTables:
    """The tables with weights that take 1 + `stairs[size]` times as long, for steps padded to this size.

    Without stairs they are the same to the bit.
    """
    if not stairs:
        return tables
    place = stair_of(np.arange(len(tables.weights), dtype=np.float64))
    longer = np.array([stairs.get(size, 0.0) for size in SIZES])
    factor = np.where(place >= 0, 1.0 + longer[place], 1.0)
    return tables._replace(weights=tables.weights * factor, expert_weights=tables.expert_weights * factor)
