"""Protocol: what `evaluate` was asked to do, checked before anything long begins, and done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roofml.calibration.calibrate import load_for_runs, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.means import MeansRun
from roofml.calibration.other_models import read_other_models
from roofml.calibration.step_level.fit import StepData
from roofml.latency.deployment import deployment_of
from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups
from roofml.util.errors import InputError
from roofml.validation import as_blis, cross_validation, splits
from roofml.validation.evaluation import Evaluation, evaluate
from roofml.validation.mean_runs import judge_means
from roofml.validation.report import RunReport
from roofml.validation.step_report import JudgedCycles, judge_cycles

GIVEN = "coeffs"
"""The protocol of coefficients that are taken as they are."""
ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Plan:
    """One way to judge runs."""

    protocol: str
    fraction: float
    """Share of each run that is fitted, or skipped."""
    as_blis: bool
    """Whether BLIS's coefficients are judged, in BLIS's way of running."""

    @property
    def judges_cycles(self) -> bool:
        """Whether cycle times of sampled steps can be judged as well."""
        return not self.as_blis and self.protocol not in ("lomo", "lowo", "load")

    def check(self, runs: Sequence[Run], coeffs: Path | None, means: Sequence[MeansRun] = ()) -> Calibration | None:
        """Say whatever is wrong with the last group before the first is fitted, and load what is given.

        Raises InputError.
        """
        if means and (self.as_blis or self.protocol not in (GIVEN, ZERO_SHOT)):
            how = "--target blis" if self.as_blis else f"protocol {self.protocol}"
            expected = f"expected --coeffs or --protocol {ZERO_SHOT}"
            raise InputError(f"{means[0].told.name}: means alone, which {how} cannot judge: {expected}")
        together = [*runs, *(each.run for each in means)]
        if coeffs is not None:
            calibration, together = load_for_runs(coeffs, together)
            runs = together[: len(runs)]
            if self.as_blis and calibration.blis is None:
                raise InputError(f"{coeffs}: blis: missing; fit with --target blis")
            for run in runs:
                Selection.between(run, self.fraction)
            return calibration
        for group in groups(together):
            deployment_of(group)
        for group in groups(runs):
            for run in group:
                Selection.between(run, 0.0 if run.saturated and self.protocol == "temporal" else self.fraction)
        self.folds(runs)
        return None

    def folds(self, runs: Sequence[Run]) -> int:
        """How many fits or replays it takes. Raises InputError where the runs do not allow the protocol."""
        if self.protocol in (GIVEN, ZERO_SHOT):
            return len(runs)
        if self.protocol == "temporal":
            return len(groups(runs))
        return len({"lomo": splits.lomo, "lowo": splits.lowo, "load": splits.load}[self.protocol](runs))

    def evaluate(
        self,
        runs: Sequence[Run],
        given: Calibration | None,
        steps: Sequence[StepData],
        on_fold: Callable[[str], None],
        means: Sequence[MeansRun] = (),
    ) -> Evaluation:
        """Do it, with what `check` loaded. `on_fold` is called with what is left out, before each fold."""
        evaluation = self._evaluate(runs, given, steps, on_fold)
        if not means:
            return evaluation
        reports: list[RunReport] = []
        for each in means:
            on_fold(each.told.name)
            calibration = given if given is not None else uncalibrated(deployment_of([each.run]))
            reports.append(judge_means(each, calibration))
        return replace(evaluation, runs=[*evaluation.runs, *reports])

    def _evaluate(
        self, runs: Sequence[Run], given: Calibration | None, steps: Sequence[StepData], on_fold: Callable[[str], None]
    ) -> Evaluation:
        """The same of runs with the times of their requests."""
        if given is not None:
            if not self.as_blis:
                return evaluate(given, runs, after=self.fraction, steps=steps)
            assert given.blis is not None
            coefficients = as_blis.coefficients_in(given.blis, str(given.path))
            on_gpu = [run.on(given.deployment.gpu.name) for run in runs]
            reports = [as_blis.judge(run, coefficients, self.fraction) for run in on_gpu]
            return Evaluation(GIVEN, self.fraction, self._caption(given.path), reports)
        others, fits = read_other_models(), list[Calibration]()
        if self.as_blis:
            reports = as_blis.temporal(runs, self.fraction, on_fold)
        elif self.protocol == "temporal":
            reports, fits = cross_validation.temporal(runs, self.fraction, on_fold, others.prior)
        elif self.protocol == "lomo":
            reports, fits = cross_validation.lomo(runs, on_fold)
        elif self.protocol == "lowo":
            reports, fits = cross_validation.lowo(runs, on_fold, others.prior)
        elif self.protocol == "load":
            reports, fits = cross_validation.load(runs, on_fold, others.prior)
        else:
            reports = cross_validation.zero_shot(runs, others, self.fraction, on_fold)
        return Evaluation(
            protocol=self.protocol,
            train_fraction=self.fraction,
            caption=self._caption(None),
            runs=reports,
            left_out=[run.name for run in splits.of_one_stage(runs)] if self.protocol == "load" else (),
            cycles=[self._cycles(data, runs[data.run], fits) for data in steps],
            converged=all(fitted.converged for fitted in fits),
            warnings=[doubt for fitted in fits for doubt in fitted.doubts],
        )

    def _cycles(self, data: StepData, run: Run, fits: Sequence[Calibration]) -> JudgedCycles:
        """By the fit that has seen the run's server, else by what is believed before any."""
        for fitted in fits:
            if any(seen.identity == run.identity for seen in fitted.runs):
                return judge_cycles(data, run, fitted, self.fraction)
        return judge_cycles(data, run, uncalibrated(deployment_of([run])), self.fraction)

    def _caption(self, coeffs: Path | None) -> str:
        share = f"{self.fraction:.0%}"
        rest = f"judged on requests after the first {share}" if self.fraction else "judged on all requests"
        how = {
            GIVEN: f"coefficients {coeffs}, {rest}",
            "temporal": f"fitted on the first {share} of each run, judged on the rest",
            "lomo": "what the other models' runs say of each model",
            "lowo": "each run judged by a fit of its model's other runs",
            "load": "fitted on each run's stage of the lowest rate, judged on the stages above it",
            ZERO_SHOT: f"without a trace of the model: physics and what other models taught, {rest}",
        }[self.protocol]
        return f"{how}; errors in %, + is too slow"


