"""Aggregates: mean latencies of a whole load, predicted from a replay, and what measured ones say of the parameters.

People publish a load and what its client saw on average. Such a figure is the time of the steps that its requests were
in, so it says of the parameters what those steps do: with the schedule as it is, the logarithm of a latency is
differentiated by every parameter, and a prior is sharpened as by any measurement (extended Kalman filter, some rounds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roofml.calibration.prior import Prior
from roofml.engine.latency_model import Kind
from roofml.engine.replay import Replay, replay
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.formula import step_times
from roofml.latency.parameters import LOWER, UPPER, Parameters, from_coordinates
from roofml.traces.run import Run
from roofml.util.arrays import Floats

SAMPLED_STEPS = 600
"""Steps of a schedule whose times are taken again with other parameters."""
ROUNDS = 4
MEASURED_SD = {"tpot": 0.03, "ttft": 0.25, "e2e": 0.03}
"""Relative standard deviation of a latency as measured and as a replay with the right parameters has it."""
SERVER_SD = 0.08
"""Relative: how much servers of a deployment differ in their step times, and what its tables have wrong in common."""
FRONT_END_US = 30_000.0
"""How much hosts and clients differ in what comes before and after the engine, the standard deviation of a TTFT."""
SURPRISE, NO_NEWS = 3.0, 1e6
"""Standard deviations beyond which a figure is rather wrong than news, and the variance that it then has."""
NUDGE = 0.25
"""Standard deviations by which a parameter is moved to see what it does."""


def statistics(run: Run, served: Replay) -> dict[str, float]:
    """What a benchmark client prints of a load that was served: latencies in µs, `output_tokens_per_s`.

    Empty where nothing completed.
    """
    done = served.completed
    if not done.any():
        return {}
    ttft, e2e, tokens = served.ttft_us[done], served.e2e_us[done], run.output_tokens[done]
    sent = served.schedule.arrival_us[done]
    figures = {
        "ttft_mean": float(np.mean(ttft)),
        "ttft_median": float(np.median(ttft)),
        "e2e_mean": float(np.mean(e2e)),
        "output_tokens_per_s": 1e6 * float(tokens.sum()) / float(np.max(sent + e2e) - np.min(sent)),
    }
    several = tokens > 1
    if several.any():
        tpot = (e2e - ttft)[several] / (tokens - 1)[several]
        figures |= {"tpot_mean": float(np.mean(tpot)), "tpot_median": float(np.median(tpot))}
    return figures


def ratios(served: Replay, tables: ComponentTables, parameters: Parameters, others: Sequence[Parameters]) -> Floats:
    """How many times as long TTFT, TPOT and E2E are with each of the `others`, for the schedule as it is: (others, 3).

    Decoding takes the times of steps in which tokens are decoded. A first token waits for steps that compute prompts,
    for the way from the client to the queue and back, and for what a server does once.
    """
    steps = served.schedule.steps
    stride = max(1, steps.length // SAMPLED_STEPS)
    sampled = StepSums.from_columns(steps.columns()[::stride])
    usual = step_times(tables, sampled, parameters.step)
    done = served.completed
    ttft, e2e = float(np.mean(served.ttft_us[done])), float(np.mean(served.e2e_us[done]))
    stalled = _stalled_us(served, parameters)
    aside = parameters.request.queueing_us + parameters.request.pipeline_delay_us + stalled
    inside = max(0.0, ttft - aside)
    decoding, prompting = usual * sampled.decode_tokens, usual * (sampled.prefill_tokens > 0)
    if not prompting.any():
        prompting = usual
    if not decoding.any():
        decoding = prompting
    result = np.empty((len(others), 3))
    for i, other in enumerate(others):
        slower = step_times(tables, sampled, other.step) / usual
        decode = float(np.average(slower, weights=decoding))
        first = inside * float(np.average(slower, weights=prompting))
        first += other.request.queueing_us + other.request.pipeline_delay_us
        first += stalled * other.request.cold_step_us / max(parameters.request.cold_step_us, 1.0)
        result[i] = first / (inside + aside), decode, (first + (e2e - ttft) * decode) / (e2e - ttft + inside + aside)
    return result


def _stalled_us(served: Replay, parameters: Parameters) -> float:
    """Mean time that first tokens waited for what a server does once, on its first steps, µs."""
    schedule, request = served.schedule, parameters.request
    once = request.cold_step_us * schedule.cold[0] + request.cold_kernel_us * schedule.cold[1]
    before = np.concatenate(([0.0], np.cumsum(once)))
    done = served.completed
    arrived = np.searchsorted(schedule.step_start_us, schedule.arrival_us[done])
    first = schedule.first_step[done] + 1
    return float(np.mean(before[first] - before[np.minimum(arrived, first)]))


KINDS: tuple[Kind, ...] = ("ttft", "tpot", "e2e")
"""Columns of `ratios`."""


@dataclass(frozen=True, eq=False)
class Aggregate:
    """A load that was served, and what was measured of it: metric of `statistics` -> µs."""

    run: Run
    tables: ComponentTables
    measured: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Sharpened:
    """What aggregates leave of a prior, and of the doubt about the deployment's step times as a whole."""

    prior: Prior
    pace: float
    """How much longer steps take than physics and parameters say."""
    pace_sd: float
    """Relative."""


