"""Answer: what is predicted of a point, with intervals, or why nothing is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.engine.replay import Replay, replay
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.formula import step_times
from roofml.latency.parameters import Parameters
from roofml.traces.engine_version import wider_for
from roofml.util.arrays import Floats
from roofml.validation.points.point import Point
from roofml.validation.points.serving import load_of, server_of
from roofml.workloads.load import Load

DRAWS = 40
"""Sets of parameters behind an interval."""
SAMPLED_STEPS = 600
"""Steps of a schedule whose times are taken again with every set of parameters."""


@dataclass(frozen=True)
class Answer:
    """Predicted metrics of one point; times in µs."""

    point: Point
    metrics: Mapping[str, Prediction] = field(default_factory=dict[str, Prediction])
    """Metric -> prediction, for all of `Point.measured`'s names; `output_tokens_per_s` in tokens a second."""
    refusal: str | None = None
    """Why there is none."""
    reasons: tuple[str, ...] = ()
    """What makes it less sure than a measured deployment is."""

    @property
    def answered(self) -> bool:
        """Whether anything is predicted."""
        return self.refusal is None


def answer(point: Point, calibration: Calibration) -> Answer:
    """Serve the point's load with a calibration of its deployment. Raises InputError where its GPUs cannot."""
    deployment = calibration.deployment
    server, load = server_of(point, deployment), load_of(point)
    tables = deployment.serving(server).tables
    served = replay(load.run(server), tables, calibration.parameters)
    return Answer(point, predicted(load, served, tables, calibration))


def statistics(load: Load, served: Replay) -> dict[str, float]:
    """What a benchmark client prints of a replay: µs, and tokens a second."""
    done = served.completed
    if not done.any():
        return {}
    ttft, e2e, tokens = served.ttft_us[done], served.e2e_us[done], load.output_tokens[done]
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


def predicted(load: Load, served: Replay, tables: ComponentTables, calibration: Calibration) -> dict[str, Prediction]:
    """The figures of a replay, each with an interval from the parameters' uncertainty."""
    figures = statistics(load, served)
    draws = calibration.draws(DRAWS)
    ratios = _ratios(served, tables, calibration.parameters, draws, figures)
    wider = wider_for(calibration.deployment.engine.name)
    return {
        name: Prediction.of_draws(value, value * ratios[name.split("_")[0]]).stretched(wider)
        for name, value in figures.items()
    }


def _ratios(
    served: Replay, tables: ComponentTables, parameters: Parameters, draws: Floats, figures: Mapping[str, float]
) -> dict[str, Floats]:
    """How many times as long TTFT, TPOT and E2E are with each set of parameters, for the schedule as it is.

    Decoding takes the times of steps in which tokens are decoded, a first token what it waits for besides: steps that
    compute prompts, and the way from the client to the queue and back. (draws,) each.
    """
    steps, durations = served.schedule.steps, served.schedule.step_time_us
    stride = max(1, steps.length // SAMPLED_STEPS)
    sampled = StepSums.from_columns(steps.columns()[::stride])
    usual = durations[::stride]
    request = parameters.request
    aside = request.queueing_us + request.pipeline_delay_us
    decoding, prompting = usual * sampled.decode_tokens, usual * (sampled.prefill_tokens > 0)
    decode, first, beside = np.ones(len(draws)), np.ones(len(draws)), np.ones(len(draws))
    for i, values in enumerate(draws):
        drawn = Parameters.of(values)
        ratio = step_times(tables, sampled, drawn.step) / usual
        decode[i] = float(np.average(ratio, weights=decoding)) if decoding.any() else 1.0
        first[i] = float(np.average(ratio, weights=prompting)) if prompting.any() else decode[i]
        beside[i] = drawn.request.queueing_us + drawn.request.pipeline_delay_us
    ttft = figures.get("ttft_mean", 0.0)
    inside = max(0.0, ttft - aside)
    ttft_ratio = (inside * first + beside) / max(inside + aside, 1.0)
    e2e = figures.get("e2e_mean", ttft)
    e2e_ratio = ((e2e - ttft) * decode + ttft * ttft_ratio) / max(e2e, 1.0)
    return {"ttft": ttft_ratio, "tpot": decode, "e2e": e2e_ratio, "output": 1 / e2e_ratio}
