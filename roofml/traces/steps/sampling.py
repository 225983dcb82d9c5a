"""Sampling: what a table of steps is a sample of. Is it uniform, how independent are its rows, what was left out?

A step that is kept with probability p whatever went before leaves gaps between ids that are geometric, and equal
numbers in equal parts of the run. Where that does not hold (a rate limit, a sampler that keeps slow steps, a file cut
in the middle) medians over the table are not those of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2  # pyright: ignore[reportUnknownVariableType]

from roofml.traces.finding import Evidence, Finding
from roofml.traces.steps import read_steps
from roofml.traces.steps.cycles import MOST_APART, cycles
from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Floats

EXPECTED = 5.0
"""Expected count of a bin below which chi² is not to be trusted."""
BINS = 40
"""Most bins of gaps: more of them would each see a smaller part of a deviation."""
PARTS = 20
"""Equal parts of a run that are compared."""
IMPROBABLE = 1e-3
"""Below this in either test a sample is called not uniform: some two honest tables in a thousand are."""
SLOW = 2.0
"""Times the median past which a cycle counts as slow: cold prompts, pauses of the host."""


@dataclass(frozen=True)
class Sampling:
    """How one table samples the steps of its server."""

    table: str
    steps: int
    """Steps from the first sampled one to the last."""
    samples: int
    share: float
    """Of the steps, those sampled."""
    gaps_p: float
    """Chance of gaps between ids at least this far from geometric, were the sampling uniform."""
    parts_p: float
    """Chance of counts in equal parts of the run at least this uneven."""
    batch_autocorrelation: float
    """Correlation of the requests in a sampled step with those in the next sampled one."""
    cycle_autocorrelation: float
    """The same for cycle times (their ranks, for a pause of the host is no correlation) between neighbours."""
    independent: float
    """Cycles that would say as much about the mean if none depended on another: n·(1 - r)/(1 + r)."""
    cycles: int
    apart: int
    idle: int
    slow: int
    """Cycles that took more than SLOW times the median."""
    cycle_us: float
    """Median."""
    call_us: float
    """Median of `step.duration_us`."""
    mixed: float
    """Share of the samples with prefill."""

    @property
    def uniform(self) -> bool:
        """Neither gaps nor parts say otherwise."""
        return min(self.gaps_p, self.parts_p) > IMPROBABLE


@dataclass(frozen=True)
class SamplingReport:
    """A table's sampling, and what is worth knowing about it."""

    sampling: Sampling
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml doctor --json` prints it."""
        return {
            **asdict(self.sampling),
            "uniform": self.sampling.uniform,
            "findings": [asdict(finding) for finding in self.findings],
        }


def sampling_reports(paths: Sequence[Path]) -> list[SamplingReport]:
    """The sampling report of each table. Raises InputError for one that cannot be read."""
    reports: list[SamplingReport] = []
    for path in paths:
        steps = read_steps(path)
        found = sampling(steps)
        reports.append(SamplingReport(found, sampling_findings(steps, found)))
    return reports


def sampling(steps: SampledSteps, most_apart: int = MOST_APART) -> Sampling:
    """The report on one table. Raises InputError where no two neighbours make a cycle."""
    found = cycles(steps, ahead=0, most_apart=most_apart)  # whose time it is makes no difference here
    span = int(steps.id[-1]) - int(steps.id[0]) + 1
    share = len(steps) / span
    between_cycles = _autocorrelation(_ranks(found.time_us), np.diff(found.before) == 1)
    median = float(np.median(found.time_us))
    return Sampling(
        table=steps.name,
        steps=span,
        samples=len(steps),
        share=share,
        gaps_p=_gaps_p(steps, share),
        parts_p=_parts_p(steps, share),
        batch_autocorrelation=_autocorrelation(
            steps.requests.astype(np.float64), np.ones(len(steps) - 1, dtype=np.bool_)
        ),
        cycle_autocorrelation=between_cycles,
        independent=len(found) * (1 - max(between_cycles, 0.0)) / (1 + max(between_cycles, 0.0)),
        cycles=len(found),
        apart=found.apart,
        idle=found.idle,
        slow=int((found.time_us > SLOW * median).sum()),
        cycle_us=median,
        call_us=float(np.median(steps.call_us)),
        mixed=float((steps.prefill_requests > 0).mean()),
    )


def _gaps_p(steps: SampledSteps, share: float) -> float:
    """Chi² of the gaps between ids against the geometric distribution of the same share."""
    gaps = np.diff(steps.id)
    if share >= 1:
        return 1.0
    # Bins of about equal probability, so that also where single lengths are rare each expects enough. A gap is longer
    # than `longest` with probability (1 - share)^longest.
    bins = int(np.clip(len(gaps) // (2 * EXPECTED), 1, BINS))
    longest = np.unique(np.ceil(np.log1p(-np.arange(1, bins) / bins) / np.log1p(-share)))
    longer = np.concatenate(([1.0], np.exp(longest * np.log1p(-share)), [0.0]))
    expected = len(gaps) * -np.diff(longer)
    if expected[-1] < EXPECTED:  # a bin of whole lengths takes from the last
        expected = np.append(expected[:-2], expected[-2:].sum())
        longest = longest[:-1]
    counted = np.bincount(np.searchsorted(longest, gaps), minlength=len(expected))
    # The share itself was taken from the gaps: one degree of freedom less.
    return _p(float(((counted - expected) ** 2 / expected).sum()), len(expected) - 2)


def _parts_p(steps: SampledSteps, share: float) -> float:
    """Chi² of the samples in equal parts of the run: each step in or not, so that a count varies less than Poisson."""
    parts = int(min(PARTS, len(steps) // EXPECTED))
    if parts < 2 or share >= 1:
        return 1.0
    edges = np.linspace(float(steps.id[0]), float(steps.id[-1]) + 1, parts + 1)
    counted, _ = np.histogram(steps.id, edges)
    expected = len(steps) / parts
    return _p(float(((counted - expected) ** 2).sum() / (expected * (1 - share))), parts - 1)


def _p(statistic: float, freedom: int) -> float:
    return float(chi2.sf(statistic, freedom)) if freedom > 0 else 1.0


def _ranks(values: Floats) -> Floats:
    """(n,) ranks, so that a few values of a hundred times the median do not decide a correlation."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - 0.5 * (counts - 1))[inverse].astype(np.float64)


def _autocorrelation(values: Floats, neighbours: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """Correlation of each value with the next where `neighbours` (n - 1,) says that they are; 0 without variation."""
    a, b = values[:-1][neighbours], values[1:][neighbours]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def sampling_findings(steps: SampledSteps, found: Sampling) -> tuple[Finding, ...]:
    """What a reader of the table should know, worst first."""
    findings: list[Finding] = []

    def say(code: str, severity: Any, summary: str, evidence: Evidence, advice: str) -> None:
        findings.append(Finding(code, severity, summary, evidence, advice))

    if not found.uniform:
        say(
            "sampling-not-uniform",
            "warning",
            f"The steps are not a uniform sample: gaps between them are geometric with p = {found.gaps_p:.2g}, equal "
            f"parts of the run equally full with p = {found.parts_p:.2g}.",
            {"gaps_p": found.gaps_p, "parts_p": found.parts_p},
            "What is typical of the table need not be of the run. Compare with the run's requests before fitting.",
        )
    if found.slow > 0.01 * found.cycles:
        say(
            "slow-cycles",
            "warning",
            f"{found.slow} of {found.cycles} cycles took more than {SLOW:.0f} times the median.",
            {"slow": found.slow, "cycles": found.cycles, "median_us": found.cycle_us},
            "Long prompts, or pauses of the host. A fit weighs down those that nothing explains.",
        )
    say(
        "duration-not-step-time",
        "corrected",
        f"step.duration_us, {found.call_us / 1e3:.3g} ms in the median, is the time of one call of the scheduler; from "
        f"one step to the next it took {found.cycle_us / 1e3:.3g} ms.",
        {"call_us": found.call_us, "cycle_us": found.cycle_us},
        "Cycle times of neighbouring samples are used, step.duration_us is not.",
    )
    say(
        "sampling",
        "info",
        f"{found.samples} of {found.steps} steps ({100 * found.share:.1f} %), {100 * found.mixed:.0f} % of them with "
        f"prefill; {'uniform' if found.uniform else 'not uniform'} (gaps p = {found.gaps_p:.2g}, parts "
        f"p = {found.parts_p:.2g}).",
        {"samples": found.samples, "steps": found.steps, "share": found.share, "mixed": found.mixed},
        f"{found.cycles} pairs of neighbours within {MOST_APART} steps make cycles; {found.apart} are further apart, "
        f"{found.idle} had an empty batch.",
    )
    say(
        "autocorrelation",
        "info",
        f"Neighbours are alike: batches correlate with r = {found.batch_autocorrelation:.2f}, cycle times with "
        f"r = {found.cycle_autocorrelation:.2f}.",
        {
            "batch": found.batch_autocorrelation,
            "cycle": found.cycle_autocorrelation,
            "independent": found.independent,
        },
        f"About the mean cycle the table says what {found.independent:.0f} independent cycles would; split it by time, "
        "not at random.",
    )
    known = 0.0 if steps.snapshot is None else float(steps.snapshot.known.mean())
    say(
        "contexts",
        "info",
        f"Contexts of requests are known for {100 * known:.0f} % of the sampled steps.",
        {"share": known},
        "The others come from the replay of the run." if known < 1 else "No replay is needed for them.",
    )
    return tuple(findings)
