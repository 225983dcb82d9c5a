"""SampledSteps: the engine steps that an instrumented server recorded, as arrays, whatever their file format.

A server records a sample of its steps, for example those with `id` 27, 30 and 41 of 42. Attribute names are those of
vLLM instrumented with OpenTelemetry (`step.BATCH_SUMMARY` events of the scope `vllm.scheduler.step`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from roofml.traces.finding import Finding
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError, NotSupportedError

FIELDS = {
    "id": "step.id",
    "start_ns": "step.ts_start_ns",
    "end_ns": "step.ts_end_ns",
    "call_us": "step.duration_us",
    "running": "queue.running_depth",
    "waiting": "queue.waiting_depth",
    "prefill_requests": "batch.num_prefill_reqs",
    "decode_requests": "batch.num_decode_reqs",
    "scheduled_tokens": "batch.scheduled_tokens",
    "prefill_tokens": "batch.prefill_tokens",
    "decode_tokens": "batch.decode_tokens",
    "finished": "batch.num_finished",
    "preempted": "batch.num_preempted",
    "blocks_total": "kv.blocks_total_gpu",
    "blocks_free": "kv.blocks_free_gpu",
}
"""Field -> attribute. All are counts or whole numbers of ns or µs; `SampledSteps` explains them."""

FEWEST = 2
"""Fewest sampled steps that make a cycle."""

LONG_CONTEXT = 1024
"""Tokens of context up to which decode attention in serving costs what its kernel takes alone (`long_context`)."""


MOST = 10**15
"""Largest number of a column but times: sums of a few of them fit into 64 bits, and floats hold them exactly."""


@dataclass(frozen=True, eq=False)
class Contexts:
    """Sums over what the requests of each sampled step had in the KV cache; NaN if it is not known for a step.

    Every array has shape (samples,), in tokens (pairs of tokens for `prefill_pairs`), as in
    `roofml.latency.batch.StepSums`.
    """

    prefill_pairs: Floats
    prefill_context: Floats
    decode_context: Floats
    decode_beyond: Floats

    @property
    def known(self) -> Bools:
        """(samples,) True for the steps whose contexts are known."""
        return np.isfinite(self.decode_context)


@dataclass(frozen=True, eq=False)
class SampledSteps:
    """Steps of one server, sampled, in the order they ran. Every array has shape (samples,)."""

    name: str
    id: Ints
    """Number of the step since the server started; ascending."""
    start_us: Floats
    """When the scheduler began to form the batch, µs from the first sampled step; ascending."""
    call_us: Floats
    """Time inside one call of the scheduler, µs. Not the step's time: the GPU works on (see `cycles`)."""
    prefill_requests: Ints
    decode_requests: Ints
    prefill_tokens: Ints
    """New tokens of the prefill requests. Decode requests have one each."""
    running: Ints
    """Requests that the scheduler lists as running: those in the step, and those whose last step is in flight."""
    waiting: Ints
    finished: Ints
    preempted: Ints
    blocks_total: Ints
    blocks_free: Ints
    """KV blocks that no request uses; blocks that only the prefix cache holds count as free."""
    snapshot: Contexts | None = None
    """Contexts from the server's own list of requests, if it recorded one."""
    own_us: Floats | None = None
    """Time that each step itself took, µs, NaN where it is not known. `start_us` is then when the GPU took the step.
    None: a step's time is that from one sampled start to the next (`cycles`)."""
    findings: tuple[Finding, ...] = ()
    """Findings of the reader itself."""

    def __len__(self) -> int:
        return len(self.id)

    @property
    def requests(self) -> Ints:
        """(samples,) requests in the step."""
        return self.prefill_requests + self.decode_requests


def table_of(
    name: str, columns: Mapping[str, Ints], place: str, places: Ints, snapshot: Contexts | None = None
) -> SampledSteps:
    """Checked columns (keys of FIELDS) -> steps. Messages locate a step by `place` and `places` (samples,): "line 12".

    Raises InputError naming file, place and attribute for values that no scheduler can have recorded.
    """
    c = columns
    count = len(c["id"])
    if count < FEWEST:
        raise InputError(f"{name}: {count} sampled steps, expected at least {FEWEST}")

    def refuse(wrong: Bools, attribute: str, expected: str, values: Ints) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"{name}: {place} {places[row]}: {attribute} is {values[row]}, expected {expected}")

    for field, attribute in FIELDS.items():
        refuse(c[field] < 0, attribute, "a number of at least 0", c[field])
        if not field.endswith("_ns"):
            refuse(c[field] > MOST, attribute, f"at most {MOST}", c[field])
    for field in ("id", "start_ns"):
        wrong = np.concatenate(([False], np.diff(c[field]) <= 0))
        refuse(wrong, FIELDS[field], "more than in the step before: steps in the order they ran", c[field])
    refuse(c["end_ns"] < c["start_ns"], FIELDS["end_ns"], f"at least {FIELDS['start_ns']}", c["end_ns"])
    refuse(c["blocks_free"] > c["blocks_total"], FIELDS["blocks_free"], "at most the total", c["blocks_free"])
    total = c["prefill_tokens"] + c["decode_tokens"]
    refuse(total != c["scheduled_tokens"], FIELDS["scheduled_tokens"], "prefill + decode tokens", c["scheduled_tokens"])
    fewer = (c["prefill_tokens"] < c["prefill_requests"]) | ((c["prefill_tokens"] > 0) & (c["prefill_requests"] == 0))
    refuse(fewer, FIELDS["prefill_tokens"], "at least one for each of its requests and no others", c["prefill_tokens"])
    refuse(c["decode_tokens"] < c["decode_requests"], FIELDS["decode_tokens"], "one a request", c["decode_tokens"])
    several = c["decode_tokens"] > c["decode_requests"]
    if several.any():
        row = int(np.argmax(several))
        raise NotSupportedError(
            f"{name}: {place} {places[row]}: {FIELDS['decode_tokens']} is more than one a request: speculative "
            "decoding is not modelled"
        )
    return SampledSteps(
        name=name,
        id=c["id"],
        start_us=(c["start_ns"] - c["start_ns"][0]) / 1e3,
        call_us=c["call_us"].astype(np.float64),
        prefill_requests=c["prefill_requests"],
        decode_requests=c["decode_requests"],
        prefill_tokens=c["prefill_tokens"],
        running=c["running"],
        waiting=c["waiting"],
        finished=c["finished"],
        preempted=c["preempted"],
        blocks_total=c["blocks_total"],
        blocks_free=c["blocks_free"],
        snapshot=snapshot,
    )
