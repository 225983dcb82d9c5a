"""Timeline: how many requests run and wait, and how much of the KV cache is held, over the time of a served load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.engine.replay import Replay
from roofml.traces.run import Run
from roofml.util.arrays import Floats

PARTS = 60
"""Parts of the time for each of which means are told."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """Means over equal parts of the time from the first request to the last answer. Arrays have shape (parts,)."""

    end_s: Floats
    """When each part ends, s from the first request."""
    running: Floats
    """Requests that had a first token, or a chunk of their prompt, and not the last."""
    waiting: Floats
    """Requests that had neither."""
    kv_use: Floats
    """Share of the KV blocks of all servers that they hold, 0 to 1; blocks that they share count for each."""

    @property
    def mean_running(self) -> float:
        """Over all of the time."""
        return float(self.running.mean())

    @property
    def mean_waiting(self) -> float:
        """Over all of the time."""
        return float(self.waiting.mean())

    @property
    def mean_kv_use(self) -> float:
        """Over all of the time."""
        return float(self.kv_use.mean())

    @property
    def largest_kv_use(self) -> float:
        """Of any part."""
        return float(self.kv_use.max())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            name: [float(f"{value:.6g}") for value in getattr(self, name)]
            for name in ("end_s", "running", "waiting", "kv_use")
        }


def timeline_of(run: Run, replay: Replay, servers: int = 1) -> Timeline:
    """The timeline of a replay by so many servers. A request counts as running from the start of its first token's
    step on.

    KV of a request is taken to grow evenly from its prompt to its last token.
    """
    schedule, done = replay.schedule, replay.completed
    sent, end = schedule.arrival_us[done], (schedule.arrival_us + replay.e2e_us)[done]
    if not len(sent):
        nothing = np.zeros(1)
        return Timeline(nothing, nothing, nothing, nothing)
    began = schedule.step_start_us[schedule.first_step[done]]
    edges = np.linspace(float(sent.min()), float(end.max()), PARTS + 1)
    width = max(float(edges[1] - edges[0]), 1e-9)
    prompt, output = run.prompt_tokens[done], run.output_tokens[done]
    blocks = servers * max(run.server.num_gpu_blocks - 1, 1)
    held = (prompt + output / 2) / (run.server.block_size * blocks)
    return Timeline(
        (edges[1:] - edges[0]) / 1e6,
        _mean_inside(began, end, edges, np.ones(len(sent))) / width,
        _mean_inside(sent, began, edges, np.ones(len(sent))) / width,
        np.minimum(_mean_inside(began, end, edges, held) / width, 1.0),
    )


def _mean_inside(begin: Floats, end: Floats, edges: Floats, weight: Floats) -> Floats:
    """The sum over requests of weight times the time that each spends between two edges, for every two. (parts,)"""
    order, last = np.argsort(begin), np.argsort(end)
    # The integral of a count is that of what has begun less that of what has ended.
    return np.diff(_integral(begin[order], weight[order], edges) - _integral(end[last], weight[last], edges))


def _integral(times: Floats, weight: Floats, edges: Floats) -> Floats:
    """Sum over `times`, ascending, of weight·max(0, edge - time), for each edge."""
    total = np.concatenate(([0.0], np.cumsum(weight)))
    moment = np.concatenate(([0.0], np.cumsum(weight * times)))
    place = np.searchsorted(times, edges, side="right")
    return total[place] * edges - moment[place]
