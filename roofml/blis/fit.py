"""The alphas and betas with which BLIS itself is most accurate on measured runs.

Replay the runs in BLIS's way, freeze which requests were in which steps, and the latencies become linear in the
coefficients (`equations`). Solve for non-negative ones with residuals relative to what was measured and weak priors,
replay again, and so on while it gets better. The first schedule is seen in the measured latencies, so that no guess of
ours can overload the replay. One model on one GPU, or several: BLIS ships one set for all it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import lsq_linear  # pyright: ignore[reportUnknownVariableType]

from roofml.blis.deployment import BlisCoefficients, BlisDeployment
from roofml.blis.equations import RUN_SPREAD, Equations, from_measurement, from_replay, misfit
from roofml.blis.latency import BETA_NAMES
from roofml.blis.replay import for_blis
from roofml.blis.replay import replay as replay_blis
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats
from roofml.util.errors import InputError

ALPHA_NAMES = ("queueing_us", "completion_us", "output_token_us")
NAMES = (*ALPHA_NAMES, *BETA_NAMES)


@dataclass(frozen=True)
class Prior:
    """Where a coefficient is believed to be before any run is seen, in its own unit (µs or a factor)."""

    mean: float
    spread: float
    because: str
    least: float = 0.0
    """The lowest value that physics allows: 1 for a read at the full bandwidth."""


PRIORS = {
    "queueing_us": Prior(20000, 20000, "HTTP and queue, and the step by which async scheduling delays a first token"),
    "completion_us": Prior(500, 1000, "the last chunk's way to the client"),
    "output_token_us": Prior(0, 20, "streaming runs beside the engine: it delays no later token"),
    "prefill_compute": Prior(1.5, 0.5, "matrix units at two thirds of their peak"),
    "decode_compute": Prior(0, 0.1, "a decode waits for memory"),
    "weights": Prior(1.2, 0.3, "weights at five sixths of the bandwidth", least=1),
    "tp_communication": Prior(1, 1, "counted at memory bandwidth: NVLink is slower, overlap hides some"),
    "layer_us": Prior(10, 10, "norms, rotary and launch gaps of a layer"),
    "request_us": Prior(3, 1, "input preparation and sampling of a request"),
    "step_us": Prior(100, 300, "scheduler and sampler"),
    "moe_layer_us": Prior(0, 100, "routing, in interleaved models alone"),
    "prefill_kv": Prior(0, 1, "hidden behind compute"),
    "decode_kv": Prior(1.7, 0.3, "paged attention at half to nine tenths of the bandwidth", least=1),
    "ep_communication": Prior(1, 1, "as tp_communication"),
}
"""Weak: what a run determines it determines; the rest stays at what kernels of this kind are known to do."""


@dataclass(frozen=True)
class RunErrors:
    """100·(predicted/measured - 1) of means over the fitted requests of a run, replayed with the result."""

    run: str
    requests: int
    e2e_pct: float
    ttft_pct: float
    tpot_pct: float


@dataclass(frozen=True)
class BlisFit:
    """Coefficients, what they reach on the data they were fitted to, and how far that data determines them."""

    coefficients: BlisCoefficients
    errors: tuple[RunErrors, ...]
    rounds: int
    moved_pct: float
    """Largest change of a run's mean E2E between the best round and the last one tried, per cent."""
    spread: dict[str, float]
    """Standard deviation left to each coefficient by data and priors, at the solution, bounds ignored."""
    not_identified: tuple[str, ...]
    """Coefficients of which the data says less than the prior."""

    @property
    def settled(self) -> bool:
        """Whether the rounds came to rest; if not, try more: near capacity every round moves the queue."""
        return self.moved_pct < 0.5


def fit(
    selections: Sequence[tuple[Selection, BlisDeployment]],
    *,
    rounds: int = 8,
    priors: dict[str, Prior] | None = None,
) -> BlisFit:
    """One set of coefficients for the selected requests, each run given with the deployment that served it.

    Of a run nothing after its last selected request is used, arrivals included. Raises InputError for runs without
    usable latencies.
    """
    if not selections:
        raise InputError("no runs to fit")
    believed = {**PRIORS, **(priors or {})}
    centre = np.array([believed[name].mean for name in NAMES])
    pull = 1 / np.array([believed[name].spread for name in NAMES])
    floor = np.array([believed[name].least for name in NAMES])
    taken = [(for_blis(_until_last(selection)), deployment) for selection, deployment in selections]
    usable = [_usable(run) for run, _ in taken]
    for (run, _), rows in zip(taken, usable, strict=True):
        if not rows.any():
            raise InputError(f"{run.name}: none of the first {len(run)} requests has latencies that a fit can use")

    together = list(zip(taken, usable, strict=True))
    equations = [from_measurement(run, deployment, rows) for (run, deployment), rows in together]
    known = _Beliefs(centre, pull, floor)
    solution, paces = _solve(equations, known)
    best, best_paces, least, moved, done = solution, paces, np.inf, np.inf, 0
    best_means = np.full(len(taken), np.nan)
    while done < rounds:
        done += 1
        replayed = [replay_blis(run, on, solution[:3].tolist(), solution[3:].tolist()) for run, on in taken]
        loss = float(np.sum((pull * (solution - centre)) ** 2) + np.sum((paces / RUN_SPREAD) ** 2))
        for ((run, _), rows), found, pace in zip(together, replayed, paces, strict=True):
            loss += misfit(run, found, rows, float(pace))
        means = np.array([found.e2e_us[rows].mean() for found, rows in zip(replayed, usable, strict=True)])
        moved = float(100 * np.max(np.abs(means / best_means - 1)))
        if loss < least:
            best, best_paces, best_means, least = solution, paces, means, loss
            equations = [
                from_replay(run, on, found, int(solution[0]), rows)
                for ((run, on), rows), found in zip(together, replayed, strict=True)
            ]
            proposal, paces = _solve(equations, known)
        else:
            proposal, paces = (best + solution) / 2, (best_paces + paces) / 2
        if np.max(pull * np.abs(proposal - best)) < 1e-3:
            break
        solution = proposal
    coefficients = BlisCoefficients.of(best[:3].tolist(), best[3:].tolist())
    errors: list[RunErrors] = []
    for (run, on), rows in together:
        found = replay_blis(run, on, coefficients.alphas, coefficients.betas)
        errors.append(errors_of(run, found.ttft_us, found.e2e_us, rows))
    precision, _ = _normal(equations, best, best_paces, known)
    spread = np.sqrt(np.diag(np.linalg.inv(precision)))[: len(NAMES)]
    return BlisFit(
        coefficients=coefficients,
        errors=tuple(errors),
        rounds=done,
        moved_pct=moved,
        spread=dict(zip(NAMES, map(float, spread), strict=True)),
        not_identified=tuple(name for name, s, p in zip(NAMES, spread, pull, strict=True) if s * p > np.sqrt(0.5)),
    )


