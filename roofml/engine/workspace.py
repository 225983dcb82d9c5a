"""Workspace: the arrays that the compiled loop fills, made before it starts.

numba would compile the making of each as well, which takes as long as a third of the loop itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roofml.engine.clients import Requests
from roofml.engine.cold_start import start_server
from roofml.engine.incoming import most_loading
from roofml.engine.kv_cache import NOTHING, KvCache, empty_cache
from roofml.engine.more_groups import most_more_blocks
from roofml.engine.rules import Limits
from roofml.engine.seats import Books, Seats, no_books, no_seats
from roofml.engine.waiting import Waiting, nobody_waits
from roofml.latency.batch import NEAR, WHOLE_SUMS
from roofml.util.arrays import Bools, Floats, Ints

STEPS_A_REQUEST, MOST_ROOM = 8, 2**24
"""Steps for which there is room at first: more than a busy server takes. What is not used takes no memory, and growing
would hold everything twice."""


class Filled(NamedTuple):
    """What the loop finds out of each request, (requests,), as in `Schedule`."""

    first_step: Ints
    last_step: Ints
    """NOTHING of a request that does not get its answer."""
    queued_us: Floats
    running_at_arrival: Ints


class Workspace(NamedTuple):
    """All that changes while a run is served."""

    cache: KvCache
    books: Books
    seats: Seats
    waiting: Waiting
    filled: Filled
    sums: Floats
    """(sums, steps) of each step; more rows where layers do not read their whole context."""
    times: Floats
    """(2, steps) start and duration."""
    cold: NDArray[np.int8]
    """(2, steps) of `Schedule`."""
    finishing: Ints
    """(2, seats) requests whose last step is in flight, by the step's parity."""
    finishing_count: Ints
    """(2,)"""
    met: Bools
    """What has happened on this server (`cold_start`)."""
    reaches: Ints | None
    """What limits the layers that do not read their whole context, (reaches, 4); None where all do."""
    near: Floats | None
    """`StepSums.near` of the step that is being formed."""


def workspace_of(
    requests: Requests,
    longest: int,
    limits: Limits,
    by_priority: bool,
    reaches: Ints | None,
    shares: Ints | None,
) -> Workspace:
    """Room for a run of which nothing is served yet, and whose requests have `longest` tokens at most.

    `reaches` and `shares` are the model's (`ComponentTables`).
    """
    size, seats = len(requests.prompt), limits.max_num_seqs
    blocks = -(-(longest + limits.drafts) // limits.block_size) + 1
    more = most_more_blocks(shares, longest, limits.budget, limits.block_size)
    rows = seats + most_loading(requests.incoming, limits.num_gpu_blocks)
    near = None if reaches is None else np.zeros(len(NEAR) * len(reaches))
    steps = max(1024, min(STEPS_A_REQUEST * size, MOST_ROOM))
    return Workspace(
        empty_cache(limits.num_gpu_blocks, requests.keys.total),
        no_books(requests.prompt, requests.output),
        no_seats(rows, blocks, shares, more),
        nobody_waits(seats, requests.priority, by_priority),
        Filled(
            np.full(size, NOTHING, np.int64),
            np.full(size, NOTHING, np.int64),
            np.full(size, np.inf),
            np.zeros(size, np.int64),
        ),
        np.empty((WHOLE_SUMS + (0 if near is None else len(near)), steps)),
        np.empty((2, steps)),
        np.empty((2, steps), np.int8),
        np.empty((2, seats), np.int64),
        np.zeros(2, np.int64),
        start_server(limits),
        reaches,
        near,
    )
