"""Identifiability: what a fit's data say of each parameter, what they leave open, and which little load would tell.

- `parameters` and `directions`: how much of the prior's uncertainty the data removed, by parameter and by combination.
- `profiles`: intervals where the covariance is a poor guide, because the prior or a bound decides.
- `gains`: small workloads on the same server, served by the replay, and what their latencies would add to the fit.

All in the coordinates of `params`: an sd is relative for corrections, and in the parameter's unit for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from scipy.optimize import brentq, lsq_linear  # pyright: ignore[reportUnknownVariableType]

from roofml.calibration.fit import Fit, Problem, at_measured_load, latencies_and_gradients, solve
from roofml.calibration.prior import Prior
from roofml.engine.replay import replay
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import LOWER, NAMES, UPPER, from_coordinates, split, to_coordinates
from roofml.traces.run import Bools, Floats, Run, Server

CHI2 = 3.84
"""Rise of chi² at the ends of a 95 % interval (one degree of freedom)."""
WIDER = 10.0
"""A parameter's prior made so many times wider is as good as none: what is left are the data."""
PARTNER = 0.1
"""Smallest correlation that makes another parameter a partner."""
AT_BOUND = 1e-3
"""A value nearer to its bound than this, in standard deviations of the prior, is at it."""
SETTLED = 0.05
"""The end of a profile interval is found when it moves by less than this share of its distance to the estimate."""


@dataclass(frozen=True)
class Knowledge:
    """What is known of one parameter."""

    name: str
    value: float
    prior_sd: float
    posterior_sd: float
    decided: float
    """Share of the prior's variance that the data removed: 0, they say nothing; 1, they say everything."""
    partner: str | None
    """The parameter it is most correlated with: what the data cannot tell apart from it."""
    correlation: float
    bound: Literal["lower", "upper"] | None
    """Where the fit stopped at a bound: the sd is then not an interval."""


