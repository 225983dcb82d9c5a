"""Thinning: some stretches of a long run, each with what was sent around it, as a run of its own.

A request takes as long as the steps that it shares with others. So a stretch is kept with those that were sent so long
before that the server is as full as it was, and with those that came while its last requests were still answered.
Between stretches the server empties: what was left out is time in which nothing was sent. The run's first requests are
always there, with its cold start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from roofml.engine.replay import Replay
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Ints

BLOCK = 250
"""Selected requests of a stretch, the last one may have fewer: the mean latency of so many is known to a percent."""
LONG_RUN = 20_000
"""A run of more selected requests is very long."""
DECODE_ALIKE, TTFT_ALIKE = 1e-3, 1e-2
"""Served alone, stretches' mean latencies are, relatively, those of the same requests among all."""
MOST_KEPT = 0.7
"""Where more of a run would be kept, it is served whole."""
PILOT_BLOCKS = 16
"""Stretches, evenly over a run, that tell at what pace its server was."""
BEFORE = 2.0
"""How much is kept before a stretch, in E2Es of nearly the longest requests."""
NEARLY = 0.999
"""Of the requests take no longer."""


def blocks_of(selection: Selection) -> list[Ints]:
    """Places of the selected requests, `BLOCK` after `BLOCK`."""
    places = np.flatnonzero(selection.requests)
    return np.array_split(places, range(BLOCK, len(places), BLOCK))


def can_be_thinned(selection: Selection) -> bool:
    """Whether requests were sent at times of their own. In a closed loop each waits for another's answer."""
    return not selection.run.clients and len(selection) > BLOCK


def around_us(selection: Selection) -> float:
    """How much has to be kept before a stretch, at first guess, µs."""
    return BEFORE * float(np.quantile(selection.run.e2e_us[selection.requests], NEARLY))


def pilot(selection: Selection) -> Selection:
    """Stretches evenly over a very long run; the run itself where it is not."""
    if len(selection) <= LONG_RUN or not can_be_thinned(selection):
        return selection
    return thinned(selection, evenly(selection, PILOT_BLOCKS), around_us(selection))[0]


def evenly(selection: Selection, count: int) -> list[Ints]:
    """So many of the run's blocks, evenly over it, the first and the last among them."""
    blocks = blocks_of(selection)
    chosen: list[int] = np.linspace(0, len(blocks) - 1, min(count, len(blocks))).round().astype(np.int64).tolist()
    return [blocks[number] for number in chosen]


def thinned(selection: Selection, stretches: Sequence[Ints], before_us: float) -> tuple[Selection, Ints]:
    """The selected requests of these stretches, in the run of what is kept, and the places of that in the whole run.

    `stretches` are places of selected requests, ascending, as `blocks_of` has them. So much time is kept before each,
    and half of it after, in which `around_us` has nearly all answered.
    """
    run, count = selection.run, len(selection.run)
    edges = np.zeros(count + 1, np.int64)
    edges[0] += 1  # what a server does once is done by the run's first requests, whether they are chosen or not
    edges[np.searchsorted(run.arrival_us, run.arrival_us[0] + before_us, side="right")] -= 1
    inside: Bools = np.zeros(count, np.bool_)
    for stretch in stretches:
        first, last = run.arrival_us[stretch[0]] - before_us, run.arrival_us[stretch[-1]] + 0.5 * before_us
        edges[np.searchsorted(run.arrival_us, first)] += 1
        edges[np.searchsorted(run.arrival_us, last, side="right")] -= 1
        inside[stretch[0] : stretch[-1] + 1] = True
    places = np.flatnonzero(np.cumsum(edges)[:-1] > 0)
    kept: Bools = np.zeros(count, np.bool_)
    kept[places] = True
    gaps = np.diff(run.arrival_us[places], prepend=run.arrival_us[places[:1]])
    left_out = np.diff(places, prepend=places[:1]) > 1
    arrival = np.cumsum(np.where(left_out, np.minimum(gaps, before_us), gaps))
    fewer = replace(run.take(kept), arrival_us=arrival, goes_on=run.goes_on and bool(kept[-1]))
    late = None if selection.late is None else (selection.late & inside)[kept]
    return Selection(fewer, (selection.requests & inside)[kept], late), places


def served_alike(alone: Selection, replayed: Replay, among_all: Replay, places: Ints) -> bool:
    """Whether mean decode times and TTFTs of the fitted requests are those that they have among all."""
    chosen = alone.requests & replayed.completed
    if chosen.sum() < alone.requests.sum():
        return False
    at = places[chosen]
    ttft, among = replayed.ttft_us[chosen], among_all.ttft_us[at]
    decode, decode_among = replayed.e2e_us[chosen] - ttft, among_all.e2e_us[at] - among
    return bool(
        abs(decode.sum() - decode_among.sum()) <= DECODE_ALIKE * decode_among.sum()
        and abs(ttft.sum() - among.sum()) <= TTFT_ALIKE * among.sum()
    )