def sharpened(
    prior: Prior,
    pace: float,
    doubt_sd: float,
    aggregates: Sequence[Aggregate],
    source: str,
    start: float | None = None,
) -> Sharpened:
    """The prior after seeing the aggregates, of steps that are believed to take `pace` times as long as physics says.

    `doubt_sd` is that of the pace, relative. Latencies are first linearized at steps of that pace, or of `start`, which
    is no belief: near capacity a schedule of too slow steps says nothing about the measured one.

    E2E counts only where there is no TPOT: it is made of the others.
    """
    size = len(prior.mean)
    state = np.append(prior.mean, np.log(pace))
    centre = state.copy()
    covariance = np.zeros((size + 1, size + 1))
    covariance[:size, :size] = prior.covariance
    covariance[size, size] = max(doubt_sd, 1e-4) ** 2
    sd = np.sqrt(np.diag(covariance))
    left = covariance
    if start is not None:
        state[size] = np.log(start)
    for _ in range(ROUNDS):
        slopes, misses, noise = _linearized(state, sd, aggregates)
        if not len(misses):
            break
        off = misses + slopes @ (state - centre)
        expected = np.einsum("ij,jk,ik->i", slopes, covariance, slopes)
        noise = np.where(off**2 > SURPRISE**2 * (expected + noise), NO_NEWS, noise)
        spread = slopes @ covariance @ slopes.T + np.diag(noise)
        gain = np.linalg.solve(spread, slopes @ covariance).T
        state = centre + gain @ off
        state[:size] = np.clip(state[:size], LOWER, UPPER)
        left = covariance - gain @ slopes @ covariance
    left = 0.5 * (left + left.T)
    return Sharpened(
        Prior(state[:size], left[:size, :size], source), float(np.exp(state[size])), float(np.sqrt(left[size, size]))
    )


def warmed_up(parameters: Parameters) -> Parameters:
    """On a server that compiled its experts' kernels before it took requests, as those of today do: the first mixed
    step is slow all the same."""
    return parameters._replace(request=parameters.request._replace(cold_kernel_us=0.0))


def _parameters(state: Floats) -> Parameters:
    found = Parameters.of(from_coordinates(np.clip(state[:-1], LOWER, UPPER)))
    return warmed_up(found.paced(float(np.exp(state[-1]))))


def _linearized(state: Floats, sd: Floats, aggregates: Sequence[Aggregate]) -> tuple[Floats, Floats, Floats]:
    """Derivatives of the logarithms of latencies by the state, what they miss of the measured ones, and variances."""
    parameters = _parameters(state)
    moved = [_parameters(state + NUDGE * sd[i] * np.eye(len(state))[i]) for i in range(len(state))]
    slopes: list[Floats] = []
    misses: list[float] = []
    noise: list[float] = []
    for aggregate in aggregates:
        served = replay(aggregate.run, aggregate.tables, parameters)
        figures = statistics(aggregate.run, served)
        logs = np.log(ratios(served, aggregate.tables, parameters, moved))
        second: Kind = "tpot" if _of(aggregate, "tpot") else "e2e"
        kinds: tuple[Kind, ...] = ("ttft", second)
        for kind in kinds:
            name = _of(aggregate, kind)
            if name is None or figures.get(name, 0.0) <= 0:
                continue
            slopes.append(logs[:, KINDS.index(kind)] / (NUDGE * sd))
            misses.append(float(np.log(aggregate.measured[name] / figures[name])))
            aside = FRONT_END_US / figures[name] if kind == "ttft" else 0.0
            noise.append(MEASURED_SD[kind] ** 2 + aside**2)
    return np.array(slopes).reshape(len(misses), len(state)), np.array(misses), np.array(noise)


def _of(aggregate: Aggregate, kind: str) -> str | None:
    """The metric of a kind of latency that counts: the mean, if that was measured."""
    return next((name for name in (f"{kind}_mean", f"{kind}_median") if aggregate.measured.get(name, 0.0) > 0), None)
