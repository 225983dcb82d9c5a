"""Request-level fit: the parameters physics leaves open, from the latencies that a client measured.

Replay a run, freeze the schedule, and a request's decode time is the sum of its steps' times and its TTFT the sum of
the steps it waits for: both are smooth in the parameters (`objective`). So a round is a damped least-squares problem
with exact derivatives from JAX (`solver`), and rounds repeat until the schedule stops moving.

Each round's schedule is replayed at the measured load: step times are scaled, for the schedule alone, so that mean
decode time is the measured one. Near capacity a percent of step time is a multiple of queueing, and a wrong first
guess would otherwise fit a queue that never was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from roofml.calibration.measured_load import at_measured_load
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import PACKAGE, Prior
from roofml.calibration.solver import SETTLED, Block, Problem, solve
from roofml.calibration.subset import Subset, subsets_of
from roofml.engine.replay import Schedule
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import LOWER, UPPER, from_coordinates, to_coordinates
from roofml.latency.pauses import Pauses
from roofml.latency.stairs import climbed
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats
from roofml.util.at_once import each as at_once
from roofml.util.errors import InputError

ROUNDS = 25
"""Most rounds of a fit; six are usual. A count and no time, so that a slow machine finds the same."""
AVERAGED = 5
"""Rounds after which coordinates are averaged with those before: a schedule that flips settles between."""
SOUGHT = 3
"""Rounds in which pauses of front ends are sought: from then on they stand."""

More = Callable[[Sequence[Schedule], Floats], Sequence[Block]]
"""A round's schedules, one a run, and parameter values -> what besides requests was measured."""
OnRound = Callable[[int, int], None]
"""Called with the number of a round and how many there are at most, before it."""


def fit_parameters(
    selections: Sequence[Selection],
    tables: ComponentTables | Sequence[ComponentTables],
    *,
    prior: Prior = PACKAGE,
    rounds: int = ROUNDS,
    on_round: OnRound | None = None,
    more: More | None = None,
    start: Floats | None = None,
    for_others: bool = False,
) -> Posterior:
    """Fit every parameter to the selected requests.

    The runs must be of one deployment, that `tables` were made for; or there are tables for each, and one set of
    parameters has to serve them all. The fit starts from the parameter values `start` (parameters,), by default from
    the prior's. `more` makes blocks of what besides requests was measured; with it no request has to be left. Without,
    of very long runs a subset is fitted (`subset`).

    `for_others`: what it finds is for models without a trace, whose formula has no stairs; so the last round is solved
    without them, and what they held of the mean is in the efficiencies. Raises InputError when nothing is left to fit.
    """
    each = [tables] * len(selections) if isinstance(tables, ComponentTables) else list(tables)
    requests, subsets = sum(map(len, selections)), dict[str, Subset]()
    if requests == 0 and more is None:
        raise InputError("no successful request to fit")
    if more is None:
        each = [of_run for of_run, selection in zip(each, selections, strict=True) if len(selection)]
        selections = [selection for selection in selections if len(selection)]
        selections, subsets = subsets_of(selections, each, prior)
        requests = sum(map(len, selections))
    x = prior.mean if start is None else np.clip(to_coordinates(start), LOWER, UPPER)
    normal, loss = np.linalg.inv(prior.covariance), np.inf
    converged, done, valid, stairs = False, 0, {}, dict[int, float]()
    problem: Problem | None = None
    pauses: list[Pauses] = []
    for done in range(1, rounds + 1):
        if on_round is not None:
            on_round(done, rounds)
        schedules = at_once(
            lambda one, stairs=stairs, x=x: at_measured_load(one[0], climbed(one[1], stairs), from_coordinates(x)),
            list(zip(selections, each, strict=True)),
        )
        before, valid = x, ranges(schedules, [selection.requests for selection in selections])
        blocks: Sequence[Block] = () if more is None else more(schedules, from_coordinates(x))
        problem = Problem.of(selections, schedules, each, x, prior, blocks, pauses or None)
        x, normal, loss = solve(problem, x)
        if done <= SOUGHT:
            pauses = [found for _, found in problem.servers(x)]
        stairs = problem.stairs(x)
        if done > AVERAGED:
            x = 0.5 * (x + before)
        if float(np.max(np.abs(x - before) / prior.sd)) < SETTLED:
            converged = True
            break
    if for_others and problem is not None:
        problem, stairs = problem.without_stairs(), {}
        x, normal, loss = solve(problem, x)
    servers = [] if problem is None else problem.servers(x)
    return Posterior(
        values=from_coordinates(x),
        covariance=np.asarray(np.linalg.inv(normal), np.float64),
        prior=prior,
        requests=requests,
        rounds=done,
        converged=converged,
        loss=loss,
        paces={s.run.identity: pace for s, (pace, _) in zip(selections, servers, strict=problem is not None)},
        valid=valid,
        pauses={s.run.identity: found for s, found in zip(selections, pauses, strict=True) if found.every_us > 0},
        stairs=stairs,
        subsets=subsets,
    )


def ranges(schedules: Sequence[Schedule], fitted: Sequence[Bools] | None = None) -> dict[str, tuple[int, int]]:
    """Ranges of what the schedules' steps computed; of those alone that a `fitted` request, (requests,) each, was in.

    A replay goes on after the last request that was fitted, and what it meets there nobody has seen. Where no request
    was, sampled steps were.
    """
    met = [np.ones(s.steps.length, np.bool_) for s in schedules]
    for i, requests in enumerate(fitted or ()):
        chosen = requests & (schedules[i].last_step >= 0)
        if chosen.any():
            inside = np.zeros(schedules[i].steps.length + 1)
            np.add.at(inside, schedules[i].first_step[chosen], 1)
            np.add.at(inside, schedules[i].last_step[chosen] + 1, -1)
            met[i] = np.cumsum(inside)[:-1] > 0
    steps = [s.steps.at(np.flatnonzero(which)) for s, which in zip(schedules, met, strict=True)]
    batch = np.concatenate([s.requests for s in steps])
    tokens = np.concatenate([s.prefill_tokens + s.decode_tokens for s in steps])
    decodes = np.concatenate([s.decode_tokens for s in steps])
    context = np.concatenate([s.decode_context for s in steps])[decodes > 0] / decodes[decodes > 0]
    return {
        "batch": (int(batch.min()), int(batch.max())),
        "context": (int(context.min()), int(np.ceil(context.max()))) if len(context) else (0, 0),
        "new_tokens": (int(tokens.min()), int(tokens.max())),
    }
