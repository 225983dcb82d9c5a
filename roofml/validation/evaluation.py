"""Evaluation: how far predictions are off on held-out requests, by a protocol or with a calibration as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.prediction import Prediction
from roofml.calibration.step_level.fit import StepData
from roofml.engine.replay import Replay
from roofml.latency.doubts import by_size
from roofml.latency.launches import said_of_launches
from roofml.traces.aggregate_run import AggregateRun
from roofml.traces.run import Run, told_apart
from roofml.traces.selection import Selection
from roofml.util.display import Shown, Table, digits, pct, us, us_range
from roofml.util.errors import InputError
from roofml.validation.inter_token import inter_token
from roofml.validation.report import RunReport, report, summary
from roofml.validation.step_report import JudgedCycles, cycle_table, judge_cycles

SETTINGS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "num_gpu_blocks",
    "max_model_len",
    "prefix_caching",
    "async_scheduling",
    "fresh",
    "engine_version",
    "kv_dtype",
)
"""Facts of a server by which another one than the measured is asked about."""
HEADINGS = {
    "e2e_mean": "E2E",
    "ttft_mean": "TTFT",
    "tpot_mean": "TPOT",
    "e2e_p99": "p99 E2E",
    "ttft_p99": "p99 TTFT",
    "tpot_p99": "p99 TPOT",
}


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Shown):
    """Errors by run, and their summary. Saturated runs stand apart."""

    protocol: str
    train_fraction: float
    caption: str
    """How it was judged, for people to read."""
    runs: Sequence[RunReport]
    cycles: Sequence[JudgedCycles] = ()
    """Cycle times of sampled steps."""
    warnings: Sequence[str] = ()
    """Where predictions leave what a fit has seen, and what was taken on trust."""
    converged: bool = True
    """Whether every fit behind it settled."""
    left_out: Sequence[str] = ()
    """Names of the runs that the protocol `load` cannot judge: they have one stage."""

    def tables(self) -> list[Table]:
        """Errors by run, of normal runs with their summary, then of those at overload; then cycle times."""
        columns = ["run", "requests", *HEADINGS.values(), "request |E2E|"]
        normal = [run for run in self.runs if not run.saturated]
        saturated = [run for run in self.runs if run.saturated]
        shown: list[Table] = []
        caption = self.caption
        left_out = f"left out, of one stage: {', '.join(self.left_out)}" if self.left_out else ""
        if left_out:
            caption += f"; {left_out}"
        if normal:
            uncertain = _uncertain(normal)
            overall = summary(normal)
            rows = [_row(run, uncertain) for run in normal]
            for title, key in (("mean |error|", "mean_abs_error_pct"), ("worst", "max_abs_error_pct")):
                figures = [f"{overall[name][key]:.2f}" if name in overall else "-" for name in HEADINGS]
                single = f"{overall['request_e2e_mape'][key]:.2f}" if "request_e2e_mape" in overall else "-"
                rows.append([title, "", *figures, single, *([""] if uncertain else [])])
            if uncertain:
                covered = [run.metrics["e2e_mean"].covered for run in normal if "e2e_mean" in run.metrics]
                caption += f"; measured E2E inside its interval in {sum(covered)} of {len(covered)} runs"
            shown.append(Table("", [*columns, *(["E2E, 90 %"] if uncertain else [])], rows, caption))
        if saturated:
            uncertain = _uncertain(saturated)
            rows = [_row(run, uncertain) for run in saturated]
            title = "saturated runs, never fitted where others are"
            said = [_completions(run) for run in saturated if run.completed is not None]
            completed = "; ".join([*([left_out] if left_out and not normal else []), *said])
            shown.append(Table(title, [*columns, *(["E2E, 90 %"] if uncertain else [])], rows, completed))
        return [*shown, *([cycle_table(self.cycles, "cycle times of sampled steps")] if self.cycles else [])]

    def exceeds(self, limit_pct: float) -> bool:
        """Whether the mean |error| of mean E2E over runs that are not saturated is above a limit, %, or unknown."""
        overall = summary([run for run in self.runs if not run.saturated])
        return "e2e_mean" not in overall or overall["e2e_mean"]["mean_abs_error_pct"] > limit_pct

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `roofml evaluate`. `summary` is over runs that are not saturated; those stand apart."""
        return {
            "protocol": self.protocol,
            "train_fraction": self.train_fraction,
            "runs": [run.to_dict() for run in self.runs],
            "summary": summary([run for run in self.runs if not run.saturated]),
            "summary_saturated": summary([run for run in self.runs if run.saturated]),
            **({"left_out": list(self.left_out)} if self.protocol == "load" else {}),
            **({"steps": [cycle.to_dict() for cycle in self.cycles]} if self.cycles else {}),
        }


