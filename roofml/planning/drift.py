"""Drift: does a calibration still hold on a new run of its server, or of another of its kind?

`check` replays the run with the calibration's parameters, without any pace of the run's own, and asks what its
requests' latencies are off by (`residuals`), what of that is noise (`noise`) and which change explains the rest
(`changes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from roofml.calibration.calibrate import load_for_runs
from roofml.calibration.calibration import Calibration
from roofml.calibration.coefficients import read_coefficients
from roofml.calibration.seen_range import beyond
from roofml.engine.replay import replay as serve
from roofml.latency.parameters import BY_NAME
from roofml.planning.changes import FRONT_END, Change, Found, find_change, server_sd_of
from roofml.planning.deployments import Calibrated, differences
from roofml.planning.residuals import Residuals, residuals_of, settled
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.display import Shown, Table
from roofml.util.errors import InputError

Verdict = Literal["holds", "slower", "faster", "component", "outside", "mismatch"]

OUTSIDE_PCT, OUTSIDE_ROOM = 5.0, 0.15
"""Share of a run's steps, in %, that may leave the calibrated range by more than so much of its ends: peaks of a random
load are seldom as high again."""
LARGEST_ERROR = 0.03
"""A change that is known no better than this, with 90 % probability, for the noise of a short run is not judged."""
REACH = 1.645
"""Standard deviations to each end of a 90 % interval."""
FOUND = 2.05 + 1.28
"""Standard deviations of a change that is found 9 times in 10, at `changes.PACE_ALARM`."""
FAR = 0.35
"""Steps that are so much longer or shorter are another GPU's or model's (`judge.FARTHEST_RATIO`)."""
ADVICE: dict[Verdict, str] = {
    "slower": "If it stays so, look at clocks, power limits, temperature and neighbours, or fit this run.",
    "faster": "If it stays so, fit this run.",
    "component": "Look for what changed in the server; fit this run if it stays so.",
    "outside": "Fit a run of this load as well.",
    "mismatch": "Give the coefficients of this deployment, or fit this run.",
}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a verdict rests on, for a picture."""

    residuals: Residuals
    found: Found