def _until_last(selection: Selection) -> Run:
    """The run up to its last selected request."""
    chosen = np.flatnonzero(selection.requests)
    if not len(chosen):
        raise InputError(f"{selection.run.name}: no successful request to fit")
    return selection.run.take(np.arange(len(selection.run)) <= chosen[-1])


def errors_of(run: Run, ttft_us: Floats, e2e_us: Floats, rows: Bools | None = None) -> RunErrors:
    """Signed errors of predicted means over `rows`, or over every request that was measured and that BLIS finishes."""
    chosen = run.ok & np.isfinite(e2e_us)
    if rows is not None:
        chosen &= rows
    if not chosen.any():
        raise InputError(f"{run.name}: BLIS finishes none of the requests that were measured")
    tpot = (e2e_us - ttft_us) / np.where(run.output_tokens > 1, run.output_tokens - 1, np.nan)

    def error(ours: Floats, measured: Floats) -> float:
        both = chosen & np.isfinite(ours) & np.isfinite(measured)
        return float(100 * (ours[both].mean() / measured[both].mean() - 1)) if both.any() else float("nan")

    return RunErrors(
        run.name,
        int(chosen.sum()),
        error(e2e_us, run.e2e_us),
        error(ttft_us, run.ttft_us),
        error(tpot, run.tpot_us),
    )


def _usable(run: Run) -> Bools:
    """Requests with latencies that ended before the last arrival: after it the load that slowed others is cut off."""
    with np.errstate(invalid="ignore"):
        sound = run.ok & (run.ttft_us > 0) & (run.e2e_us >= run.ttft_us)
        ended = run.arrival_us + run.e2e_us <= run.arrival_us[-1]
    return sound & ended if (sound & ended).any() else sound


@dataclass(frozen=True)
class _Beliefs:
    """The priors as arrays: mean, 1/spread and lowest value of each coefficient."""

    centre: Floats
    pull: Floats
    floor: Floats


def _normal(equations: Sequence[Equations], solution: Floats, paces: Floats, known: _Beliefs) -> tuple[Floats, Floats]:
    """Normal equations of coefficients and the runs' paces, priors included. Paces are around 0 and sum to it."""
    count, runs = len(known.pull), len(equations)
    gram, right = np.zeros((count + runs, count + runs)), np.zeros(count + runs)
    for number, (part, pace) in enumerate(zip(equations, paces, strict=True)):
        at = np.append(np.arange(count), count + number)
        part_gram, part_right = part.normal(solution, float(pace))
        gram[np.ix_(at, at)] += part_gram
        right[at] += part_right
    gram[:count, :count] += np.diag(known.pull**2)
    right[:count] += known.pull**2 * known.centre
    gram[count:, count:] += (np.eye(runs) + 1e6) / RUN_SPREAD**2
    return gram, right


def _solve(equations: Sequence[Equations], known: _Beliefs) -> tuple[Floats, Floats]:
    """Coefficients within their bounds and the runs' paces: least squares with priors, outliers held down."""
    runs = len(equations)
    solution, paces = known.centre, np.zeros(runs)
    unit = np.concatenate((1 / known.pull, np.full(runs, RUN_SPREAD)))
    lowest = np.concatenate((known.floor, np.full(runs, -np.inf))) / unit
    for _ in range(4):
        gram, right = _normal(equations, solution, paces, known)
        triangle = np.linalg.cholesky(gram * np.outer(unit, unit))
        scaled = np.linalg.solve(triangle, right * unit)
        result = cast("Any", lsq_linear(triangle.T, scaled, bounds=(lowest, np.inf), method="bvls"))
        found = cast("Floats", result.x) * unit
        solution, paces = np.maximum(found[:-runs], known.floor), found[-runs:]
    return solution, paces
