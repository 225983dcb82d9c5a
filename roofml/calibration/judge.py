"""The judge of a fit: does it describe what it was fitted to, with physics that can be?

A fit always ends with numbers. Times in another unit, a trace of another model or GPU, limits the server did not have
and latencies of other requests all end with parameters too, and some of those describe the trace well: with weights
that are read three times in a step. So three things are asked of every run.

- Before the fit: how far are the measured decode times from what physics and other models' fits predict, in standard
  deviations of that prediction?
- After it: how far off are means and single requests, and do requests that should take longer take longer?
- How far did the parameters have to move together, in standard deviations of the prior?

Few requests say little, so limits widen with their number, as it is given at each. On the public runs, whole and cut to
50 requests, the first is at most 1.7, errors of means at most 75 % of TTFT and 16 % of E2E and TPOT, and the third at
most 5.6 (docs/faults.md has the table).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.calibration.measured_load import decode_ratio
from roofml.calibration.posterior import Posterior
from roofml.calibration.thinning import pilot
from roofml.engine.latency_model import Kind, judged_us, paired_us
from roofml.engine.replay import Replay
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.formula import step_times
from roofml.latency.parameters import NAMES, Parameters, from_coordinates, to_coordinates
from roofml.traces.selection import Selection
from roofml.util.arrays import Floats
from roofml.util.at_once import each
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

PREDICTION_SD = 0.06
"""Relative error of a prediction by priors that its own standard deviation does not contain: engine versions, hosts."""
FARTHEST_SD, FARTHEST_RATIO = 3.0, 1.35
"""Measured decode times are not this model's on this GPU beyond both."""
MEAN_ERROR = 0.25
"""Of mean E2E and TPOT in sample, relative, as a ratio either way."""
TTFT_ERROR, TTFT_ERROR_BY_COUNT = 0.5, 10.0
"""Of mean TTFT: the first, and the second over the square root of the requests."""
TYPICAL_ERRORS: dict[Kind, tuple[float, float]] = {"e2e": (0.25, 3.0), "ttft": (0.2, 6.0)}
"""Median of single requests' errors, in logarithms: the same."""
FEWEST_TO_ORDER = 400
"""Requests from which on it is asked whether those that should take longer do."""
LEAST_SLOPE = 0.6
"""Of measured over predicted E2E, in logarithms: 1 for a right one, 0 for latencies of other requests."""
LARGEST_MOVE = 15.0
"""Standard deviations of the prior (Mahalanobis) that the parameters may move together."""
SLOWEST_PACE = 1.35
"""Of one server among several of a kind, either way."""
DRAWS, STEPS = 40, 2000
UNITS = {1e3: "ns", 1e-3: "ms", 1e-6: "s"}
"""Measured over predicted -> the unit the times are in, if µs were expected."""
TPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class _Evidence:
    """A run that is judged, and what the fit says of it."""

    judged: Selection
    served: Replay
    """At the fitted parameters and its pace."""
    decode_ratio: float
    """Mean measured decode time over the prior's prediction at the measured load, of some of a very long run; NaN where
    none was measured."""

    @property
    def wide(self) -> float:
        """1 over the square root of the requests: what limits widen with."""
        return len(self.judged) ** -0.5

    def measured_and_predicted(self, kind: Kind) -> tuple[Floats, Floats]:
        """The times of one kind of the judged requests, as measured and as replayed, [requests] each, µs."""
        return judged_us(self.judged, self.judged.run, kind), judged_us(self.judged, self.served, kind)


def judge(
    deployment: Deployment, posterior: Posterior, selections: Sequence[Selection], served: Sequence[Replay]
) -> tuple[str, ...]:
    """One sentence for each way in which a fit does not describe its runs, or only with absurd physics.

    None for a good fit. `served` are the replays of the runs of `selections` at the fitted parameters and paces. Each
    sentence says what is off and what looks wrong: the unit, the limits, the model, the GPU, the clock.
    """
    if not np.isfinite(posterior.values).all() or not all(map(np.isfinite, posterior.paces.values())):
        return (
            "the fit ended with parameters that are no numbers: look at the times of its runs with `roofml doctor`",
        )
    some = [(selection, replayed) for selection, replayed in zip(selections, served, strict=True) if len(selection)]
    ratios = each(lambda one: decode_ratio(pilot(one[0]), deployment.tables, posterior.prior.values), some)
    runs = [_Evidence(*pair, ratio) for pair, ratio in zip(some, ratios, strict=True)]
    sentences: list[str] = []
    for run in runs:
        said = _beyond_physics(deployment, posterior, run) or _beyond_limits(run)
        if not said:  # of sampled steps alone, nothing was learned of how requests wait for the first token
            said = _badly_described(run) if posterior.requests else _wrong_mean(run, ("tpot",))
        if said:
            sentences.append(f"{run.judged.run.name}: {said}")
    return (*sentences, *_outlying_paces(posterior, runs), *([] if sentences else _absurd_parameters(posterior)))