@dataclass(frozen=True, eq=False, repr=False)
class Drift(Shown):
    """Whether a calibration holds on a run."""

    run: str
    source: str
    """The calibration."""
    verdict: Verdict
    reasons: tuple[str, ...]
    """What was found, in sentences."""
    value_pct: float | None = None
    """By how much longer the mean step takes than calibrated; mean TTFT for a part of the front end. None: unknown."""
    interval_90_pct: tuple[float, float] | None = None
    component: str | None = None
    """The parameter that changed, where one did and the load tells."""
    since_request: int | None = None
    """Place in the run of the first request sent after the change; 0: it was there from the start. None: no change."""
    requests: int = 0
    """Requests that were judged."""
    nameable: tuple[str, ...] = ()
    """Components that this load tells from all others, should one make the mean step 3 % longer."""
    explained_as_well: tuple[str, ...] = ()
    """Components that explain a change as well as all steps together do."""
    warnings: tuple[str, ...] = ()
    """What was taken on trust."""
    evidence: Evidence | None = field(default=None, repr=False)

    def fails(self, above_pct: float | None = None) -> bool:
        """Whether to act: unless it holds; with `above_pct` if the change is surely larger, or not known at all."""
        if above_pct is None:
            return self.verdict != "holds"
        if self.interval_90_pct is None:
            return True
        low, high = self.interval_90_pct
        return low > above_pct or high < -above_pct

    @property
    def advice(self) -> str:
        """What to do, in a sentence; empty where there is nothing to do."""
        return ADVICE.get(self.verdict, "")

    def tables(self) -> list[Table]:
        """The verdict, and what to do."""
        rows = [["verdict", self.verdict]]
        if self.value_pct is not None and self.interval_90_pct is not None:
            low, high = self.interval_90_pct
            what = "TTFT" if self.component in FRONT_END else "steps"
            rows.append([f"{what} take longer by", f"{self.value_pct:+.2f} % ({low:+.2f} to {high:+.2f})"])
        if self.component is not None:
            rows.append(["component", self.component])
        if self.since_request:
            rows.append(["since request", f"{self.since_request:,}"])
        if self.requests:
            rows.append(["requests judged", f"{self.requests:,}"])
        caption = " ".join(text for text in (*self.reasons, self.advice) if text)
        return [Table(f"{self.run}, by {self.source}", ["check", ""], rows, caption)]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml check --json` prints it."""
        interval = self.interval_90_pct
        return {
            "verdict": self.verdict,
            "change_pct": {"value": self.value_pct, "interval_90": None if interval is None else list(interval)},
            "component": self.component,
            "since_request": self.since_request,
            "run": self.run,
            "requests": self.requests,
            "reasons": list(self.reasons),
            "advice": self.advice,
            "explained_as_well": list(self.explained_as_well),
            "nameable": list(self.nameable),
        }


def check_file(path: Path, run: Run, *, after: float = 0.0) -> Drift:
    """As `check`, for a coefficients file, which may be of a deployment that is not at hand. Raises as `load` does."""
    read = read_coefficients(path)
    run = run.on(read.gpu)
    differing = differences(Calibrated.in_file(read), run)
    if differing.deployment:
        return Drift(run.name, str(path), "mismatch", tuple(f"{text}." for text in differing.all))
    calibration, runs = load_for_runs(path, [run])
    return check(calibration, runs[0], after=after)


def check(calibration: Calibration, run: Run, *, after: float = 0.0) -> Drift:
    """Whether the calibration holds on the requests of `run` after a share of it.

    Raises InputError for a calibration that was fitted to nothing, for a run whose server cannot be, and for one that
    says too little: too short, nothing answered.
    """
    run = run.on(calibration.deployment.gpu.name)
    if not calibration.fitted:
        raise InputError(f"{calibration.source}: nothing was fitted that could still hold")
    differing = differences(Calibrated.by(calibration), run)
    said = tuple(f"{text}." for text in differing.all)
    if differing.deployment:
        return Drift(run.name, calibration.source, "mismatch", said)
    warnings = (*calibration.doubts, *calibration.unfit(run))
    if run.saturated and not any(seen.identity == run.identity for seen in calibration.runs):
        text = "The queue grew until the end: steps at overload are longer by 0 to 28 % for reasons not known."
        return Drift(run.name, calibration.source, "mismatch" if said else "outside", (*said, text), warnings=warnings)
    judged = settled(Selection.between(run, after))
    residuals = residuals_of(calibration, judged)
    found = find_change(calibration, residuals)
    # Of the load itself, as the calibrated server would have met it: a slower one has larger batches, and is slower.
    as_calibrated = serve(run, calibration.deployment.serving(run.server).tables, calibration.parameters).schedule
    left = beyond(as_calibrated.steps, calibration.posterior.valid, OUTSIDE_PCT, OUTSIDE_ROOM)
    _check_long_enough(run, judged, found)
    verdict, change = _verdict(found)
    reasons = _reasons(found, change, verdict, server_sd_of(calibration))
    if said or left:
        verdict = "mismatch" if said else "outside"
        reasons = (*said, *(f"{of.sentence[0].upper()}{of.sentence[1:]}." for of in left), *reasons)
    reach = REACH * change.sd
    low, high, value = (100 * math.expm1(change.growth + off) for off in (-reach, reach, 0.0))
    return Drift(
        run=run.name,
        source=calibration.source,
        verdict=verdict,
        reasons=reasons,
        value_pct=value,
        interval_90_pct=(low, high),
        component=change.component,
        since_request=None if found.change is None else _since(run, change),
        requests=len(judged),
        nameable=found.nameable,
        explained_as_well=found.explained_as_well,
        warnings=warnings,
        evidence=Evidence(residuals, found),
    )


def _verdict(found: Found) -> tuple[Verdict, Change]:
    """The verdict by the latencies alone, and the change it is about."""
    if found.change is None:
        return "holds", found.pace
    change = found.change
    if change.component is not None:
        return "component", change
    if change.since_us is None:  # of the whole run: the plain mean is the better estimate
        change = found.pace
    return ("slower" if change.growth > 0 else "faster"), change


def _since(run: Run, change: Change) -> int:
    """Place of the first request sent after the change."""
    return 0 if change.since_us is None else int(np.searchsorted(run.arrival_us, change.since_us))


def _reasons(found: Found, change: Change, verdict: Verdict, server_sd: float) -> tuple[str, ...]:
    """What was found, in sentences."""
    if verdict == "holds":
        seen = FOUND * math.hypot(found.pace.sd, server_sd)
        shown = f"A change of {100 * seen:.1f} % would have shown 9 times in 10."
        if abs(change.growth) < REACH * change.sd:
            return (shown,)
        return (f"Steps differ, by no more than servers of one kind do (sd {100 * server_sd:.1f} %).", shown)
    since = "" if change.since_us is None else f" since {change.since_us / 1e6:.0f} s into the run"
    pct = abs(100 * math.expm1(change.growth))
    word = "longer" if change.growth > 0 else "shorter"
    if change.component is not None:
        what = "time to first token" if change.component in FRONT_END else "the mean step"
        meaning = BY_NAME[change.component].meaning
        text = f"One thing explains it best: {change.component} ({meaning}) makes {what} {pct:.1f} % {word}{since}."
        return (text,)
    sentences = [f"Steps take {pct:.1f} % {word}{since}."]
    if found.explained_as_well:
        sentences.append(f"This load does not tell it from a change of {', '.join(found.explained_as_well)} alone.")
    if abs(change.growth) > math.log1p(FAR):
        sentences.append("That is as much as between two GPUs or models: is the run of this one?")
    return tuple(sentences)


def _check_long_enough(run: Run, judged: Selection, found: Found) -> None:
    """Raise InputError for a run that shows no change, and could not."""
    error = REACH * found.noise_of_mean_sd
    if found.change is None and error > LARGEST_ERROR:
        times = math.ceil((error / LARGEST_ERROR) ** 2)
        raise InputError(
            f"{run.name}: too short to check: its {len(judged)} requests tell steps to ±{100 * error:.1f} %, expected "
            f"±{100 * LARGEST_ERROR:.0f} % or better: record {times} times as many"
        )
