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
    request = np.flatnonzero(replayed.completed & (run.output_tokens > 1))
    tokens = run.output_tokens[request]
    chunks = (tokens - 2) // interval + 2  # the first token, and the others, some at a time
    of_chunk = np.repeat(np.arange(len(request)), chunks)
    number = np.arange(len(of_chunk)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    token = np.minimum(number * interval, tokens[of_chunk] - 1)
    first, last = schedule.first_step[request][of_chunk], schedule.last_step[request][of_chunk]
    sent_us = end[np.where(number == 0, first, np.maximum(last - tokens[of_chunk] + 1 + token, first))]
    later = number[1:] > 0
    return np.diff(sent_us)[later], request[of_chunk[1:][later]]
