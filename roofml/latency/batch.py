"""What an engine step computes: the requests in it (`Batch`), and the sums that its time depends on (`StepSums`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from roofml.models.reach import capped_sum, entries, pairs_up_to
from roofml.traces.limits import MOST_OF_SERVER
from roofml.traces.steps.table import LONG_CONTEXT
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.util.jit_cache import called_by_compiled
from roofml.util.names import shown

Request = tuple[int, int, int]
"""New tokens, context, prompt tokens of a request in a step."""

for closed_form in (capped_sum, entries, pairs_up_to):
    called_by_compiled(closed_form)


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
    near: tuple[Floats, ...] = ()
    """`NEAR` sums for each reach of the layers that do not read their whole context (`ComponentTables.reaches`), where
    there are any. In compiled code one array of them, or None."""

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
        return self.at(slice(index, index + 1))

    def at(self, places: slice | Ints) -> StepSums:
        """Some of the steps."""
        whole = (column[places] for column in self[:WHOLE_SUMS])
        return StepSums(*whole, near=tuple(column[places] for column in self.near))

    def one(self) -> Any:
        """The only step, in plain numbers."""
        whole = (column.item() for column in self[:WHOLE_SUMS])
        return StepSums(*whole, near=tuple(column.item() for column in self.near))  # type: ignore[arg-type]

    def columns(self) -> Floats:
        """(steps, sums) as one array, those of each reach last."""
        return np.column_stack((*self[:WHOLE_SUMS], *self.near)).astype(np.float64)

    @classmethod
    def from_columns(cls, columns: Floats) -> Self:
        """From an array (steps, sums) whose columns are in the order of the fields, those of each reach last."""
        return cls.from_rows(np.ascontiguousarray(columns.T))

    @classmethod
    def from_rows(cls, rows: Floats) -> Self:
        """From an array (sums, steps) whose rows are in the order of the fields, those of each reach last."""
        return cls(*rows[:WHOLE_SUMS], near=tuple(rows[WHOLE_SUMS:]))

    @classmethod
    def from_requests(cls, steps: Iterable[Sequence[Request]], reaches: Ints | None = None, verified: int = 1) -> Self:
        """From steps given as lists of requests (new tokens, context, prompt tokens).

        `reaches` (reaches, 4) are those of `ComponentTables`: the model's layers that do not read their whole context.
        A decode computes `verified` tokens: its own, and the drafts it verifies.

        Raises InputError for a negative count, a request without new tokens, or a decode of more than one token.
        """
        rows: list[list[float]] = []
        near_count = 0 if reaches is None else len(NEAR) * len(reaches)
        for number, requests in enumerate(steps):
            prefill = decode = pairs = before = context_sum = beyond = 0.0
            near = np.zeros(near_count)
            for new, context, prompt in requests:
                if new < 1 or context < 0 or prompt < 0:
                    raise InputError(
                        f"step {number}: request ({new}, {context}, {prompt}): expected at least one new token, "
                        "and context and prompt tokens of at least 0"
                    )
                if reaches is not None:
                    add_near(near, reaches, new, context, prompt)
                if context < prompt:
                    prefill += new
                    pairs += new * (context + (new + 1) / 2)
                    before += context
                elif new == verified:
                    decode += new
                    context_sum += context
                    beyond += max(0, context - LONG_CONTEXT)
                else:
                    raise InputError(
                        f"step {number}: {new} new tokens after the prompt, expected {verified}: one, and the drafts "
                        "that a server with speculative decoding verifies"
                    )
            rows.append([prefill, decode, len(requests), pairs, before, context_sum, beyond, *near])
        return cls.from_columns(np.array(rows, dtype=np.float64).reshape(-1, WHOLE_SUMS + near_count))

    def alike(self, reaches: Ints | None) -> StepSums:
        """With the sums of each reach as if all decodes of a step had one context, and its prefills another.

        For steps whose requests are not known one by one. A request beyond its reach costs nothing more, so unlike
        contexts of the same mean read less: what this gives is not too low.
        """
        if reaches is None:
            return self
        rows: list[Floats] = []
        for step in zip(*(column.tolist() for column in self[:WHOLE_SUMS]), strict=True):
            prefill, decodes, requests, _, before, context, _ = step
            near, prompts = np.zeros(len(NEAR) * len(reaches)), requests - decodes
            if decodes > 0:
                add_near(near, reaches, 1, round(context / decodes), 0)
                near *= decodes
            if prompts > 0 and prefill > 0:
                prompt, new = np.zeros_like(near), max(1, round(prefill / prompts))
                add_near(prompt, reaches, new, round(before / prompts), 2**62)
                near += prompt * prompts
            rows.append(near)
        return StepSums(*self[:WHOLE_SUMS], near=tuple(np.array(rows).reshape(-1, len(NEAR) * len(reaches)).T))


WHOLE_SUMS = 7
"""How many fields of `StepSums` are one sum each."""
NEAR = ("decode_keys", "decode_beyond", "prefill_pairs", "prefill_entries")
"""Sums of one reach: cache entries that decodes read, their own included; of these the ones after the first
`LONG_CONTEXT` of each; query-entry pairs of prefills; entries that prefills read at least once, their own included."""


@called_by_compiled
def add_near(near: Any, reaches: Any, new: int, context: int, prompt: int) -> None:
    """Add a request that computes `new` tokens after `context` to the sums of each reach, shape (4 · reaches,)."""
    if reaches is None:  # decided when it is compiled
        return
    for kind in range(len(reaches)):
        window, chunk, compression, top_k = reaches[kind]
        if context < prompt:
            last, first = context + new, context
            near[4 * kind + 2] += pairs_up_to(last, window, chunk, compression, top_k) - pairs_up_to(
                first, window, chunk, compression, top_k
            )
            near[4 * kind + 3] += entries(context, new, window, chunk, compression, top_k)
        else:
            read = entries(context, new, window, chunk, compression, top_k)
            near[4 * kind] += read
            near[4 * kind + 1] += max(0, read - new - LONG_CONTEXT)


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

    def sums(self, reaches: Ints | None = None, verified: int = 1) -> StepSums:
        """The step as a table of one; `reaches` and `verified` as in `StepSums.from_requests`."""
        prefills: list[Request] = [(new, context, context + new) for new, context in self.prefill]
        decodes: list[Request] = [(verified, context, 0) for context, count in self.decode for _ in range(count)]
        return StepSums.from_requests([[*prefills, *decodes]], reaches, verified)
