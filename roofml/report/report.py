"""The report of a calibration on runs: every section that can be written of them, in reading order."""

from __future__ import annotations

from collections.abc import Sequence

from roofml.calibration.calibration import Calibration
from roofml.report import sections
from roofml.report.blocks import Page, Section
from roofml.traces.run import Run, told_apart
from roofml.traces.selection import Selection
from roofml.util.errors import InputError
from roofml.validation.evaluation import Evaluation, replay_run
from roofml.validation.report import summary


def make_report(
    calibration: Calibration,
    runs: Sequence[Run],
    *,
    after: float = 0.0,
    more: Sequence[Section] = (),
    words: Sequence[str] = ("roofml", "report"),
) -> Page:
    """The page of a calibration, judged on what comes after the share `after` of each run's requests.

    `more` are sections of what was asked of the calibration besides; without any, latency is drawn over closed loops on
    the first run's server. `words` are the command that this is. Raises InputError for no run, for a run of another
    deployment, and where no request is left to judge.
    """
    if not runs:
        raise InputError("no run to report on")
    runs = [run.on(calibration.deployment.gpu.name) for run in told_apart(runs)]
    for run in runs:
        calibration.check(run)
    judged = [Selection.between(run, after) for run in runs]
    replayed = [replay_run(calibration, selection) for selection in judged]
    told = dict.fromkeys(text for served in replayed for text in served.trusted)
    told |= dict.fromkeys(f"{served.run.name}: {text}" for served in replayed for text in served.outside)
    rest = f"judged on requests after the first {after:.0%} of each run" if after else "judged on all requests"
    evaluation = Evaluation("coeffs", after, f"{rest}; errors in %, + is too slow", [r.report for r in replayed],
                            warnings=list(told))  # fmt: skip
    return Page(
        f"{calibration.deployment.title}: calibration report",
        _lead(evaluation, len(runs)),
        [
            sections.measured(runs),
            sections.accurate(evaluation, calibration, runs, after),
            *(more or [sections.closed_loops(calibration, runs[0])]),
            sections.step_parts(calibration, runs),
            sections.over_time(replayed, judged),
            sections.parameters(calibration),
            sections.provenance(calibration, runs, words),
        ],
    )


def _lead(evaluation: Evaluation, count: int) -> str:
    """The result in a sentence."""
    normal = [run for run in evaluation.runs if not run.saturated]
    overall = summary(normal)
    which = f"{len(normal)} {'run' if len(normal) == 1 else 'runs'}"
    beside = f", {count - len(normal)} at overload apart" if count > len(normal) else ""
    parts = [
        f"{name} to {overall[key]['mean_abs_error_pct']:.2f} % (worst {overall[key]['max_abs_error_pct']:.2f})"
        for key, name in (("e2e_mean", "E2E"), ("tpot_mean", "TPOT"), ("ttft_mean", "TTFT"))
        if key in overall
    ]
    if not parts:
        return f"No run of the {count} is below overload: see the errors of each."
    return f"Mean latencies of {which} are predicted, on average, {', '.join(parts)}{beside}."


def usual_after(calibration: Calibration, runs: Sequence[Run]) -> float:
    """The share of each run that a report leaves out if nobody says: what was fitted, if that was a part of these."""
    learned = {seen.identity for seen in calibration.runs}
    held_out = calibration.train_fraction < 1 and any(run.identity in learned for run in runs)
    return calibration.train_fraction if held_out else 0.0