def check_limit_applies(runs: Sequence[Run | AggregateRun]) -> None:
    """Raise InputError where every run is saturated: `Evaluation.exceeds` has none to judge by."""
    if all(run.saturated for run in runs):
        raise InputError("--fail-above: every run is saturated: no normal one has an E2E to judge by")


def _uncertain(runs: Sequence[RunReport]) -> bool:
    return any(metric.interval_us for run in runs for metric in run.metrics.values())


def _completions(run: RunReport) -> str:
    """How many requests were answered before their client went."""
    measured, predicted = run.completed or (0, 0)
    return f"{run.run}: {predicted:,} requests complete, {measured:,} did; each mean is over its own"


def _row(run: RunReport, uncertain: bool) -> list[str]:
    errors = [pct(run.metrics[name].error_pct) if name in run.metrics else "-" for name in HEADINGS]
    interval = run.metrics["e2e_mean"].interval_us if "e2e_mean" in run.metrics else None
    last = [us_range(*interval) if interval else ""] if uncertain else []
    single = f"{run.request_e2e_mape_pct:.2f}" if np.isfinite(run.request_e2e_mape_pct) else "-"
    return [run.run, str(run.requests), *errors, single, *last]


@dataclass(frozen=True, eq=False, repr=False)
class ReplayedRun(Shown):
    """One run served again, beside what was measured."""

    run: Run
    predicted: Replay
    report: RunReport
    trusted: Sequence[str]
    """What was taken on trust, in sentences that name the run."""
    outside: Sequence[str]
    """Where its steps leave what a fit has seen."""
    inter_token: Mapping[str, Prediction] = field(default_factory=dict[str, Prediction])
    """Inter-token latency, µs, where the server sends several tokens at a time."""

    @property
    def what_if(self) -> list[str]:
        """Settings that the user has otherwise than the run's own files: another server than the measured one, if the
        files are right. What differs then is no error."""
        told = [finding.evidence for finding in self.run.findings if finding.code == "flag-overrules-file"]
        return [f"{each['field']} {each['flag']}" for each in told if each["field"] in SETTINGS]

    @property
    def warnings(self) -> list[str]:
        """Both, for a reader who knows which run it is."""
        asked = (
            [f"{self.run.name}: served with {', '.join(self.what_if)}, and measured without: what differs is no error"]
            if self.what_if
            else []
        )
        return [*asked, *self.trusted, *self.outside]

    @property
    def facts(self) -> Mapping[str, float]:
        """What the schedule was like."""
        schedule = self.predicted.schedule
        steps = schedule.steps
        return {
            "steps": steps.length,
            "mean_batch": float(steps.requests.mean()),
            "largest_batch": float(steps.requests.max()),
            "cached_share_of_prompts": float(schedule.cached_tokens.sum() / self.run.prompt_tokens.sum()),
            "preemptions": float(schedule.preemptions.sum()),
        }

    def tables(self) -> list[Table]:
        """Latencies measured and predicted."""
        uncertain = any(metric.interval_us for metric in self.report.metrics.values())
        rows = [
            [
                name,
                us(metric.measured_us),
                us(metric.predicted_us),
                f"x {digits(metric.predicted_us / metric.measured_us)}" if self.what_if else pct(metric.error_pct),
                *([us_range(*metric.interval_us)] if metric.interval_us else []),
            ]
            for name, metric in self.report.metrics.items()
        ]
        rows += [
            [name, "-", us(said.value), "-", *([us_range(*said.interval_90)] if said.interval_90 else [])]
            for name, said in self.inter_token.items()
        ]
        caption = f"{_completions(self.report)}. " if self.report.completed is not None else ""
        caption += ", ".join(
            f"{key.replace('_', ' ')} {f'{value:,.0f}' if value == int(value) else digits(value, 4)}"
            for key, value in self.facts.items()
        )
        compared = ["as measured", "what if", "change"] if self.what_if else ["measured", "predicted", "error %"]
        columns = ["latency", *compared, *(["90 % interval"] if uncertain else [])]
        return [Table(self.run.name, columns, rows, caption)]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml replay --json` prints it."""
        client = {
            name: {
                "predicted_us": said.value,
                **({} if said.interval_90 is None else {"interval_90_us": list(said.interval_90)}),
            }
            for name, said in self.inter_token.items()
        }
        every = self.run.server.settings.stream_interval
        streamed = {"streaming": {"stream_interval": every, **client}} if client else {}
        told: dict[str, Any] = {**self.report.to_dict(), **streamed, "schedule": dict(self.facts)}
        if not self.what_if:
            return told
        metrics = {name: {**of.to_dict(), "error_pct": None} for name, of in self.report.metrics.items()}
        return {**told, "metrics": metrics, "request_e2e_mape_pct": None, "what_if": self.what_if}

    def columns(self) -> dict[str, Any]:
        """Predicted requests, column by column; times in µs."""
        schedule = self.predicted.schedule
        return {
            "request_id": self.run.request_id,
            "arrival_us": self.run.arrival_us,
            "ttft_us": self.predicted.ttft_us,
            "e2e_us": self.predicted.e2e_us,
            "first_step": schedule.first_step,
            "last_step": schedule.last_step,
            "cached_tokens": schedule.cached_tokens,
            "preemptions": schedule.preemptions,
        }


def replay_run(calibration: Calibration, judged: Selection, progress: Any = None) -> ReplayedRun:
    """Serve a run again, and judge the selected requests, with intervals."""
    run = judged.run
    predicted = calibration.replay(run, progress)
    spread = calibration.replays(run, served=predicted, judged=judged)
    judged_run = report(judged, predicted, spread)
    schedule, tables = predicted.schedule, calibration.deployment.serving(run.server).tables
    launched = said_of_launches(schedule.step_time_us, schedule.steps.new_tokens, tables)
    outside = [*calibration.outside(schedule.steps), *launched]
    streamed = inter_token(judged, predicted, spread)
    trusted = [*calibration.warnings_for(run), *(doubt.sentence for doubt in by_size(spread.doubts))]
    return ReplayedRun(run, predicted, judged_run, trusted, outside, streamed)


def evaluate(
    calibration: Calibration,
    runs: Sequence[Run],
    *,
    after: float = 0.0,
    until: float = 1.0,
    steps: Sequence[StepData] = (),
) -> Evaluation:
    """Judge a calibration as it is on the requests between the shares `after` and `until` of each run.

    The replay always starts at the run's beginning. `steps` are tables of sampled steps of the runs, to judge cycle
    times after the same share as well. Raises InputError for a run of another model, GPU or tensor parallel size, and
    where no successful request is left to judge.
    """
    runs = [run.on(calibration.deployment.gpu.name) for run in told_apart(runs)]
    judged = [Selection.between(run, after, until) for run in runs]
    for run in runs:
        calibration.check(run)
    replayed = [replay_run(calibration, selection) for selection in judged]
    name = f"coefficients {calibration.path}" if calibration.path is not None else f"with {calibration.source}"
    rest = f"judged on requests after the first {after:.0%}" if after else "judged on all requests"
    return Evaluation(
        protocol="coeffs",
        train_fraction=after,
        caption=f"{name}, {rest}; errors in %, + is too slow",
        runs=[served.report for served in replayed],
        cycles=[judge_cycles(data, runs[data.run], calibration, after) for data in steps],
        warnings=list(
            dict.fromkeys(
                text
                for served in replayed
                for text in (*served.trusted, *(f"{served.run.name}: {step}" for step in served.outside))
            )
        ),
    )
