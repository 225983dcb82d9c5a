"""Sampled steps as an instrumented server would write them down, from a replay of a made-up run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from roofml.engine.replay import Schedule
from roofml.traces.steps.table import FIELDS, SampledSteps, table_of
from roofml.util.arrays import Ints

FIRST_ID = 40
"""The server had stepped before the load came."""
FIRST_NS = 7_000_000_000_000


def columns_of(schedule: Schedule, share: float, seed: int = 0) -> dict[str, Ints]:
    """Every step kept with the same chance. With async scheduling a step is formed when the step before it starts."""
    steps = schedule.steps
    kept = np.flatnonzero(np.random.default_rng(seed).random(steps.length) < share)
    kept = kept[kept > 0]
    start = np.rint(1e3 * schedule.step_start_us[kept - 1]).astype(np.int64) + FIRST_NS
    decodes = steps.decode_tokens[kept].astype(np.int64)
    prefills = (steps.requests[kept] - steps.decode_tokens[kept]).astype(np.int64)
    new = steps.prefill_tokens[kept].astype(np.int64)
    zero = np.zeros(len(kept), np.int64)
    context = steps.decode_context[kept] + decodes + steps.prefill_context[kept] + new
    used = np.ceil(context / 16 + 0.5 * (decodes + prefills)).astype(np.int64)  # last blocks are half full
    return {
        "id": kept + FIRST_ID,
        "start_ns": start,
        "end_ns": start + 300_000,
        "call_us": zero + 300,
        "running": decodes + prefills,
        "waiting": zero,
        "prefill_requests": prefills,
        "decode_requests": decodes,
        "scheduled_tokens": new + decodes,
        "prefill_tokens": new,
        "decode_tokens": decodes,
        "finished": zero,
        "preempted": zero,
        "blocks_total": zero + 100_000,
        "blocks_free": 100_000 - used,
    }


def table(columns: Mapping[str, Ints], name: str = "steps") -> SampledSteps:
    """Checked as a reader checks them."""
    return table_of(name, columns, "row", np.arange(1, len(columns["id"]) + 1))


def write_parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    """One column an attribute."""
    import pyarrow
    import pyarrow.parquet

    named = {FIELDS[field]: values for field, values in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(named), path)
    return path


def event(name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """An event whose attributes are all whole numbers, which OTLP/JSON writes as strings."""
    pairs = [{"key": key, "value": {"intValue": str(value)}} for key, value in attributes.items()]
    return {"name": name, "attributes": pairs}


def line(*events: dict[str, Any], scope: str = "vllm.scheduler.step") -> str:
    """One export."""
    spans = [{"scope": {"name": scope}, "spans": [{"events": list(events)}]}]
    return json.dumps({"resourceSpans": [{"scopeSpans": spans}]})


def summaries(columns: Mapping[str, Ints]) -> list[dict[str, Any]]:
    """One event a step."""
    return [
        event("step.BATCH_SUMMARY", {FIELDS[field]: int(values[row]) for field, values in columns.items()})
        for row in range(len(columns["id"]))
    ]


def write_otlp(path: Path, columns: Mapping[str, Ints]) -> Path:
    """Two steps a line, among what other scopes export."""
    events = summaries(columns)
    lines = [line(*events[i : i + 2]) for i in range(0, len(events), 2)]
    lines.insert(1, line(event("step.BATCH_SUMMARY", {}), scope="vllm.api"))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
