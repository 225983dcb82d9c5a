"""Components as features. A single step is fast, because a replay asks for one step at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables, components, step_components
from roofml.util.arrays import Floats


def parts_of(tables: ComponentTables) -> Callable[[StepSums], Floats]:
    """Return a function of steps to their components (steps, components), µs. It computes one step in plain numbers."""
    listed = tables._replace(
        gemm=tables.gemm.tolist(),
        weights=tables.weights.tolist(),
        expert_weights=tables.expert_weights.tolist(),
        communication=tables.communication.tolist(),
        attention_items=tables.attention_items.tolist(),
    )

    def parts(steps: StepSums) -> Floats:
        if steps.length != 1:
            return columns_of(tables, steps)
        sums = steps.one()
        counts = (int(sums.new_tokens), int(sums.decode_tokens), int(sums.requests))
        return np.array([step_components(listed, sums, *counts)])

    return parts


def columns_of(tables: ComponentTables, steps: StepSums) -> Floats:
    """Return the components of every step, shape (steps, components), µs."""
    return np.stack(components(tables, steps), axis=1)