def _beyond_physics(deployment: Deployment, posterior: Posterior, run: _Evidence) -> str:
    """Whether measured decode times are beyond what physics and priors allow, and whose they look like."""
    ratio = run.decode_ratio
    if not np.isfinite(ratio):
        return ""
    sd = float(np.hypot(np.hypot(_prediction_sd(deployment, posterior, run), PREDICTION_SD), run.wide))
    if abs(np.log(ratio)) < max(np.log(FARTHEST_RATIO), FARTHEST_SD * sd):
        return ""
    factor = f"{ratio:.3g} times as long" if ratio > 1 else f"{1 / ratio:.3g} times as short"
    text = f"decode times are {factor} as physics says of {deployment.title} (±{100 * sd:.0f} %)"
    for unit, name in UNITS.items():
        if abs(np.log(ratio / unit)) < np.log(10.0):
            return f"{text}: they look like {name}, expected µs"
    closest = _closest_hardware(deployment, posterior, run)
    return f"{text}: is it another model or GPU, a trace in another unit, or eager mode?{closest}"


def _prediction_sd(deployment: Deployment, posterior: Posterior, run: _Evidence) -> float:
    """Relative standard deviation of the prior's prediction of mean step time."""
    steps = run.served.schedule.steps
    places = np.linspace(0, steps.length - 1, min(STEPS, steps.length)).astype(np.int64)
    some = steps.at(places)
    draws = posterior.prior.draws(DRAWS)
    sums = [step_times(deployment.tables, some, Parameters.of(values).step).sum() for values in draws]
    return float(np.std(np.log(sums)))


def _closest_hardware(deployment: Deployment, posterior: Posterior, run: _Evidence) -> str:
    """Which other GPU or tensor parallel size would explain the times, if one would."""
    model, gpu, tp = deployment.hf_repo, deployment.gpu.name, deployment.tp
    budget = deployment.budget
    sheets = sorted(sheet.stem for sheet in data_folder("hardware").glob("*.yaml"))
    others = [(name, tp) for name in sheets if name != gpu] + [(gpu, other) for other in TPS if other != tp]
    close: list[tuple[float, str]] = []
    for name, parallel in others:
        try:
            other = deploy(model, name, parallel, budget)
            ratio = decode_ratio(pilot(run.judged), other.tables, posterior.prior.values)
        except InputError:
            continue  # no kernel tables, or the model does not divide by this size
        close.append((abs(np.log(ratio)), f"{name}, TP {parallel}"))
    best = min(close, default=(np.inf, ""))
    return f" They fit {best[1]}" if best[0] < PREDICTION_SD * 2 else ""


def _beyond_limits(run: _Evidence) -> str:
    """Whether more requests decoded at once than the server's limit allows."""
    trace, chosen = run.judged.run, run.judged.requests
    begin = trace.arrival_us[chosen] + trace.ttft_us[chosen]
    end = trace.arrival_us[chosen] + trace.e2e_us[chosen]
    at_once = np.arange(1, len(begin) + 1) - np.searchsorted(np.sort(end), np.sort(begin), side="right")
    most, limit = int(np.quantile(at_once, 0.99)), trace.server.max_num_seqs
    if most <= 1.25 * limit + 1:  # a preempted request, and one whose last chunk is on its way, run no more
        return ""
    return f"limits: {most} requests got tokens at once, and max_num_seqs is {limit}"


