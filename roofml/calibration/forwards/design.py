"""Design: which exact batches to time next, for what is known already and for the steps that are to be predicted.

Bayesian I-optimal (`calibration.information`): of all batches that a server allows, those that leave the least variance
of the logarithm of step times, averaged over the steps wanted. Linear around several sets of parameter values that may
be true, for which of two overlapping resources is the longer depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.forwards.cases import Case, Limits, candidates
from roofml.calibration.forwards.fit import CASE_SD, unseen_by_forwards
from roofml.calibration.forwards.offsets import CLIENT, OFFSET_PRIOR, OFFSET_SD, STAIR_SD, stairs
from roofml.calibration.forwards.times import Timed
from roofml.calibration.information import Belief, after, chosen, variances
from roofml.calibration.posterior import UNDECIDED
from roofml.calibration.prediction import NORMAL_REACH
from roofml.latency.bare_forward import bare_tables, sums_of
from roofml.latency.batch import StepSums
from roofml.latency.parameters import NAMES
from roofml.util.arrays import Floats
from roofml.util.display import Shown, Table, us

CASES = 40
"""As many as a design has where nobody says how many: a minute or two of GPU time."""
SPREAD_SD = 0.003
"""Relative standard deviation of a case's timing on a quiet GPU: the benchmark calls 0.5 % unstable."""
DRAWS = 4
"""Sets of parameters that may be true, beside the middle, for which a design is to be good."""
MOST_WANTED = 400
"""Steps of a load that a design looks at."""
GROUPED = (
    "where it says `Using real routing` (experts in groups, as DeepSeek has), dummy weights chose the experts: such "
    "a case says little of them; give it real weights with --load-format auto"
)
NEARLY = 1.1
"""The first cases are enough if the interval is at most so many times as wide as after all of them."""
STOP = 0.1
"""Share of the interval that the next cases must remove at least for them to be worth a run."""
CASE_S, REPLAYS, LOADING_S = 2.0, 130, 60.0
"""Seconds of a case besides its replays: a second of warming up, and capture; its replays, eager ones and those of the
profiler among them; and seconds before the first, for dummy weights and memory profiling."""
MOST_CASE_S = 25.0
"""Seconds of replays that a case may take: what a longer prompt says, a shorter one says nearly as well."""


