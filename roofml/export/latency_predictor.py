"""Training rows for llm-d's latency predictor: what a pod looked like when a request came, and how long it took.

Source of the columns: llm-d/llm-d-latency-predictor, TrainingEntry of its training_server.py (2026), which takes
`{"entries": [...]}` at /add_training_data_bulk, and benchmarks/traces/README.md, where a line is an entry. The state of
the queue is that of our replay: no client sees it. Latencies are as measured, or as replayed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy.spatial import cKDTree  # pyright: ignore

from roofml.engine.replay import Replay
from roofml.export.exported import Exported, Loss
from roofml.export.subject import Subject
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_line, for_shell
from roofml.workloads.load import poisson_load

TARGET = "llm-d latency predictor (2026)"
MS = 1000.0
ENDPOINT = "http://localhost:8000/add_training_data_bulk"
NEIGHBOURS = 5
LEARNED = 0.6
"""Share of the rows that the form is judged with; it is judged on the rest."""
LEAST_ROWS = 50
"""To judge the form by."""
MOST_RATES, MOST_RATE = 20, 1e6


@dataclass(frozen=True)
class Rows:
    """What the predictor learns from. Arrays of shape (requests,)."""

    kv_cache_percentage: Floats
    """Share of the KV blocks that running requests hold, 0 to 1."""
    input_token_length: Ints
    num_request_waiting: Ints
    num_request_running: Ints
    prefix_cache_score: Floats
    """Share of the prompt that was found in the cache."""
    actual_ttft_ms: Floats
    actual_tpot_ms: Floats

    def __len__(self) -> int:
        return len(self.actual_ttft_ms)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def features(self) -> Floats:
        """(requests, 5) the columns that it predicts from when a request comes."""
        columns = (
            self.kv_cache_percentage,
            self.input_token_length,
            self.num_request_waiting,
            self.num_request_running,
            self.prefix_cache_score,
        )
        return np.column_stack(columns).astype(np.float64)

    def entries(self) -> list[dict[str, object]]:
        """One mapping a request. `num_tokens_generated` is 0: the state is that when it came."""
        columns = {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}
        return [
            {
                **{name: round(v, 6) if isinstance(v, float) else v for name, v in zip(columns, row, strict=True)},
                "num_tokens_generated": 0,
                "pod_type": "",
            }
            for row in zip(*columns.values(), strict=True)
        ]


def rows_of(run: Run, served: Replay, *, predicted: bool = False) -> Rows:
    """The rows of a run: the queue as it was replayed, latencies as measured or, if `predicted`, as replayed too.

    Requests of two or more tokens that have both latencies.
    """
    queue = queue_at_arrival(run, served)
    ttft, e2e = (served.ttft_us, served.e2e_us) if predicted else (run.ttft_us, run.e2e_us)
    tpot = (e2e - ttft) / np.maximum(run.output_tokens - 1, 1)
    chosen = np.isfinite(tpot) & (run.output_tokens > 1) & served.completed & (run.ok | predicted)
    return Rows(
        queue.kv_share[chosen],
        run.prompt_tokens[chosen],
        queue.waiting[chosen],
        queue.running[chosen],
        (np.clip(served.schedule.cached_tokens, 0, None) / run.prompt_tokens)[chosen],
        ttft[chosen] / MS,
        tpot[chosen] / MS,
    )


@dataclass(frozen=True)
class Queue:
    """A server's state when each request came. Arrays of shape (requests,)."""

    kv_share: Floats
    waiting: Ints
    running: Ints


