"""How accurate BLIS itself becomes: its betas, its replay, judged as native predictions are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from roofml.blis.deployment import BlisCoefficients, blis_deployment_of
from roofml.blis.fit import BlisFit, fit
from roofml.blis.replay import for_blis, replay
from roofml.calibration.calibration import Calibration
from roofml.calibration.coefficients import BlisSection
from roofml.traces.run import Run
from roofml.traces.selection import Selection, first, groups, trainable
from roofml.util.display import Shown, Table, pct
from roofml.util.errors import InputError
from roofml.validation.report import RunReport, report


def judge(run: Run, coefficients: BlisCoefficients, after: float = 0.0, until: float = 1.0) -> RunReport:
    """BLIS's errors on the requests between two shares. Raises InputError for requests it never finishes."""
    predicted = replay(for_blis(run), blis_deployment_of(run), coefficients.alphas, coefficients.betas)
    judged = Selection.between(run, after, until)
    unfinished = judged.requests & ~np.isfinite(predicted.e2e_us)
    if unfinished.any():
        raise InputError(f"{run.name}: BLIS drops {int(unfinished.sum())} requests: longer than max_model_len?")
    return report(judged, predicted)


def fit_group(group: Sequence[Run], train_fraction: float) -> BlisFit:
    """The coefficients that make BLIS most accurate on a group's runs of one model, GPU and tensor parallel size."""
    return fit([(s, blis_deployment_of(s.run)) for s in first(trainable(group), train_fraction)])


def temporal(
    runs: Sequence[Run], train_fraction: float, on_group: Callable[[str], None] | None = None
) -> list[RunReport]:
    """As `roofml.validation.cross_validation.temporal`, with coefficients for BLIS and BLIS's way of running a step."""
    reports: list[RunReport] = []
    for group in groups(runs):
        server = group[0].server
        if on_group is not None:
            on_group(f"{server.model} on {server.gpu}, TP {server.tensor_parallel}, as BLIS")
        coefficients = fit_group(group, train_fraction).coefficients
        trained = trainable(group)
        reports += [judge(run, coefficients, train_fraction if run in trained else 0.0) for run in group]
    return reports


def section_of(fitted: BlisFit, run: Run) -> BlisSection:
    """The `blis` section of a coefficients file: what BLIS needs to run the deployment that `run` measured."""
    server = run.server
    return BlisSection(
        alpha_coeffs=[round(alpha, 3) for alpha in fitted.coefficients.alphas],
        beta_coeffs=[float(f"{beta:.6g}") for beta in fitted.coefficients.betas],
        total_kv_blocks=server.num_gpu_blocks,
        block_size=server.block_size,
        max_num_seqs=server.max_num_seqs,
        max_num_batched_tokens=server.max_num_batched_tokens,
        max_model_len=server.max_model_len,
    )


def coefficients_in(section: BlisSection, where: str) -> BlisCoefficients:
    """The set in a coefficients file's `blis` section, checked as BLIS would check it."""
    return BlisCoefficients.of(section.alpha_coeffs, section.beta_coeffs, source=f"{where}: blis")


AS_BLIS = (
    "BLIS runs a step after the one before ended and has one queueing constant, so what async scheduling and a "
    "busy front end add to TTFT it can only meet on average."
)


@dataclass(frozen=True, eq=False, repr=False)
class BlisInSample(Shown):
    """The errors of BLIS with its own coefficients, on the requests that they were fitted to."""

    runs: Sequence[RunReport]

    def tables(self) -> list[Table]:
        """Errors of means by run."""
        means = ("e2e_mean", "ttft_mean", "tpot_mean")
        rows = [
            [
                run.run,
                str(run.requests),
                *(pct(run.metrics[name].error_pct) if name in run.metrics else "-" for name in means),
            ]
            for run in self.runs
        ]
        columns = ["run", "requests", "E2E %", "TTFT %", "TPOT %"]
        return [Table("the same requests as BLIS with its own coefficients", columns, rows, AS_BLIS)]


def with_blis(calibration: Calibration, runs: Sequence[Run]) -> tuple[Calibration, BlisInSample]:
    """The calibration with coefficients for BLIS, fitted to the same requests, and what they reach on them."""
    fitted = fit_group(runs, calibration.train_fraction)
    reports = [judge(run, fitted.coefficients, until=calibration.train_fraction) for run in runs]
    return replace(calibration, blis=section_of(fitted, runs[0])), BlisInSample(reports)