@dataclass(frozen=True, eq=False, repr=False)
class Design(Shown):
    """Batches to time, and what they would tell."""

    calibration: Calibration
    limits: Limits
    cases: tuple[Case, ...]
    """Best first."""
    expected_us: Floats
    """(cases,) time of each by what is known."""
    wanted: str
    """Which steps are to be predicted, in words."""
    before_pct: float
    """Half of the 90 % interval of a step's time, median over the steps wanted, %: today."""
    after_pct: float
    """After these cases."""
    floor_pct: float
    """If no case were left to time."""
    enough: int
    """The first so many cases do nearly as well as all of them."""
    identified: tuple[str, ...]
    """Parameters that the cases would decide: less than half of their variance would be left."""
    open: tuple[str, ...]
    """Step parameters that matter to the steps wanted and that no forward tells of."""

    @property
    def seconds(self) -> float:
        """What the benchmark will take, about."""
        return LOADING_S + float(np.sum(CASE_S + REPLAYS * self.expected_us / 1e6))

    @property
    def stop(self) -> bool:
        """Whether these cases are not worth their time."""
        return self.after_pct > (1 - STOP) * self.before_pct

    @property
    def verdict(self) -> str:
        """What to do, in a sentence or two."""
        shrink = f"±{self.before_pct:.1f} % today, ±{self.after_pct:.1f} % after these cases"
        said = f"90 % interval of step times, median over {self.wanted}: {shrink}; the least is ±{self.floor_pct:.1f} %"
        if self.stop:
            return f"{said}. Stop here: more cases narrow it by less than {100 * STOP:.0f} %."
        few = f" The first {self.enough} do nearly as well." if self.enough < len(self.cases) else ""
        return f"{said}.{few}"

    @property
    def reservations(self) -> list[str]:
        """What stands in the way of timing these batches."""
        found = [GROUPED] if self.calibration.deployment.tables.experts else []
        if "/" not in self.calibration.deployment.hf_repo:
            found.append(f"{self.calibration.deployment.hf_repo}: put its Hub repository, or a folder with its config")
        return found

    def shapes(self) -> dict[str, Any]:
        """The file of `--shapes`."""
        return {"cases": [case.to_dict() for case in self.cases]}

    def tables(self) -> list[Table]:
        """The cases."""
        deployment = self.calibration.deployment
        rows = [
            [case.name, case.syntax, str(case.new_tokens), us(time)]
            for case, time in zip(self.cases, self.expected_us, strict=True)
        ]
        columns = ["case", "requests", "new tokens", "expected"]
        return [Table(f"{deployment.title}: {len(self.cases)} batches to time", columns, rows, self.verdict)]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml design --json` prints it."""
        deployment = self.calibration.deployment
        return {
            "model": deployment.model.name,
            "gpu": deployment.gpu.name,
            "tp": deployment.tp,
            **self.shapes(),
            "expected_us": dict(zip((case.name for case in self.cases), self.expected_us.tolist(), strict=True)),
            "seconds": self.seconds,
            "wanted": self.wanted,
            "enough": self.enough,
            "interval_90_pct": {"before": self.before_pct, "after": self.after_pct, "floor": self.floor_pct},
            "stop": self.stop,
            "identified": list(self.identified),
            "open": list(self.open),
        }


def spread_of_steps(calibration: Calibration, limits: Limits) -> StepSums:
    """Steps as servers make them, where no load is given: batches, contexts and chunks of all sizes, evenly spread.

    Even in the logarithms (Halton's sequences), a quarter of them with a prompt among the decodes.
    """
    most = min(limits.requests, 256)
    longest = min(limits.longest - 1, 16384)
    steps: list[list[tuple[int, int, int]]] = []
    for number in range(1, MOST_WANTED + 1):
        batch = _spread(number, 2, 1, most)
        context = _spread(number, 3, min(64, longest), longest)
        if limits.blocks is not None:
            room = limits.blocks // max(1, sum(group.blocks(context + 1, limits.budget) for group in limits.groups))
            batch = max(1, min(batch, room))
        step = [(1, context, 0)] * batch
        if number % 4 == 0:
            new = _spread(number, 5, 16, max(16, min(limits.budget - batch, limits.longest - 1)))
            step = [*step, (new, 0, new)]
        steps.append(step)
    return StepSums.from_requests(steps, calibration.deployment.tables.reaches)


def _spread(number: int, base: int, low: int, high: int) -> int:
    """The number-th of a sequence that fills low to high evenly in the logarithm (Halton)."""
    place, factor = 0.0, 1.0
    while number:
        factor /= base
        place += factor * (number % base)
        number //= base
    return round(float(np.exp(np.log(low) + place * (np.log(high) - np.log(low)))))


def steps_of_load(steps: StepSums) -> StepSums:
    """At most MOST_WANTED steps of a replayed load, evenly through it; those of no request are left out."""
    busy = np.flatnonzero(steps.requests > 0)
    return steps.at(busy[np.linspace(0, len(busy) - 1, min(MOST_WANTED, len(busy))).astype(np.int64)])


def design(
    calibration: Calibration,
    limits: Limits,
    steps: StepSums | None = None,
    *,
    count: int = CASES,
    wanted: str = "a load's steps",
) -> Design:
    """The `count` batches that tell most of `steps`, or of a spread of them, given what the calibration knows."""
    cases = candidates(limits)
    bare = bare_tables(calibration.deployment, limits.budget)
    timed = Timed.of(sums_of([case.requests for case in cases], bare), bare, bare=True)
    times, _ = timed.times_and_slopes(calibration.values, OFFSET_PRIOR)
    short = np.flatnonzero(times <= max(1e6 * MOST_CASE_S / REPLAYS, float(np.quantile(times, 0.5))))
    cases, times, timed = [cases[place] for place in short], times[short], timed.at(short)
    if steps is None:
        steps, wanted = spread_of_steps(calibration, limits), "steps as servers make them"
    served = calibration.deployment.reaching(int(steps.new_tokens.max())).tables
    target = Timed.of(steps, served, bare=False)
    (sizes,) = stairs([case.new_tokens for case in cases])
    covariance = joint(calibration.posterior.covariance, sizes.shape[1])
    beliefs = [_belief(timed, sizes, target, values) for values in (calibration.values, *calibration.draws(DRAWS))]
    picked = chosen(covariance, beliefs, count)
    middle = beliefs[0]
    halves = [
        _half_pct(after(covariance, middle.rows[np.array(picked[:first])]), middle.wanted)
        for first in range(1, len(picked) + 1)
    ]
    left = after(covariance, middle.rows[np.array(picked)])
    least = after(covariance, middle.rows)
    size = len(NAMES)
    before_sd = np.diag(covariance)[:size]
    share = np.diag(left)[:size] / np.maximum(before_sd, 1e-300)
    return Design(
        calibration=calibration,
        limits=limits,
        cases=tuple(cases[place] for place in picked),
        expected_us=times[picked],
        wanted=wanted,
        before_pct=_half_pct(covariance, middle.wanted),
        after_pct=halves[-1],
        floor_pct=_half_pct(least, middle.wanted),
        enough=1 + next(place for place, half in enumerate(halves) if half <= NEARLY * halves[-1]),
        identified=tuple(name for name, of in zip(NAMES, share, strict=True) if of < UNDECIDED),
        open=_open(calibration, middle.wanted),
    )


def joint(covariance: Floats, sizes: int) -> Floats:
    """(parameters + offsets + sizes,) squared: what is known of parameters, and the priors of what is a benchmark's."""
    own = np.concatenate((OFFSET_SD, np.full(sizes, STAIR_SD)))
    full = np.zeros((len(covariance) + len(own),) * 2)
    full[: len(covariance), : len(covariance)] = covariance
    full[len(covariance) :, len(covariance) :] = np.diag(own**2)
    return full


def _belief(timed: Timed, sizes: Floats, target: Timed, values: Floats) -> Belief:
    _, rows = timed.times_and_slopes(values, OFFSET_PRIOR)
    _, wanted = target.times_and_slopes(values, OFFSET_PRIOR)
    none = np.zeros((len(wanted), sizes.shape[1]))
    return Belief(np.hstack((rows, sizes)) / np.hypot(CASE_SD, SPREAD_SD), np.hstack((wanted, none)))


def _half_pct(covariance: Floats, wanted: Floats) -> float:
    return 100 * NORMAL_REACH * float(np.median(np.sqrt(np.maximum(variances(covariance, wanted), 0.0))))


def _open(calibration: Calibration, wanted: Floats, least: float = 0.02) -> tuple[str, ...]:
    """Parameters that no forward tells of and that make at least a share `least` of the variance wanted."""
    covariance = calibration.posterior.covariance
    total = float(np.mean(variances(covariance, wanted[:, : len(NAMES)])))
    found: list[tuple[float, str]] = []
    for name in unseen_by_forwards(calibration.deployment):
        place = NAMES.index(name)
        share = float(np.mean(wanted[:, place] ** 2)) * covariance[place, place] / max(total, 1e-300)
        if share > least:
            found.append((share, name))
    return tuple(name for _, name in sorted(found, reverse=True))


def said_of_open(names: Sequence[str]) -> str:
    """What stays open, for people."""
    listed = f" ({', '.join(names)})" if names else ""
    return f"no exact batch tells of {CLIENT}{listed}: fit a client's file beside it, `roofml fit out.json RUN`"
