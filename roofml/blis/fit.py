"""The alphas and betas with which BLIS itself is most accurate on measured runs.

A replay in BLIS's way says which requests were in which steps. With these steps fixed, the latencies are linear in the
coefficients (`equations`). A round solves for non-negative coefficients, with residuals relative to the measured values
and with weak priors, and replays again; a round that is worse than the best one so far is followed by half its change.
The measured latencies give the first steps, so no guess of ours can overload the replay. The runs may be of one model
on one GPU or of several: BLIS ships one set of coefficients for everything it knows.
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
from roofml.blis.replay import BlisReplay, for_blis
from roofml.blis.replay import replay as replay_blis
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats
from roofml.util.errors import InputError

ALPHA_NAMES = ("queueing_us", "completion_us", "output_token_us")
NAMES = (*ALPHA_NAMES, *BETA_NAMES)


@dataclass(frozen=True)
class Prior:
    """What is believed of a coefficient before any run is read, in the coefficient's unit (µs or a factor)."""

    mean: float
    spread: float
    because: str
    least: float = 0.0
    """Lowest value that physics allows: 1 for a read at the full bandwidth."""


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
"""The priors are weak. A run decides what it shows; other coefficients stay at what is usual of such kernels."""


@dataclass(frozen=True)
class RunErrors:
    """Errors 100·(predicted/measured - 1) of means over a run's fitted requests, replayed with the result."""

    run: str
    requests: int
    e2e_pct: float
    ttft_pct: float
    tpot_pct: float


@dataclass(frozen=True)
class BlisFit:
    """Fitted coefficients, their errors on the data of the fit, and how well that data determines them."""

    coefficients: BlisCoefficients
    errors: tuple[RunErrors, ...]
    rounds: int
    moved_pct: float
    """Largest change of a run's mean E2E between the best round and the last round, %."""
    spread: dict[str, float]
    """Standard deviation that data and priors leave to each coefficient at the solution. Bounds are ignored."""
    not_identified: tuple[str, ...]
    """Coefficients about which the data says less than the prior."""

    @property
    def settled(self) -> bool:
        """Whether the rounds came to rest. If not, more may help: near capacity every round moves the queue."""
        return self.moved_pct < 0.5


