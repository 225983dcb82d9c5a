"""Streaming: when the client of a replayed request gets its chunks, which hold one token or several.

With `stream_interval` N a server sends the first token by itself, then N at a time, and what is left at the end
(vllm/v1/engine/output_processor.py, since 0.11.1). TTFT and E2E do not change; the gaps between chunks are N steps.
"""

from __future__ import annotations

import numpy as np

from roofml.engine.replay import Replay
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints


def chunk_gaps_us(run: Run, replayed: Replay) -> tuple[Floats, Ints]:
    """(gaps between the chunks of every completed request, µs; the request of each gap, as a place in the run).

    A token is sent when its step ends. A request that was preempted is taken to have had a token from every step
    between its first and its last that it needs, the latest ones.
    """
    schedule, interval = replayed.schedule, run.server.settings.stream_interval
    end = schedule.step_start_us + schedule.step_time_us
    gaps: list[Floats] = []
    requests: list[Ints] = []
    for r in np.flatnonzero(replayed.completed & (run.output_tokens > 1)):
        tokens = int(run.output_tokens[r])
        first, last = int(schedule.first_step[r]), int(schedule.last_step[r])
        steps: Ints = np.maximum(np.arange(last - tokens + 2, last + 1), first)
        times: Floats = np.concatenate((end[first : first + 1], end[steps]))
        sent = np.unique(np.concatenate((np.arange(0, tokens, interval), [tokens - 1])))
        gaps.append(np.diff(times[sent]))
        requests.append(np.full(len(gaps[-1]), r, np.int64))
    if not gaps:
        return np.zeros(0), np.zeros(0, np.int64)
    return np.concatenate(gaps), np.concatenate(requests)
