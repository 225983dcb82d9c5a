"""The step that is being formed: its sums as requests join it, and one that has to leave it again.

Functions on the arrays of the compiled loop in `scheduler`, which numba compiles into it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.engine.kv_cache import NOTHING
from roofml.engine.seats import RUNNING
from roofml.latency.batch import WHOLE_SUMS, add_near
from roofml.traces.steps.table import LONG_CONTEXT
from roofml.util.jit_cache import called_by_compiled

NO_PROMPTS = (0, 0, 0.0, 0)
"""Prefill requests, their tokens, pairs and context, of a step with none in it (`StepSums`)."""


@called_by_compiled
def any_decodes(books: Any, seats: Any) -> bool:
    """Whether a running request is past its prompt."""
    for i in range(seats.counts[RUNNING]):  # noqa: SIM110  # numba compiles no generators
        if books.booked[seats.running[i]].sampled != NOTHING:
            return True
    return False


@called_by_compiled
def longest_chunk(rules: Any, budget: int, requests: int) -> int:
    """Most tokens of one request in this step where there is a limit, with so many requests running and waiting."""
    if requests < 2 and not rules.longest_chunk_alone:
        return budget
    if rules.fair_chunk:
        return max(rules.longest_chunk, budget // max(requests, 1))
    return rules.longest_chunk


@called_by_compiled
def clear_near(near: Any) -> None:
    """`StepSums.near` of a step with no request in it; None where all layers read their whole context."""
    if near is not None:  # decided when it is compiled, as in the functions below
        for i in range(len(near)):
            near[i] = 0.0


@called_by_compiled
def write_near(rows: Any, step: int, near: Any) -> None:
    """Keep them in the last rows of a step's place."""
    if near is not None:
        for i in range(len(near)):
            rows[WHOLE_SUMS + i, step] = near[i]


@called_by_compiled
def write_sums(rows: Any, step: int, sums: Any) -> None:
    """Keep the `StepSums` of a step in its place of each row."""
    rows[0, step], rows[1, step], rows[2, step] = sums.prefill_tokens, sums.decode_tokens, sums.requests
    rows[3, step], rows[4, step] = sums.prefill_pairs, sums.prefill_context
    rows[5, step], rows[6, step] = sums.decode_context, sums.decode_beyond
    write_near(rows, step, sums.near)


@called_by_compiled
def grown(rows: Any) -> Any:
    """The same rows with twice as many places. The new ones are not touched, and take no memory yet."""
    places = rows.shape[1]
    larger = np.empty((rows.shape[0], 2 * places), rows.dtype)
    for row in range(rows.shape[0]):
        for place in range(places):
            larger[row, place] = rows[row, place]
    return larger


@called_by_compiled
def withdraw(booked: Any, step: int, r: int, first_step: Any, last_step: Any, ending: Any) -> Any:
    """Take back that request r computes in `step`, which is being formed; `ending` are those that end with it.

    Returns how many do now.
    """
    count = len(ending)
    if booked.sampled // 2 == step:
        if booked.generated == booked.output:
            last_step[r] = NOTHING
            kept = 0
            for i in range(len(ending)):
                if ending[i] != r:
                    ending[kept] = ending[i]
                    kept += 1
            count = kept
        if booked.generated == 1:
            first_step[r] = NOTHING
        booked.generated -= 1
    return count


@called_by_compiled
def with_prompt(prompts: Any, new: int, context: int) -> Any:
    """The prefill sums of a step and a request that computes `new` tokens of its prompt after `context` in it."""
    requests, tokens, pairs, prefill_context = prompts
    return requests + 1, tokens + new, pairs + new * (context + 0.5 * (new + 1)), prefill_context + context


@called_by_compiled
def summed(books: Any, seats: Any, step: int, near: Any, reaches: Any) -> Any:
    """The sums of a step, from the books of those in it: prefill sums; decodes, their context, and that beyond."""
    prompts, decodes, decode_context, beyond = NO_PROMPTS, 0, 0, 0
    clear_near(near)
    for i in range(seats.counts[RUNNING]):
        booked, noted = books.booked[seats.running[i]], books.noted[seats.running[i]]
        if noted.step == step:
            context = booked.computed - noted.new
            add_near(near, reaches, noted.new, context, max(booked.prompt, context + (noted.new > 1)))
            if noted.new > 1 or context < booked.prompt:
                prompts = with_prompt(prompts, noted.new, context)
            else:
                decodes += 1
                decode_context += context
                beyond += max(0, context - LONG_CONTEXT)
    return prompts, decodes, decode_context, beyond


@called_by_compiled
def tokens_made(acceptance: Any, generated: int, output: int) -> int:
    """Output tokens that a step adds to a request that has `generated` of `output`: one, or `acceptance` on average.

    After j steps with drafts there are 1 + floor(j·acceptance) of them, so that equal requests are served alike.
    """
    if acceptance is None or generated == 0:
        return 1
    steps = int(np.ceil((generated - 1) / acceptance - 1e-9))
    return min(output - generated, max(1, 1 + int(np.floor((steps + 1) * acceptance + 1e-9)) - generated))
