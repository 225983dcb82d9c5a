"""Experiment design: small workloads on the same server, and what their latencies would add to a fit.

Each is served by the replay. Standard deviations are in the coordinates of `parameters`: relative for corrections, in
the parameter's unit for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roofml.calibration.information import nats, variances
from roofml.calibration.objective import latencies_and_gradients
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import Prior
from roofml.calibration.solver import Problem
from roofml.engine.replay import replay
from roofml.latency.components import ComponentTables
from roofml.latency.parameters import NAMES, Parameters, from_coordinates, to_coordinates
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.traces.server import Server
from roofml.util.arrays import Floats


@dataclass(frozen=True, eq=False)
class SmallLoad:
    """A small workload that could be served besides."""

    what: str
    """In plain words."""
    run: Run
    """Its requests, without latencies."""


@dataclass(frozen=True, eq=False)
class Gain:
    """What a load would add to a fit."""

    what: str
    requests: int
    seconds: float
    """Server time it takes, by the replay."""
    nats: float
    """Entropy of the parameters that it removes (`information.nats`)."""
    sd: Floats
    """(parameters,) standard deviations after a fit with it."""
    removed: Floats
    """(parameters,) share of each parameter's variance that it removes."""
    narrows_pct: float = 0.0
    """By how much it narrows the interval of a step's time, median over the steps wanted, %: 0 where none were."""

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


def small_loads(server: Server, tables: ComponentTables, values: Floats) -> tuple[SmallLoad, ...]:
    """Candidates for a server: at most 300 requests each, every prompt its own, nothing to take from the cache.

    `values` (parameters,) time them: a group is sent when the one before it is answered.
    """
    server = replace(server, fresh=False)  # it has served the runs of the fit
    most = min(server.max_model_len, (server.num_gpu_blocks - 1) * server.block_size)
    at_once = server.max_num_seqs

    def shape(prompt: int, output: int) -> Shape:
        output = max(1, min(output, most // 2))
        return max(1, min(prompt, most - output)), output

    def load(what: str, sent: list[list[Shape]]) -> SmallLoad:
        return SmallLoad(what, _one_after_the_other(what, server, sent, tables, values))

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
        SmallLoad(
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
    e2e = replay(apart, tables, Parameters.of(values)).e2e_us
    takes = np.array([e2e[group == i].max() + PAUSE_US for i in range(len(sent))])
    return _run(name, server, np.asarray((np.cumsum(takes) - takes)[group], np.float64), shapes)


def _steady(server: Server, shapes: Sequence[Shape], tables: ComponentTables, values: Floats) -> Run:
    """Requests at even intervals, so that a dozen run at a time and prompts meet decodes in a step."""
    order = np.argsort((np.arange(len(shapes)) * 0.6180339887) % 1)  # lengths in no order, the same every time
    mixed = [shapes[int(i)] for i in order]
    alone = _one_after_the_other("", server, [[shape] for shape in mixed[:16]], tables, values)
    gap = float(np.mean(replay(alone, tables, Parameters.of(values)).e2e_us)) / min(8, server.max_num_seqs)
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


def gains(
    fit: Posterior,
    candidates: Sequence[SmallLoad],
    tables: ComponentTables,
    noise: Noise,
    wanted: Floats | None = None,
) -> tuple[Gain, ...]:
    """What each load would add to the fit, that which tells most first.

    With `wanted`, derivatives of the logarithms of step times (steps, parameters), most is what narrows these most, as
    in `forwards.design`; without, the entropy that goes.
    """
    told = [gain(fit, load, tables, noise, wanted) for load in candidates]
    return tuple(sorted(told, key=lambda found: (-found.narrows_pct, -found.nats)))


def gain(fit: Posterior, load: SmallLoad, tables: ComponentTables, noise: Noise, wanted: Floats | None = None) -> Gain:
    """The load served with the fitted values, and the covariance of a fit that has its latencies too.

    The fit's own rows and weights (`solver.Problem`), the posterior as their prior: the run's mean is not trusted
    further than the discrepancies of `objective`, and requests scatter by `noise` (normal quantiles, so nothing is
    drawn). Bounds are not looked at.
    """
    x = to_coordinates(fit.values)
    served = replay(load.run, tables, Parameters.of(fit.values))
    count = len(load.run)
    ttft = served.ttft_us * np.exp(noise.ttft * _scattered(count, 0.6180339887))
    decode = (served.e2e_us - served.ttft_us) * np.exp(noise.decode * _scattered(count, 0.4142135624))
    run = replace(load.run, ttft_us=ttft, e2e_us=ttft + decode)
    before = 0.5 * (fit.covariance + fit.covariance.T)
    problem = Problem.of([Selection(run, run.ok)], [served.schedule], [tables], x, Prior(x, before, "the fit"))
    jacobian = problem.qr_factor(x)[:, :-1]
    after = np.asarray(np.linalg.inv(jacobian.T @ jacobian), np.float64)
    sd = np.sqrt(np.diag(after))
    narrows_pct = 0.0
    if wanted is not None:
        then, now = (np.sqrt(np.median(variances(covariance, wanted))) for covariance in (after, before))
        narrows_pct = 100 * max(0.0, 1 - float(then / now))
    return Gain(
        what=load.what,
        requests=count,
        seconds=float(np.max(run.arrival_us + served.e2e_us) - run.arrival_us[0]) / 1e6,
        nats=nats(before, after),
        sd=sd,
        removed=np.clip(1 - sd**2 / np.diag(before), 0, 1),
        narrows_pct=narrows_pct,
    )


def _scattered(count: int, stride: float) -> Floats:
    """Normal quantiles (count,) in no order, the same every time: `stride` is irrational."""
    from scipy.stats import norm

    place = np.argsort(np.argsort((np.arange(count) * stride) % 1))
    return np.asarray(norm.ppf((place + 0.5) / count), np.float64)