def _badly_described(run: _Evidence) -> str:
    """Whether means or single requests are far from what the fit says of them."""
    if said := _wrong_mean(run, ("e2e",)):
        return said
    if _unordered(*paired_us(run.judged, run.served, "e2e")):
        return (
            "requests that should take longer do not: latencies, counts or arrivals are not those of their "
            "requests, shuffled or joined by the wrong key, or of another clock"
        )
    if said := _wrong_mean(run, ("tpot", "ttft")):
        return said
    for kind, (always, by_count) in TYPICAL_ERRORS.items():
        measured, predicted = paired_us(run.judged, run.served, kind)
        error = float(np.median(np.abs(np.log(np.maximum(predicted, 1.0) / np.maximum(measured, 1.0)))))
        if error > always + by_count * run.wide:
            text = f"half of the requests' {kind.upper()} are over {100 * np.expm1(error):.0f} % off in sample"
            return f"{text}: {_suspect(run, float(np.median(predicted) / np.median(measured)))}"
    return ""


def _wrong_mean(run: _Evidence, kinds: tuple[Kind, ...]) -> str:
    """Whether a mean of one of `kinds`, asked in turn, is far from what the fit says of it."""
    limits = {"e2e": MEAN_ERROR, "tpot": MEAN_ERROR, "ttft": TTFT_ERROR + TTFT_ERROR_BY_COUNT * run.wide}
    for kind in kinds:
        measured, predicted = run.measured_and_predicted(kind)
        known = len(measured) and len(predicted) and measured.mean() > 0
        ratio = float(predicted.mean() / measured.mean()) if known else 1.0
        if not 1 / (1 + limits[kind]) < ratio < 1 + limits[kind]:
            return f"mean {kind.upper()} is {100 * (ratio - 1):+.0f} % off in sample: {_suspect(run, ratio)}"
    return ""


def _suspect(run: _Evidence, ratio: float) -> str:
    """What looks wrong where steps are right and latencies are not: `ratio` is predicted over measured."""
    server = run.judged.run.server
    if ratio > 1:
        limits = ", ".join(
            f"{name} {getattr(server, name)}" for name in ("max_num_seqs", "max_num_batched_tokens", "num_gpu_blocks")
        )
        return (
            f"the replay is slower than the server was: are the limits ({limits}), the counts, the arrivals and the "
            "client's clock right?"
        )
    return (
        "requests waited for what the trace does not hold: another clock, limits the server did not have, requests "
        "that were not recorded?"
    )


def _unordered(measured: Floats, predicted: Floats) -> bool:
    """Whether requests with a longer prediction did not take longer: the slope in logarithms is surely too small."""
    x, y = np.log(np.maximum(predicted, 1.0)), np.log(np.maximum(measured, 1.0))
    x, y = x - x.mean(), y - y.mean()
    if len(x) < FEWEST_TO_ORDER or np.std(x) < 0.01:
        return False
    slope = float(x @ y / (x @ x))
    error = float(np.sqrt(np.sum((y - slope * x) ** 2) / (len(x) - 2) / (x @ x)))
    return slope + 4 * error < LEAST_SLOPE


def _outlying_paces(posterior: Posterior, runs: Sequence[_Evidence]) -> list[str]:
    """Servers that the shared parameters do not describe: one of another GPU or model among good ones."""
    names = {run.judged.run.identity: run.judged.run.name for run in runs}
    return [
        f"{names[identity]}: its server takes {pace:.3g} times as long for a step as the parameters of all runs say: "
        "is it of another model or GPU?"
        for identity, pace in posterior.paces.items()
        if identity in names and not 1 / SLOWEST_PACE < pace < SLOWEST_PACE
    ]


def _absurd_parameters(posterior: Posterior) -> list[str]:
    """Whether the parameters had to move farther than any good fit's, and which most."""
    prior = posterior.prior
    move = to_coordinates(posterior.values) - prior.mean
    far = float(np.sqrt(move @ np.linalg.solve(prior.covariance, move)))
    if far < LARGEST_MOVE:
        return []
    most = int(np.argmax(np.abs(move) / prior.sd))
    value, expected = posterior.values[most], from_coordinates(prior.mean)[most]
    return [
        f"absurd physics: the parameters are {far:.0f} standard deviations from what kernels and other models say, "
        f"most {NAMES[most]}, {value:.3g} where {expected:.3g} was expected: another model, GPU or limits?"
    ]