def queue_at_arrival(run: Run, served: Replay) -> Queue:
    """The state of a replayed server as each request came: vllm:kv_cache_usage_perc, :num_requests_waiting, _running.

    A request runs from when the step that computes the first of its prompt is formed, which lies as many steps before
    its first token as its prompt has chunks, and holds blocks for its prompt and for the tokens it has made. Blocks of
    a prefix that running requests share count once.
    """
    server, schedule = run.server, served.schedule
    size, end = server.block_size, schedule.step_start_us + schedule.step_time_us
    done = served.completed
    uncached = run.prompt_tokens - np.clip(schedule.cached_tokens, 0, None)
    chunks = np.maximum(1, -(-uncached // server.max_num_batched_tokens))
    formed = np.maximum(schedule.first_step - chunks + (0 if server.async_scheduling else 1), 0)
    begin = np.where(done, np.maximum(schedule.step_start_us[formed], schedule.queued_us), np.inf)
    finish = np.where(done, end[schedule.last_step], np.inf)
    shared = np.where(run.prefix_group >= 0, np.minimum(run.prefix_tokens, run.prompt_tokens) // size, 0)
    arrival = schedule.arrival_us
    step_at = np.searchsorted(schedule.step_start_us, arrival, side="right") - 1
    running = schedule.running_at_arrival.astype(np.int64)
    share, waiting = np.zeros(len(run)), np.zeros(len(run), np.int64)
    here = np.zeros(0, np.int64)
    for place in np.argsort(arrival, kind="stable"):
        now = arrival[place]
        here = here[finish[here] > now]
        waiting[place] = max(0, len(here) - running[place])
        at_work = here[begin[here] <= now]
        made = np.maximum(step_at[place] - schedule.first_step[at_work], 0)
        blocks = -(-(run.prompt_tokens[at_work] + made) // size)
        twice = _counted_again(run.prefix_group[at_work], shared[at_work])
        share[place] = min(1.0, float(blocks.sum() - twice) / server.num_gpu_blocks)
        here = np.append(here, place)
    return Queue(share, waiting, running)


def export_latency_predictor(
    subject: Subject, path: Path, *, predicted: bool = False, rates: Sequence[float] = (), requests: int = 2000
) -> Exported:
    """Rows of a run, or of loads that nobody has run at these `rates` (requests a second), as a file at `path`.

    A name that ends in `.jsonl` gets a line for each. Raises InputError where there is neither a run nor a rate, and
    for a run without latencies that is not `predicted`.
    """
    if subject.run is None and not rates:
        raise InputError("no run and no --rate: expected a run to take rows of, or the rates of loads to replay")
    calibration = subject.calibration
    parts: list[Rows] = []
    told = ["the queue as replayed"]
    if rates:
        for number, rate in enumerate(rates):
            prompts, outputs = subject.lengths.drawn(requests)
            load = poisson_load(f"{rate:g} requests/s", rate, prompts, outputs, seed=number)
            run = load.run(subject.server)
            parts.append(rows_of(run, calibration.replay(run), predicted=True))
        told += [f"latencies as replayed, of {', '.join(f'{rate:g}' for rate in rates)} requests/s, {requests} of each"]
    elif subject.run is not None:
        parts.append(rows_of(subject.run, calibration.replay(subject.run), predicted=predicted))
        told += [f"latencies as {'replayed' if predicted else 'measured'}"]
    rows = Rows.joined(parts)
    if not len(rows):
        raise InputError("no request of two tokens or more has both latencies: nothing to learn from")
    entries = rows.entries()
    if path.suffix.lower() == ".jsonl":
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
    else:
        text = json.dumps({"entries": entries}, indent=1) + "\n"
    words = ["curl", "-H", "Content-Type: application/json", "--data", f"@{path}", ENDPOINT]
    remarks = [
        f"{len(rows)} rows; {'; '.join(told)}",
        f"judged by the {NEIGHBOURS} nearest rows among the first {LEARNED:.0%} of each load, on the rest of it: what "
        "these columns say of a latency, whatever learns from them",
        "what they leave out: lengths of the answers in flight, contexts, prompts computed beside a request",
    ]
    use = "" if path.suffix.lower() == ".jsonl" else for_line(for_shell(words))
    against = "latencies of the rows"
    return Exported(TARGET, {path: text}, _losses(parts), subject.provenance, remarks, use, against)


def parse_rates(text: str | None) -> list[float]:
    """Requests a second of `--rate R[,R..]`; none of None. Raises InputError for anything else."""
    if text is None:
        return []
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate <= MOST_RATE for rate in rates) or len(rates) > MOST_RATES:
        raise InputError(
            f"--rate {shown(text)}: expected up to {MOST_RATES} numbers above 0 and up to {MOST_RATE:g}, with commas"
        )
    return rates


def _losses(parts: Sequence[Rows]) -> list[Loss]:
    """How far the nearest rows among those learned from are from each of the others."""
    learned: list[tuple[Floats, Floats]] = []
    judged: list[tuple[Floats, Floats]] = []
    for rows in parts:
        cut = int(LEARNED * len(rows))
        latencies = np.column_stack((rows.actual_ttft_ms, rows.actual_tpot_ms))
        learned.append((rows.features()[:cut], latencies[:cut]))
        judged.append((rows.features()[cut:], latencies[cut:]))
    known, times = (np.concatenate(part) for part in zip(*learned, strict=True))
    asked, truth = (np.concatenate(part) for part in zip(*judged, strict=True))
    if len(known) < LEAST_ROWS or not len(asked):
        return []
    spread = np.maximum(known.std(axis=0), 1e-9)
    tree = cast("Any", cKDTree)(known / spread)
    nearest: Ints = tree.query(asked / spread, k=NEIGHBOURS)[1]
    guessed = times[nearest].mean(axis=1)
    positive = (truth > 0).all(axis=1)
    return [
        Loss.of(f"{name} of a request", guessed[positive, column], truth[positive, column])
        for column, name in enumerate(("TTFT", "TPOT"))
    ]


def _counted_again(groups: Ints, shared: Ints) -> int:
    """Blocks of shared prefixes that were counted once for every request that shares them, less once."""
    named = groups >= 0
    if named.sum() < 2:
        return 0
    _, place, many = np.unique(groups[named], return_inverse=True, return_counts=True)
    least = np.full(len(many), np.iinfo(np.int64).max)
    np.minimum.at(least, place, shared[named])
    return int(((many - 1) * least).sum())
