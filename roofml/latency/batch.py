"""StepTable: what engine steps compute, reduced to the few sums that their time depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from roofml.util.errors import InputError

Floats = NDArray[np.float64]

LONG_CONTEXT = 1024
"""Tokens of context up to which decode attention in serving costs what its kernel takes alone (params.long_context)."""


@dataclass(frozen=True)
class StepTable:
    """One row per engine step; every array has shape (steps,). Counts are floats so that they multiply freely."""

    prefill_tokens: Floats
    """New tokens of prefill requests (context < prompt length)."""
    decode_tokens: Floats
    """New tokens of decode requests: one each."""
    requests: Floats
    """Requests in the step. Each has one row of logits, also a prompt's chunk, whose sample vLLM throws away."""
    prefill_pairs: Floats
    """Σ over prefills of new·(context + (new+1)/2): query-key pairs under the causal mask."""
    prefill_context: Floats
    """Σ over prefills of context tokens read from the KV cache."""
    decode_context: Floats
    """Σ over decodes of context tokens read from the KV cache."""
    decode_beyond: Floats
    """Σ over decodes of the context tokens after the first `LONG_CONTEXT`."""

    def __len__(self) -> int:
        return len(self.requests)

    @classmethod
    def from_columns(cls, columns: NDArray[np.float64]) -> Self:
        """From an array (steps, 7) whose columns are in the order of the fields."""
        return cls(*np.ascontiguousarray(columns.T))

    @classmethod
    def from_batches(cls, batches: Iterable[Sequence[tuple[int, int, int]]]) -> Self:
        """From steps given as lists of requests (new tokens, context, prompt tokens).

        Raises InputError for a negative count, a request without new tokens, or a decode of more than one token.
        """
        rows: list[list[float]] = []
        for number, batch in enumerate(batches):
            row = [0.0] * 7
            for new, context, prompt in batch:
                if new < 1 or context < 0 or prompt < 0:
                    raise InputError(
                        f"step {number}: request ({new}, {context}, {prompt}): expected at least one new token, "
                        "and context and prompt tokens of at least 0"
                    )
                row[2] += 1
                if context < prompt:
                    row[0] += new
                    row[3] += new * (context + (new + 1) / 2)
                    row[4] += context
                elif new == 1:
                    row[1] += 1
                    row[5] += context
                    row[6] += max(0, context - LONG_CONTEXT)
                else:
                    raise InputError(
                        f"step {number}: {new} new tokens after the prompt: speculative decoding is not modelled"
                    )
            rows.append(row)
        return cls.from_columns(np.array(rows, dtype=np.float64).reshape(-1, 7))