def parameters(fit: Fit) -> tuple[Knowledge, ...]:
    """What a fit knows of each parameter, in the order of `params.PARAMETERS`."""
    x, sd, before = to_coordinates(fit.values), fit.sd, fit.prior.sd
    correlation = fit.covariance / np.outer(sd, sd)
    np.fill_diagonal(correlation, 0.0)
    partners = [int(i) for i in np.argmax(np.abs(correlation), axis=1)]
    found: list[Knowledge] = []
    for i, name in enumerate(NAMES):
        strongest = float(correlation[i, partners[i]])
        low, high = (abs(x[i] - end[i]) < AT_BOUND * before[i] for end in (LOWER, UPPER))
        found.append(
            Knowledge(
                name=name,
                value=float(fit.values[i]),
                prior_sd=float(before[i]),
                posterior_sd=float(sd[i]),
                decided=float(np.clip(1 - (sd[i] / before[i]) ** 2, 0, 1)),
                partner=NAMES[partners[i]] if abs(strongest) > PARTNER else None,
                correlation=strongest,
                bound="lower" if low else "upper" if high else None,
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Direction:
    """A combination of parameters that the data decide, or do not, apart from all others."""

    decided: float
    """Share of the prior's variance along it that the data removed."""
    weights: Floats
    """(parameters,) how far each parameter moves along it, in standard deviations of its prior; of length 1."""

    def terms(self, least: float = 0.3) -> list[tuple[str, float]]:
        """The parameters with a weight of at least `least`, or the heaviest, heaviest first."""
        order = np.argsort(-np.abs(self.weights), kind="stable")
        return [(NAMES[i], float(self.weights[i])) for i in order if abs(self.weights[i]) >= least or i == order[0]]


def directions(fit: Fit) -> tuple[Direction, ...]:
    """All directions, the best decided first.

    Eigenvectors of the posterior covariance relative to the prior's: with C = LL' the prior's, those v of inverse(L) P
    inverse(L)', moved back by L. An eigenvalue is the share of variance that is left (as in Spantini et al. 2015).
    """
    half = np.linalg.cholesky(fit.prior.covariance)
    whitening = fit.prior.whitening()
    left = whitening @ fit.covariance @ whitening.T
    shares, vectors = np.linalg.eigh(0.5 * (left + left.T))
    found: list[Direction] = []
    for share, vector in zip(shares, vectors.T, strict=True):
        weights = (half @ vector) / fit.prior.sd
        weights = weights / np.linalg.norm(weights)
        sign = np.sign(weights[np.argmax(np.abs(weights))])
        found.append(Direction(float(np.clip(1 - share, 0, 1)), sign * weights))
    return tuple(found)


def effective_parameters(found: Sequence[Direction]) -> float:
    """How many parameters the data decide: the sum of the directions' shares."""
    return sum(direction.decided for direction in found)


# Profile intervals


@dataclass(frozen=True)
class Profile:
    """95 % intervals of one parameter, every other refitted. None is an open end: its bound fits as well."""

    name: str
    low: float | None
    high: float | None
    data_low: float | None
    """With the parameter's own prior made `WIDER`: what the data, and beliefs about the others, say."""
    data_high: float | None
    settled: bool
    """False where the search for one of the four ends still moved when it stopped: that end is rough."""


@dataclass(frozen=True)
class _Point:
    """Coordinates, and the problem's triangle there: its linear model."""

    x: Floats
    triangle: Floats

    @classmethod
    def at(cls, problem: Problem, x: Floats) -> _Point:
        return cls(x, problem.triangle(x))

    @property
    def chi2(self) -> float:
        """Of the problem itself at x."""
        return float(self.triangle[:, -1] @ self.triangle[:, -1])

    def best(self, index: int, value: float) -> tuple[Floats, float]:
        """The linear model's minimum with one coordinate held at `value` and all within bounds; chi² there."""
        jacobian, residual = self.triangle[:, :-1], self.triangle[:, -1]
        others = np.arange(len(self.x)) != index
        held = residual + jacobian[:, index] * (value - self.x[index])
        step: Floats = np.asarray(np.linalg.lstsq(jacobian[:, others], -held, rcond=None)[0], np.float64)
        low, high = LOWER[others] - self.x[others], UPPER[others] - self.x[others]
        if np.any((step < low) | (step > high)):
            found = cast("Any", lsq_linear(jacobian[:, others], -held, bounds=(low - 1e-12, high + 1e-12)))
            step = np.asarray(found.x, np.float64)
        x = self.x.copy()
        x[others] = np.clip(x[others] + step, LOWER[others], UPPER[others])
        x[index] = value
        miss = residual + jacobian @ (x - self.x)
        return x, float(miss @ miss)

    def reaches(self, index: int, target: float, start: float, bound: float, tolerance: float) -> float:
        """Where from `start` to `bound` the linear model's chi² reaches `target`, or the bound if it does not."""

        def rise(value: float) -> float:
            return self.best(index, value)[1] - target

        if rise(bound) <= 0:
            return bound
        if rise(start) >= 0:  # beyond a kink the model does not know the start: half-way back
            return 0.5 * (start + float(self.x[index]))
        return float(cast("Any", brentq)(rise, start, bound, xtol=tolerance))


def problem_of(fit: Fit, runs: Sequence[Run], tables: ComponentTables, fitted: Sequence[Bools]) -> Problem:
    """The least-squares problem at a fit's values, schedules frozen. `fitted`: (requests,) of each run."""
    used = [run.ok & mask for run, mask in zip(runs, fitted, strict=True)]
    schedules = [at_measured_load(run, tables, fit.values, mask) for run, mask in zip(runs, used, strict=True)]
    return Problem.of(runs, used, schedules, [tables] * len(runs), to_coordinates(fit.values), fit.prior)


def unsure(found: Sequence[Knowledge]) -> tuple[str, ...]:
    """Parameters whose covariance is a poor guide: half or more is the prior's, or a bound is active."""
    return tuple(one.name for one in found if one.decided < 0.5 or one.bound is not None)


def profiles(
    problem: Problem,
    x: Floats,
    names: Sequence[str],
    on_profile: Callable[[int, int], None] | None = None,
) -> tuple[Profile, ...]:
    """Profile intervals of the parameters `names`, from coordinates near the problem's minimum.

    A coordinate is moved away from its estimate, all others refitted, until chi² has risen by `CHI2` (Venzon and
    Moolgavkar 1988). `on_profile(i, n)` is called before each.
    """
    start = _Point.at(problem, solve(problem, x)[0])
    found: list[Profile] = []
    for number, name in enumerate(names):
        if on_profile is not None:
            on_profile(number, len(names))
        index = NAMES.index(name)
        wide = replace(problem, prior=_wider(problem.prior, index))
        alone = _Point.at(wide, solve(wide, start.x)[0])
        ends = [_end(p, best, index, side) for p, best in ((problem, start), (wide, alone)) for side in (LOWER, UPPER)]
        found.append(Profile(name, *(end for end, _ in ends), settled=all(settled for _, settled in ends)))
    return tuple(found)


def _wider(prior: Prior, index: int) -> Prior:
    """The prior with one parameter's standard deviation `WIDER`, its correlations as they are."""
    scale = np.ones(len(prior.mean))
    scale[index] = WIDER
    return replace(prior, covariance=prior.covariance * np.outer(scale, scale))


def _end(problem: Problem, best: _Point, index: int, bounds: Floats) -> tuple[float | None, bool]:
    """The parameter's value where chi² has risen by CHI2 towards its bound, None where it has not when it gets there;
    and whether the search settled.

    The linear model at a point says where; the model is then made anew there, until the end stays.
    """
    target, bound, estimate = best.chi2 + CHI2, float(bounds[index]), float(best.x[index])
    if abs(bound - estimate) < AT_BOUND * problem.prior.sd[index]:
        return None, True
    point, end, inside, settled = best, estimate, estimate, False
    for _ in range(12):
        before, end = end, point.reaches(index, target, inside, bound, 1e-3 * float(problem.prior.sd[index]))
        settled = abs(end - before) <= SETTLED * abs(end - estimate)
        if settled:
            break
        point = _Point.at(problem, point.best(index, end)[0])
        if point.chi2 <= target:
            inside = end
    if end == bound:
        return None, settled
    coordinates = best.x.copy()
    coordinates[index] = end
    return float(from_coordinates(coordinates)[index]), settled


# Loads that would tell more


@dataclass(frozen=True)
class Load:
    """A small workload that could be served besides."""

    what: str
    """In plain words."""
    run: Run
    """Its requests, without latencies."""


@dataclass(frozen=True)
class Gain:
    """What a load would add to a fit."""

    what: str
    requests: int
    seconds: float
    """Server time it takes, by the replay."""
    nats: float
    """Entropy of the parameters that it removes: half the logarithm of the covariances' ratio of determinants."""
    sd: Floats
    """(parameters,) standard deviations after a fit with it."""
    removed: Floats
    """(parameters,) share of each parameter's variance that it removes."""

    @property
    def nats_per_minute(self) -> float:
        """What it tells for its price."""
        return 60 * self.nats / self.seconds

    def pins(self, count: int = 3, least: float = 0.1) -> list[str]:
        """The parameters that gain most, at least `least` of their variance each; none where none does."""
        order = np.argsort(-self.removed, kind="stable")[:count]
        return [NAMES[i] for i in order if self.removed[i] >= least]


PAUSE_US = 100_000.0
"""Between groups of requests that are sent one after the other."""

Shape = tuple[int, int]
"""Prompt and output tokens of a request."""


def loads(server: Server, tables: ComponentTables, values: Floats) -> tuple[Load, ...]:
    """Candidates for a server: at most 300 requests each, every prompt its own, nothing to take from the cache.

    `values` (parameters,) time them: a group is sent when the one before it is answered.
    """
    server = replace(server, fresh=False)  # it has served the runs of the fit
    most = min(server.max_model_len, (server.num_gpu_blocks - 1) * server.block_size)
    at_once = server.max_num_seqs

    def shape(prompt: int, output: int) -> Shape:
        output = max(1, min(output, most // 2))
        return max(1, min(prompt, most - output)), output

    def load(what: str, sent: list[list[Shape]]) -> Load:
        return Load(what, _one_after_the_other(what, server, sent, tables, values))

    top = min(at_once, 150)
    sweep = [top >> halvings for halvings in range(top.bit_length())][::-1]
    lengths = [16, 32, 64, 128, 256, 512, 1024, 2000]
    deep = shape(most, 64)
    together = max(1, min(16, at_once, (server.num_gpu_blocks - 1) * server.block_size // sum(deep)))
    return (
        load("one request at a time: prompts of 16 to 2,000 tokens, 64 out", [[shape(n, 64)] for n in lengths * 4]),
        load("prompts of 16 tokens, one token out, one at a time", [[shape(16, 1)]] * 100),
        load("unique prompts of 2,000 tokens, 8 out, one at a time", [[shape(2000, 8)]] * 60),
        load(f"concurrency 1 to {top}: prompts of 64 tokens, 64 out", [[shape(64, 64)] * n for n in sweep]),
        load(f"{together} at once: prompts near max_model_len, 64 out", [[deep] * together] * max(2, 64 // together)),
        load(f"bursts of {min(32, at_once)}: prompts of 200 tokens, 32 out", [[shape(200, 32)] * min(32, at_once)] * 9),
        load(
            f"{min(16, at_once)} at once: prompts of 16 tokens, 1,000 out", [[shape(16, 1000)] * min(16, at_once)] * 3
        ),
        Load(
            "steady arrivals: prompts of 16 to 2,000 tokens among running requests, 128 out",
            _steady(server, [shape(n, 128) for n in lengths * 32], tables, values),
        ),
    )


def _run(name: str, server: Server, arrival_us: Floats, shapes: Sequence[Shape]) -> Run:
    count = len(shapes)
    prompt, output = np.array(shapes, dtype=np.int64).T
    return Run(
        name=name,
        server=server,
        request_id=np.arange(count),
        arrival_us=arrival_us,
        prompt_tokens=prompt,
        output_tokens=output,
        prefix_group=np.full(count, -1),
        prefix_tokens=np.zeros(count, np.int64),
        ttft_us=np.full(count, np.nan),
        e2e_us=np.full(count, np.nan),
        ok=np.ones(count, np.bool_),
    )


def _one_after_the_other(
    name: str, server: Server, sent: Sequence[Sequence[Shape]], tables: ComponentTables, values: Floats
) -> Run:
    """Groups of simultaneous requests, each sent `PAUSE_US` after the one before it is answered."""
    group = np.repeat(np.arange(len(sent)), [len(shapes) for shapes in sent])
    shapes = [shape for shapes in sent for shape in shapes]
    apart = _run(name, server, 1e10 * group.astype(np.float64), shapes)  # so far that no group meets the next
    e2e = replay(apart, tables, *split(values)).e2e_us
    takes = np.array([e2e[group == i].max() + PAUSE_US for i in range(len(sent))])
    return _run(name, server, np.asarray((np.cumsum(takes) - takes)[group], np.float64), shapes)


def _steady(server: Server, shapes: Sequence[Shape], tables: ComponentTables, values: Floats) -> Run:
    """Requests at even intervals, so that a dozen run at a time and prompts meet decodes in a step."""
    order = np.argsort((np.arange(len(shapes)) * 0.6180339887) % 1)  # lengths in no order, the same every time
    mixed = [shapes[int(i)] for i in order]
    alone = _one_after_the_other("", server, [[shape] for shape in mixed[:16]], tables, values)
    gap = float(np.mean(replay(alone, tables, *split(values)).e2e_us)) / min(8, server.max_num_seqs)
    return _run("steady", server, gap * np.arange(len(mixed), dtype=np.float64), mixed)


@dataclass(frozen=True)
class Noise:
    """Relative standard deviation of single requests about their prediction."""

    decode: float
    ttft: float


def noise_of(problem: Problem, x: Floats) -> Noise:
    """The scatter a fit left, robustly, and of several runs the middle one's."""
    values = from_coordinates(x)
    scatter: list[tuple[float, float]] = []
    for frozen, (decode, ttft) in zip(problem.frozen, problem.measured, strict=True):
        decode_now, ttft_now, _, _ = latencies_and_gradients(values, frozen)
        several = (decode > 0) & (decode_now > 0)
        scatter.append((_spread(decode[several] / decode_now[several]), _spread(ttft / ttft_now)))
    decode_sd, ttft_sd = np.median(np.array(scatter), axis=0)
    return Noise(float(decode_sd), float(ttft_sd))


def _spread(ratio: Floats) -> float:
    return 1.4826 * float(np.median(np.abs(ratio - np.median(ratio)))) if len(ratio) else 0.0


def gains(fit: Fit, candidates: Sequence[Load], tables: ComponentTables, noise: Noise) -> tuple[Gain, ...]:
    """What each load would add to the fit, that which tells most first."""
    return tuple(sorted((gain(fit, load, tables, noise) for load in candidates), key=lambda one: -one.nats))


def gain(fit: Fit, load: Load, tables: ComponentTables, noise: Noise) -> Gain:
    """The load served with the fitted values, and the covariance of a fit that has its latencies too.

    The fit's own rows and weights (`fit.Problem`), the posterior as their prior: the run's mean is not trusted further
    than the discrepancies of `fit`, and requests scatter by `noise` (normal quantiles, so nothing is drawn). Bounds are
    not looked at.
    """
    x = to_coordinates(fit.values)
    served = replay(load.run, tables, *split(fit.values))
    count = len(load.run)
    ttft = served.ttft_us * np.exp(noise.ttft * _scattered(count, 0.6180339887))
    decode = (served.e2e_us - served.ttft_us) * np.exp(noise.decode * _scattered(count, 0.4142135624))
    run = replace(load.run, ttft_us=ttft, e2e_us=ttft + decode)
    before = 0.5 * (fit.covariance + fit.covariance.T)
    problem = Problem.of([run], [run.ok], [served.schedule], [tables], x, Prior(x, before, "the fit"))
    jacobian = problem.triangle(x)[:, :-1]
    after = np.linalg.inv(jacobian.T @ jacobian)
    sd = np.sqrt(np.diag(after))
    return Gain(
        what=load.what,
        requests=count,
        seconds=float(np.max(run.arrival_us + served.e2e_us) - run.arrival_us[0]) / 1e6,
        nats=0.5 * float(np.linalg.slogdet(before)[1] - np.linalg.slogdet(after)[1]),
        sd=sd,
        removed=np.clip(1 - sd**2 / np.diag(before), 0, 1),
    )


def _scattered(count: int, stride: float) -> Floats:
    """Normal quantiles (count,) in no order, the same every time: `stride` is irrational."""
    from scipy.stats import norm

    place = np.argsort(np.argsort((np.arange(count) * stride) % 1))
    return np.asarray(norm.ppf((place + 0.5) / count), np.float64)
