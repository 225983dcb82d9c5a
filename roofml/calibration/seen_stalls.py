"""Seen stalls: a run replayed with a fresh server's stalls where its measurements show them.

A mixture of experts compiles kernels in its first seconds, for about a second each, in steps that a replay with other
step times does not form (`engine.cold_start`). Every request near such a stall would be predicted a second off, by any
parameters, and no fit could tell what is wrong. So where latencies were measured a replay takes the stalls from them,
for the schedule that a fit learns from and for the judgement whether it describes its runs. A prediction has nothing to
take them from: there the rule says when they are, and `cold_kernel_us` how long each is.
"""

from __future__ import annotations

import numpy as np

from roofml.engine.cold_start import kernels_compiled
from roofml.engine.replay import Replay, Schedule, replay
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import Parameters
from roofml.traces.selection import Selection
from roofml.traces.server import Server

FEWEST = 0.5
"""Of the stalls that the rule says. A server that shows fewer does not compile by it (another engine, a warm one): then
the rule is replayed as it is, and a fit finds out how little its stalls cost."""


def replay_as_seen(selection: Selection, tables: ComponentTables, parameters: Parameters) -> Replay:
    """The replay of a selection's run, its stalls where the selected requests' first tokens came late."""
    run = selection.run
    if not run.server.fresh or tables.experts == 0:
        return replay(run, tables, parameters)
    seen = replay(run, tables, parameters, seen_ttft_us=np.where(selection.requests, run.ttft_us, np.nan))
    by_rule = _by_rule(seen.schedule, run.server, tables)
    enough = seen.schedule.cold[1].sum() >= max(1.0, FEWEST * by_rule)
    return seen if enough else replay(run, tables, parameters)


def _by_rule(schedule: Schedule, server: Server, tables: ComponentTables) -> int:
    """How many kernels a fresh server compiles for the steps of a schedule."""
    of_model = (int(tables.experts), int(tables.experts_per_token), int(tables.captured))
    return kernels_compiled(schedule.steps.new_tokens, *of_model, server.max_num_batched_tokens)