def planned(protocol: str | None, train_fraction: float | None, *, given: bool, as_blis: bool) -> Plan:
    """The plan that an `evaluate` command line asks for; `given`: with coefficients as they are.

    Raises InputError, naming the options, for what does not go together.
    """
    if given and protocol is not None:
        raise InputError("--coeffs and --protocol: expected one of them; a protocol fits its own coefficients")
    if protocol is None:
        protocol = GIVEN if given else "temporal" if train_fraction is not None or as_blis else ZERO_SHOT
    elif protocol not in (*splits.PROTOCOLS, ZERO_SHOT):
        raise InputError(f"--protocol {protocol!r}: expected {', '.join(splits.PROTOCOLS)} or {ZERO_SHOT}")
    if as_blis and protocol not in (GIVEN, "temporal"):
        raise InputError(f"--target blis: expected --protocol temporal, not {protocol}")
    if train_fraction is not None and protocol == "load":
        raise InputError("--train-fraction: protocol load splits runs by their rate: leave it away")
    if train_fraction is not None and protocol in ("lomo", "lowo"):
        raise InputError(f"--train-fraction: protocol {protocol} leaves out whole runs: leave it away")
    fraction = train_fraction if train_fraction is not None else (0.6 if protocol == "temporal" else 0.0)
    if not 0 <= fraction < 1 or (protocol == "temporal" and fraction == 0):
        raise InputError(f"--train-fraction {fraction:g}: expected at least 0 (more for temporal) and less than 1")
    return Plan(protocol, fraction, as_blis)
