"""Batches on which BLIS's form is matched to our step times: those of a load, or all that a server may meet.

Every batch is held twice: as the sums of our formula, and as those of BLIS's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from roofml.blis.latency import BlisSteps
from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.formula import step_times
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats, Ints

CONTEXTS = (128, 512, 1024, 2048, 4096)
"""Mean contexts of the decodes in a batch, tokens."""
CHUNKS = (0, 16, 256, 1024)
"""New tokens of a prompt beside the decodes; the rest of the budget is one more choice. The prompt's context is 0."""
OTHER_CONTEXTS, OTHER_CHUNKS = (256, 768, 1536, 3072), (0, 64, 512)
"""Those of the batches between, on which the fit is judged."""
RARE = 0.03
"""Weight of a step that serving seldom runs: a prompt's chunk of hundreds of tokens, or no decodes."""
BLOCK = 50
"""Steps of a load that are fitted, or judged, in a row: neighbours are alike."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Steps, how long they take in our formula, and what BLIS reads of them. Arrays have shape (steps,)."""

    steps: BlisSteps
    times_us: Floats
    weights: Floats
    fitted: Bools
    """The others are judged."""
    usual: Bools
    """Steps by which the fit is judged: decodes, with little of a prompt beside them unless the load has it so."""
    what: str
    """Of which load, for people."""


def all_batches(native: Calibration, max_num_seqs: int) -> Batches:
    """Batches of 1 to `max_num_seqs` requests, alone and with chunks of prompts up to the budget, at many contexts."""
    budget = native.deployment.budget
    most = min(max_num_seqs, budget)
    doubled = [2**power for power in range(20) if 2**power <= most]
    sizes = sorted({0, *doubled, most})
    between = sorted({3 * size // 2 for size in doubled if 1 < 3 * size // 2 < most})
    fitted = list(_grid(sizes, CONTEXTS, CHUNKS, budget))
    judged = list(_grid(sorted({1, *between, most}), OTHER_CONTEXTS, OTHER_CHUNKS, budget))
    batches = [*fitted, *judged]
    sums = StepSums.from_requests(
        ([*prompt, *[(1, context, 0)] * decodes] for decodes, context, prompt in batches),
        native.deployment.tables.reaches,
    )
    prefills = np.array([[sum(new for new, _, _ in prompt), _pairs(prompt)] for _, _, prompt in batches], np.float64)
    usual = np.array([decodes > 0 and sum(new for new, _, _ in prompt) <= 64 for decodes, _, prompt in batches])
    return _batches(
        native,
        native.deployment.tables,
        sums,
        prefills,
        np.where(usual, 1.0, RARE),
        np.arange(len(batches)) < len(fitted),
        usual,
        f"batches of 1 to {most} requests with contexts of {CONTEXTS[0]} to {CONTEXTS[-1]} tokens",
    )


def load_batches(native: Calibration, run: Run) -> Batches:
    """The batches in which our replay serves the requests of `run`; of every 100 in a row the second half is judged.

    A step counts by how long it takes and how many requests wait for it, so that what is right on average is their E2E.
    """
    replay = native.replay(run)
    prefills, known = prefills_of(run, replay)
    kept = np.flatnonzero(known)
    sums = replay.schedule.steps.at(kept)
    waited = replay.schedule.step_time_us[kept] * sums.requests
    return _batches(
        native,
        native.deployment.serving(run.server).tables,
        sums,
        prefills[kept],
        waited / waited.mean(),
        kept // BLOCK % 2 == 0,
        np.ones(len(kept), np.bool_),
        f"the batches of {run.name}",
    )


def prefills_of(run: Run, replay: Replay) -> tuple[Floats, Bools]:
    """For each step of a replay, prompt tokens and Σ new·(prompt + new/2), (steps, 2); and where that is known.

    A request's last chunk is in the step of its first token, and a step whose budget is used up may hold a chunk of the
    next request in the queue. It is not known where that does not add up: after a preemption, or out of order.
    """
    schedule, budget = replay.schedule, run.server.max_num_batched_tokens
    total: Ints = np.rint(schedule.steps.prefill_tokens).astype(np.int64)
    full: Bools = np.asarray(schedule.steps.new_tokens >= budget, np.bool_)
    pairs, known = np.zeros(len(total)), total == 0
    left: Ints = run.prompt_tokens - schedule.cached_tokens
    order = np.lexsort((schedule.queued_us, schedule.first_step))
    order = order[schedule.first_step[order] >= 0]
    ends = schedule.first_step[order]
    for step in np.flatnonzero(total):
        first, after = np.searchsorted(ends, (step, step + 1))
        tokens = int(total[step])
        for place in range(first, min(after + int(full[step]), len(order))):
            request = order[place]
            new = int(left[request]) if place < after else min(int(left[request]), tokens)
            pairs[step] += new * (run.prompt_tokens[request] + new / 2)
            left[request] -= new
            tokens -= new
        known[step] = tokens == 0
    return np.column_stack((total.astype(np.float64), pairs)), known


def _grid(
    sizes: Sequence[int], contexts: Sequence[int], chunks: Sequence[int], budget: int
) -> Iterable[tuple[int, int, list[tuple[int, int, int]]]]:
    """Decodes, their context, and the prompt's chunk beside them, as (new, context, prompt tokens)."""
    for decodes in sizes:
        for context in contexts if decodes else contexts[:1]:
            for chunk in dict.fromkeys((*chunks, budget - decodes)):
                if decodes + chunk > 0 and 0 <= chunk <= budget - decodes:
                    yield decodes, context, [(chunk, 0, chunk)] if chunk else []


def _pairs(prompt: Sequence[tuple[int, int, int]]) -> float:
    return sum(new * (whole + new / 2) for new, _, whole in prompt)


def _batches(
    native: Calibration,
    tables: ComponentTables,
    sums: StepSums,
    prefills: Floats,
    weights: Floats,
    fitted: Bools,
    usual: Bools,
    what: str,
) -> Batches:
    zeros = np.zeros(len(prefills))
    decodes = np.asarray(sums.decode_tokens, np.float64)
    requests = np.asarray(sums.requests, np.float64)
    steps = BlisSteps(
        requests, requests - decodes, prefills[:, 0], prefills[:, 1], zeros, zeros, decodes, sums.decode_context
    )
    times = step_times(tables, sums, native.parameters.step)
    return Batches(steps, times, weights, fitted, usual, what)
