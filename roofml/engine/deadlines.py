"""Deadlines: requests whose client goes away leave their seats, or the queue.

Functions on the arrays of the compiled loop in `scheduler`, which numba compiles into it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from roofml.engine.followers import follow
from roofml.engine.kv_cache import NOTHING
from roofml.engine.seats import close_ranks, free_seat
from roofml.engine.waiting import give_up_waiting
from roofml.util.jit_cache import called_by_compiled


@called_by_compiled
def next_deadline_us(requests: Any, given_up: int) -> float:
    """When the next client goes away, after the first `given_up` in the order of `giving_up`."""
    return requests.given_up_us[requests.giving_up[given_up]] if given_up < len(requests.giving_up) else np.inf


@called_by_compiled
def give_up(
    now: float, given_up: int, books: Any, seats: Any, waiting: Any, cache: Any, requests: Any, limits: Any, rules: Any,
    oldest: int, last_step: Any,
) -> Any:  # fmt: skip
    """Requests whose client has gone by now leave their seats, or the queue.

    The first `given_up` have already, in the order of `giving_up`. Returns how many have now, when the next one will,
    how many did not have their answer, and the prompt tokens of those without a token.
    """
    left, tokens = 0, 0
    while next_deadline_us(requests, given_up) <= now:
        r = requests.giving_up[given_up]
        booked, noted = books.booked[r], books.noted[r]
        given_up += 1
        if noted.gone:
            continue
        noted.gone = 1
        left += 1
        follow(requests.followers, requests, r, requests.given_up_us[r])
        last_step[r] = NOTHING
        if booked.generated == 0:
            tokens += booked.prompt
        if booked.slot != NOTHING:
            free_seat(booked, seats, cache, requests.keys, r, limits, rules.empty_first, oldest)
            close_ranks(books, seats)
        elif booked.generated < booked.output:  # else it was preempted during its last step
            give_up_waiting(waiting, r, rules.by_priority)
    return given_up, next_deadline_us(requests, given_up), left, tokens
