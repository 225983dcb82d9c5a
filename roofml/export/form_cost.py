"""What BLIS's form costs a deployment: its coefficients and ours on one run, each in its own replay."""

from __future__ import annotations

from dataclasses import dataclass

from roofml.blis.deployment import BlisDeployment
from roofml.blis.fit import RunErrors, errors_of
from roofml.blis.replay import replay as replay_blis
from roofml.calibration.calibration import Calibration
from roofml.export.deployment import BlisExport
from roofml.export.trace import as_replayed
from roofml.traces.run import Run
from roofml.util.errors import InputError


@dataclass(frozen=True)
class FormCost:
    """Signed errors of means over the measured requests, %, by our replays of BLIS and of vLLM."""

    as_blis: RunErrors
    ours: RunErrors | None
    """None where there is no calibration of ours, or it cannot be replayed on this run."""

    def line(self) -> str:
        """For people."""
        blis = f"BLIS's form, in our replay of it: {_said(self.as_blis)}"
        return blis if self.ours is None else f"{blis}; our form on the same run: {_said(self.ours)}"


def form_cost(run: Run, deployment: BlisDeployment, export: BlisExport, native: Calibration | None) -> FormCost:
    """Replay `run` both ways. Raises InputError for a run that BLIS would not finish."""
    predicted = replay_blis(as_replayed(run), deployment, export.coefficients.alphas, export.coefficients.betas)
    as_blis, ours = errors_of(run, predicted.ttft_us, predicted.e2e_us), None
    if native is not None:
        try:
            replayed = native.replay(run)
        except InputError:  # what BLIS serves in its own way, and our replay refuses
            return FormCost(as_blis, None)
        ours = errors_of(run, replayed.ttft_us, replayed.e2e_us)
    return FormCost(as_blis, ours)


def _said(errors: RunErrors) -> str:
    return f"E2E {errors.e2e_pct:+.1f} %, TTFT {errors.ttft_pct:+.1f} %, TPOT {errors.tpot_pct:+.1f} %"
