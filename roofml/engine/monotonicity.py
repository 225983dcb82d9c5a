"""Monotonicity: the contract of step times that a replay relies on, counted on steps drawn at random."""

from __future__ import annotations

import numpy as np

from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.traces.steps.table import LONG_CONTEXT
from roofml.util.arrays import Floats

STEPS = 400
CHANGES = ("a decode more", "16 prefill tokens more", "64 tokens of context more")


def random_steps(budget: int, max_num_seqs: int, max_model_len: int, count: int, seed: int) -> list[StepSums]:
    """Steps as they may occur, and each of them with more to do: 1 + len(CHANGES) tables of shape (count,).

    One to `max_num_seqs` requests, every other step with a chunk of a prompt, contexts up to `max_model_len` tokens;
    room for the changes is left.
    """
    random = np.random.default_rng(seed)
    decodes = random.integers(1, max(2, min(max_num_seqs, budget) - 32), count).astype(np.float64)
    mixed = random.random(count) < 0.5
    room = np.maximum(budget - decodes - 32, 1)
    chunk = np.where(mixed, np.ceil(room * random.random(count) ** 3), 0.0)
    context = np.ceil(random.random(count) * (max_model_len - 128))
    before = np.where(mixed, np.ceil(random.random(count) * (max_model_len / 2)), 0.0)

    def table(more_decodes: int, more_chunk: int, more_context: int) -> StepSums:
        n, each = decodes + more_decodes, context + more_context
        new = np.where(mixed, chunk + more_chunk, 0.0)
        return StepSums(
            prefill_tokens=new,
            decode_tokens=n,
            requests=n + mixed,
            prefill_pairs=new * (before + (new + 1) / 2),
            prefill_context=before,
            decode_context=n * each,
            decode_beyond=n * np.maximum(each - LONG_CONTEXT, 0),
        )

    return [table(0, 0, 0), table(1, 0, 0), table(0, 16, 0), table(0, 0, 64)]


def one_by_one(times_of: StepTimes, steps: StepSums) -> Floats:
    """Times as a replay asks for them: a step at a time, shape (steps,), µs."""
    return np.array([float(times_of(steps.step(i))[0]) for i in range(steps.length)])


def violations_pct(times_of: StepTimes, budget: int, max_num_seqs: int, max_model_len: int, seed: int = 0) -> float:
    """Share of random steps that more work makes shorter, %; of all CHANGES together."""
    before, *after = (
        one_by_one(times_of, steps) for steps in random_steps(budget, max_num_seqs, max_model_len, STEPS, seed)
    )
    return 100 * float(np.mean([times < before * (1 - 1e-9) for times in after]))
