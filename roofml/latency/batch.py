"""What an engine step computes: the requests in it (`Batch`), and the sums that its time depends on (`StepSums`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.steps.table import LONG_CONTEXT
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.util.names import shown

Request = tuple[int, int, int]
"""New tokens, context, prompt tokens of a request in a step."""


MOST_NEW_TOKENS = MOST_OF_SERVER["max_num_batched_tokens"]
"""Of one step: far past any engine's budget, and the tables of components still fit into memory."""
LONGEST_CONTEXT = 10**9
"""Tokens of one request: far past any model's positions."""


class StepSums(NamedTuple):
    """The sums that the time of a step depends on: arrays of shape (steps,), or plain numbers in compiled code.

    Counts are floats so that they multiply freely. A new sum is a field here, its term in `components.step_components`
    and the place in `engine.replay` that adds it up.
    """

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
        """Refuse: the number of sums is nobody's question, and the number of steps is `length`."""
        raise TypeError("StepSums has no len(): .length is how many steps there are")

    @property
    def length(self) -> int:
        """How many steps there are."""
        return len(self.requests)

    @property
    def new_tokens(self) -> Floats:
        """(steps,) tokens that each step computes."""
        total: Any = self.prefill_tokens + self.decode_tokens  # plain numbers too, of one step
        return total

    @property
    def mixed(self) -> Floats:
        """(steps,) 1 of a step that computes prompts, else 0."""
        return np.asarray(self.prefill_tokens > 0, np.float64)

    def step(self, index: int) -> StepSums:
        """One step, as a table of one."""
        return StepSums(*(column[index : index + 1] for column in self))

    def columns(self) -> Floats:
        """(steps, sums) as one array."""
        return np.column_stack(self).astype(np.float64)

    @classmethod
    def from_columns(cls, columns: Floats) -> Self:
        """From an array (steps, sums) whose columns are in the order of the fields."""
        return cls(*np.ascontiguousarray(columns.T))

    @classmethod
    def from_requests(cls, steps: Iterable[Sequence[Request]]) -> Self:
        """From steps given as lists of requests (new tokens, context, prompt tokens).

        Raises InputError for a negative count, a request without new tokens, or a decode of more than one token.
        """
        rows: list[list[float]] = []
        for number, requests in enumerate(steps):
            prefill = decode = pairs = before = context_sum = beyond = 0.0
            for new, context, prompt in requests:
                if new < 1 or context < 0 or prompt < 0:
                    raise InputError(
                        f"step {number}: request ({new}, {context}, {prompt}): expected at least one new token, "
                        "and context and prompt tokens of at least 0"
                    )
                if context < prompt:
                    prefill += new
                    pairs += new * (context + (new + 1) / 2)
                    before += context
                elif new == 1:
                    decode += 1
                    context_sum += context
                    beyond += max(0, context - LONG_CONTEXT)
                else:
                    raise InputError(
                        f"step {number}: {new} new tokens after the prompt: speculative decoding is not modelled"
                    )
            rows.append([prefill, decode, len(requests), pairs, before, context_sum, beyond])
        return cls.from_columns(np.array(rows, dtype=np.float64).reshape(-1, len(cls._fields)))


@dataclass(frozen=True)
class Batch:
    """The requests of one engine step.

    `prefill` lists chunks of prompts as (new tokens, context tokens), `decode` groups of equal requests that decode as
    (context tokens, how many). `Batch(prefill=[(16, 560)], decode=[(700, 64)])` computes 16 tokens of one prompt after
    560 known ones, beside 64 requests with 700 tokens of context each. Raises InputError for an empty batch, a count
    below 1, a negative context, and numbers that no engine has.
    """

    prefill: Sequence[tuple[int, int]] = ()
    decode: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be a step."""
        if not self.prefill and not self.decode:
            raise InputError("batch: expected at least one request, prefill=[(new, context)] or decode=[(context, n)]")
        for new, context in self.prefill:
            if new < 1 or context < 0:
                raise InputError(f"batch: prefill ({new}, {context}): expected new tokens >= 1 and context >= 0")
        for context, count in self.decode:
            if context < 0 or count < 1:
                raise InputError(f"batch: decode ({context}, {count}): expected context >= 0 and a count >= 1")
        longest = max(context for context in (*(c for _, c in self.prefill), *(c for c, _ in self.decode)))
        if longest > LONGEST_CONTEXT:
            raise InputError(f"batch: a context of {shown(longest)} tokens, expected at most {LONGEST_CONTEXT}")
        if self.new_tokens > MOST_NEW_TOKENS:
            raise InputError(f"{shown(self.new_tokens)} new tokens in the step: expected at most {MOST_NEW_TOKENS}")

    @property
    def new_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(new for new, _ in self.prefill) + sum(count for _, count in self.decode)

    def sums(self) -> StepSums:
        """The step as a table of one."""
        prefills: list[Request] = [(new, context, context + new) for new, context in self.prefill]
        decodes: list[Request] = [(1, context, 0) for context, count in self.decode for _ in range(count)]
        return StepSums.from_requests([[*prefills, *decodes]])