def fit(
    selections: Sequence[tuple[Selection, BlisDeployment]],
    *,
    rounds: int = 8,
    priors: dict[str, Prior] | None = None,
) -> BlisFit:
    """Fit one set of coefficients to the selected requests, each run given with the deployment that served it.

    Nothing of a run after its last selected request is used, arrivals included. Raises InputError for no runs, and for
    a run without usable latencies.
    """
    if not selections:
        raise InputError("no runs to fit")
    prior_of = {**PRIORS, **(priors or {})}
    beliefs = _Beliefs(
        centre=np.array([prior_of[name].mean for name in NAMES]),
        pull=1 / np.array([prior_of[name].spread for name in NAMES]),
        floor=np.array([prior_of[name].least for name in NAMES]),
    )
    parts = [_part(selection, deployment) for selection, deployment in selections]
    equations = [from_measurement(part.run, part.deployment, part.rows) for part in parts]
    solution, paces = _solve(equations, beliefs)
    best, best_paces, least, moved, done = solution, paces, np.inf, np.inf, 0
    best_means = np.full(len(parts), np.nan)
    while done < rounds:
        done += 1
        replays = [part.replay(solution[:3].tolist(), solution[3:].tolist()) for part in parts]
        loss = _loss(parts, replays, solution, paces, beliefs)
        means = np.array([replay.e2e_us[part.rows].mean() for part, replay in zip(parts, replays, strict=True)])
        moved = float(100 * np.max(np.abs(means / best_means - 1)))
        if loss < least:
            best, best_paces, best_means, least = solution, paces, means, loss
            equations = [
                from_replay(part.run, part.deployment, replay, int(solution[0]), part.rows)
                for part, replay in zip(parts, replays, strict=True)
            ]
            proposal, paces = _solve(equations, beliefs)
        else:
            proposal, paces = (best + solution) / 2, (best_paces + paces) / 2
        if np.max(beliefs.pull * np.abs(proposal - best)) < 1e-3:
            break
        solution = proposal
    coefficients = BlisCoefficients.of(best[:3].tolist(), best[3:].tolist())
    precision, _ = _normal(equations, best, best_paces, beliefs)
    spread = np.sqrt(np.diag(np.linalg.inv(precision)))[: len(NAMES)]
    left = spread * beliefs.pull
    return BlisFit(
        coefficients=coefficients,
        errors=tuple(part.errors(coefficients) for part in parts),
        rounds=done,
        moved_pct=moved,
        spread=dict(zip(NAMES, map(float, spread), strict=True)),
        not_identified=tuple(name for name, share in zip(NAMES, left, strict=True) if share > np.sqrt(0.5)),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """A run up to its last selected request, the deployment that served it, and the requests (rows) that are fitted."""

    run: Run
    deployment: BlisDeployment
    rows: Bools

    def replay(self, alphas: Sequence[float], betas: Sequence[float]) -> BlisReplay:
        return replay_blis(self.run, self.deployment, alphas, betas)

    def errors(self, coefficients: BlisCoefficients) -> RunErrors:
        replay = self.replay(coefficients.alphas, coefficients.betas)
        return errors_of(self.run, replay.ttft_us, replay.e2e_us, self.rows)


def _part(selection: Selection, deployment: BlisDeployment) -> _Part:
    """Prepare a run for the fit. Raises InputError if none of its requests can be fitted."""
    run = for_blis(_until_last(selection))
    rows = _usable(run)
    if not rows.any():
        raise InputError(f"{run.name}: none of the first {len(run)} requests has latencies that a fit can use")
    return _Part(run, deployment, rows)


def _loss(
    parts: Sequence[_Part], replays: Sequence[BlisReplay], solution: Floats, paces: Floats, beliefs: _Beliefs
) -> float:
    """Return the loss of replayed coefficients: their distance from the priors, the paces, and the replays' misfits."""
    loss = float(np.sum((beliefs.pull * (solution - beliefs.centre)) ** 2) + np.sum((paces / RUN_SPREAD) ** 2))
    for part, replay, pace in zip(parts, replays, paces, strict=True):
        loss += misfit(part.run, replay, part.rows, float(pace))
    return loss


def _until_last(selection: Selection) -> Run:
    """Return the run up to its last selected request. Raises InputError if none is selected."""
    chosen = np.flatnonzero(selection.requests)
    if not len(chosen):
        raise InputError(f"{selection.run.name}: no successful request to fit")
    return selection.run.take(np.arange(len(selection.run)) <= chosen[-1])


def errors_of(run: Run, ttft_us: Floats, e2e_us: Floats, rows: Bools | None = None) -> RunErrors:
    """Return the signed errors, %, of predicted means over the measured requests that BLIS finishes, and only `rows`.

    Raises InputError if there is no such request.
    """
    chosen = run.ok & np.isfinite(e2e_us)
    if rows is not None:
        chosen &= rows
    if not chosen.any():
        raise InputError(f"{run.name}: BLIS finishes none of the requests that were measured")
    tpot = (e2e_us - ttft_us) / np.where(run.output_tokens > 1, run.output_tokens - 1, np.nan)

    def error(predicted: Floats, measured: Floats) -> float:
        both = chosen & np.isfinite(predicted) & np.isfinite(measured)
        return float(100 * (predicted[both].mean() / measured[both].mean() - 1)) if both.any() else float("nan")

    return RunErrors(
        run.name,
        int(chosen.sum()),
        error(e2e_us, run.e2e_us),
        error(ttft_us, run.ttft_us),
        error(tpot, run.tpot_us),
    )


def _usable(run: Run) -> Bools:
    """Return the requests with latencies that ended before the last arrival, or all with latencies if none did.

    After the last arrival the run lacks the load that slowed the requests.
    """
    with np.errstate(invalid="ignore"):
        sound = run.ok & (run.ttft_us > 0) & (run.e2e_us >= run.ttft_us)
        ended = run.arrival_us + run.e2e_us <= run.arrival_us[-1]
    return sound & ended if (sound & ended).any() else sound


@dataclass(frozen=True, eq=False)
class _Beliefs:
    """The priors as arrays (coefficients,): mean, 1/spread and lowest value."""

    centre: Floats
    pull: Floats
    floor: Floats


def _normal(
    equations: Sequence[Equations], solution: Floats, paces: Floats, beliefs: _Beliefs
) -> tuple[Floats, Floats]:
    """Return the Gram matrix and right-hand side for the coefficients and the runs' paces, priors included.

    The paces are believed to be near 0 and, much more strongly, to sum to 0.
    """
    count, runs = len(beliefs.pull), len(equations)
    gram, right = np.zeros((count + runs, count + runs)), np.zeros(count + runs)
    for index, (part, pace) in enumerate(zip(equations, paces, strict=True)):
        unknowns = np.append(np.arange(count), count + index)
        part_gram, part_right = part.normal(solution, float(pace))
        gram[np.ix_(unknowns, unknowns)] += part_gram
        right[unknowns] += part_right
    gram[:count, :count] += np.diag(beliefs.pull**2)
    right[:count] += beliefs.pull**2 * beliefs.centre
    gram[count:, count:] += (np.eye(runs) + 1e6) / RUN_SPREAD**2
    return gram, right


def _solve(equations: Sequence[Equations], beliefs: _Beliefs) -> tuple[Floats, Floats]:
    """Solve for coefficients within their bounds and the runs' paces: least squares with priors and damped outliers."""
    runs = len(equations)
    solution, paces = beliefs.centre, np.zeros(runs)
    unit = np.concatenate((1 / beliefs.pull, np.full(runs, RUN_SPREAD)))
    lowest = np.concatenate((beliefs.floor, np.full(runs, -np.inf))) / unit
    for _ in range(4):
        gram, right = _normal(equations, solution, paces, beliefs)
        triangle = np.linalg.cholesky(gram * np.outer(unit, unit))
        scaled = np.linalg.solve(triangle, right * unit)
        result = cast("Any", lsq_linear(triangle.T, scaled, bounds=(lowest, np.inf), method="bvls"))
        values = cast("Floats", result.x) * unit
        solution, paces = np.maximum(values[:-runs], beliefs.floor), values[-runs:]
    return solution, paces
