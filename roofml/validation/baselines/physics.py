"""Components as features: fast for the one step that a replay asks for at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roofml.latency.batch import StepTable
from roofml.latency.components import ComponentTables, components, step_components
from roofml.traces.run import Floats


def parts_of(tables: ComponentTables) -> Callable[[StepTable], Floats]:
    """`components` of a setting: steps -> (steps, components), µs. One step goes through plain numbers, and fast."""
    listed = tables._replace(
        gemm=tables.gemm.tolist(),
        weights=tables.weights.tolist(),
        expert_weights=tables.expert_weights.tolist(),
        communication=tables.communication.tolist(),
        attention_items=tables.attention_items.tolist(),
    )

    def parts(steps: StepTable) -> Floats:
        if len(steps) != 1:
            return components(tables, steps)
        prefill, decode, requests = steps.prefill_tokens.item(), steps.decode_tokens.item(), steps.requests.item()
        sums = (steps.prefill_pairs.item(), steps.prefill_context.item(), steps.decode_context.item())
        beyond = steps.decode_beyond.item()
        counts = (int(prefill + decode), int(decode), int(requests))
        return np.array([step_components(listed, prefill, decode, requests, *sums, beyond, *counts)])

    return parts
