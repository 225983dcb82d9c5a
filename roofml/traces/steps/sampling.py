"""Sampling: whether a table is a uniform sample of its run's steps, how independent its rows are, what was left out.

If every step is kept with the same probability, whatever came before, the gaps between ids are geometric and equal
parts of the run have equal numbers of steps. If not (a rate limit, a sampler that keeps slow steps, a file cut in the
middle), medians over the table are not those of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2  # pyright: ignore[reportUnknownVariableType]

from roofml.traces.finding import Finding
from roofml.traces.steps import read_steps
from roofml.traces.steps.cycles import MOST_APART, cycles
from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Bools, Floats

EXPECTED = 5.0
"""Least expected count of a bin for which chi² can be trusted."""
BINS = 40
"""Most bins of gaps. With more, each would see a smaller part of a deviation."""
PARTS = 20
"""Number of equal parts of a run that are compared."""
IMPROBABLE = 1e-3
"""Least p-value of both tests for a uniform sample: about two uniform tables in a thousand fall below."""
SLOW = 2.0
"""Multiple of the median above which a cycle counts as slow: cold prompts, pauses of the host."""


@dataclass(frozen=True)
class Sampling:
    """How one table samples the steps of its server."""

    table: str
    steps: int
    """Steps from the first sampled step to the last."""
    samples: int
    share: float
    """Share of the steps that were sampled."""
    gaps_p: float
    """Probability of gaps between ids at least this far from geometric if the sampling is uniform."""
    parts_p: float
    """Probability of counts in equal parts of the run at least this uneven if the sampling is uniform."""
    batch_autocorrelation: float
    """Correlation of the number of requests in a sampled step with that in the next sampled step."""
    cycle_autocorrelation: float
    """Correlation of the ranks of neighbouring cycle times. With ranks, a pause of the host is no correlation."""
    independent: float
    """Number of independent cycles that would say as much about the mean: n·(1 - r)/(1 + r)."""
    cycles: int
    apart: int
    idle: int
    slow: int
    """Cycles that took more than SLOW times the median."""
    cycle_us: float
    """Median cycle time."""
    call_us: float
    """Median of `step.duration_us`."""
    mixed: float
    """Share of the samples with prefill."""

    @property
    def uniform(self) -> bool:
        """Neither test rejects a uniform sample."""
        return min(self.gaps_p, self.parts_p) > IMPROBABLE


@dataclass(frozen=True)
class SamplingReport:
    """How a table samples its steps, and the findings about it."""

    sampling: Sampling
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as `roofml doctor --json` prints it."""
        return {
            **asdict(self.sampling),
            "uniform": self.sampling.uniform,
            "findings": [asdict(finding) for finding in self.findings],
        }


def sampling_reports(paths: Sequence[Path]) -> list[SamplingReport]:
    """The sampling report of each table. Raises InputError for a table that cannot be read."""
    reports: list[SamplingReport] = []
    for path in paths:
        steps = read_steps(path)
        sample = sampling(steps)
        reports.append(SamplingReport(sample, sampling_findings(steps, sample)))
    return reports


def sampling(steps: SampledSteps, most_apart: int = MOST_APART) -> Sampling:
    """How one table samples its steps. Raises InputError if no two neighbours make a cycle."""
    neighbours = cycles(steps, ahead=0, most_apart=most_apart)  # which steps the time covers makes no difference here
    span = int(steps.id[-1]) - int(steps.id[0]) + 1
    share = len(steps) / span
    between_cycles = _autocorrelation(_ranks(neighbours.time_us), np.diff(neighbours.before) == 1)
    median = float(np.median(neighbours.time_us))
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
        independent=len(neighbours) * (1 - max(between_cycles, 0.0)) / (1 + max(between_cycles, 0.0)),
        cycles=len(neighbours),
        apart=neighbours.apart,
        idle=neighbours.idle,
        slow=int((neighbours.time_us > SLOW * median).sum()),
        cycle_us=median,
        call_us=float(np.median(steps.call_us)),
        mixed=float((steps.prefill_requests > 0).mean()),
    )


def _gaps_p(steps: SampledSteps, share: float) -> float:
    """P-value by chi² of the gaps between ids against the geometric distribution of the same share."""
    gaps = np.diff(steps.id)
    if share >= 1:
        return 1.0
    # Bins have about equal probability, so that each expects enough gaps even if single lengths are rare. A gap is
    # longer than `longest` with probability (1 - share)^longest.
    bins = int(np.clip(len(gaps) // (2 * EXPECTED), 1, BINS))
    longest = np.unique(np.ceil(np.log1p(-np.arange(1, bins) / bins) / np.log1p(-share)))
    longer = np.concatenate(([1.0], np.exp(longest * np.log1p(-share)), [0.0]))
    expected = len(gaps) * -np.diff(longer)
    if expected[-1] < EXPECTED:  # bins end at whole lengths, which takes from the last
        expected = np.append(expected[:-2], expected[-2:].sum())
        longest = longest[:-1]
    counted = np.bincount(np.searchsorted(longest, gaps), minlength=len(expected))
    # The share was estimated from the gaps, which costs one degree of freedom.
    return _p(float(((counted - expected) ** 2 / expected).sum()), len(expected) - 2)


def _parts_p(steps: SampledSteps, share: float) -> float:
    """P-value by chi² of the samples in equal parts of the run. Counts are binomial: they vary less than Poisson's."""
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
    """(n,) ranks: with them a few values of a hundred times the median do not decide a correlation."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - 0.5 * (counts - 1))[inverse].astype(np.float64)


def _autocorrelation(values: Floats, neighbours: Bools) -> float:
    """Correlation of each value with the next where `neighbours` (n - 1,) is True; 0 without variation."""
    a, b = values[:-1][neighbours], values[1:][neighbours]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def sampling_findings(steps: SampledSteps, sample: Sampling) -> tuple[Finding, ...]:
    """Findings about the sample, worst first."""
    own = steps.own_us is not None
    warnings = [finding for finding in _warnings(sample) if not (own and finding.code == "duration-not-step-time")]
    return (*steps.findings, *warnings, *_facts(steps, sample))


def _warnings(sample: Sampling) -> Iterator[Finding]:
    """What is unusual about the sample, and what was corrected."""
    if not sample.uniform:
        yield Finding(
            "sampling-not-uniform",
            "warning",
            f"The steps are not a uniform sample: gaps between them are geometric with p = {sample.gaps_p:.2g}, equal "
            f"parts of the run equally full with p = {sample.parts_p:.2g}.",
            {"gaps_p": sample.gaps_p, "parts_p": sample.parts_p},
            "What is typical of the table need not be of the run. Compare with the run's requests before fitting.",
        )
    if sample.slow > 0.01 * sample.cycles:
        yield Finding(
            "slow-cycles",
            "warning",
            f"{sample.slow} of {sample.cycles} cycles took more than {SLOW:.0f} times the median.",
            {"slow": sample.slow, "cycles": sample.cycles, "median_us": sample.cycle_us},
            "Long prompts, or pauses of the host. A fit weighs down those that nothing explains.",
        )
    yield Finding(
        "duration-not-step-time",
        "corrected",
        f"step.duration_us, {sample.call_us / 1e3:.3g} ms in the median, is the time of one call of the scheduler; "
        f"from one step to the next it took {sample.cycle_us / 1e3:.3g} ms.",
        {"call_us": sample.call_us, "cycle_us": sample.cycle_us},
        "Cycle times of neighbouring samples are used, step.duration_us is not.",
    )


def _facts(steps: SampledSteps, sample: Sampling) -> Iterator[Finding]:
    """What the sample is."""
    yield Finding(
        "sampling",
        "info",
        f"{sample.samples} of {sample.steps} steps ({100 * sample.share:.1f} %), {100 * sample.mixed:.0f} % of them "
        f"with prefill; {'uniform' if sample.uniform else 'not uniform'} (gaps p = {sample.gaps_p:.2g}, parts "
        f"p = {sample.parts_p:.2g}).",
        {"samples": sample.samples, "steps": sample.steps, "share": sample.share, "mixed": sample.mixed},
        f"Each of {sample.cycles} steps has a time of its own, {sample.apart} have none."
        if steps.own_us is not None
        else f"{sample.cycles} pairs of neighbours within {MOST_APART} steps make cycles; {sample.apart} are further "
        f"apart, {sample.idle} had an empty batch.",
    )
    yield Finding(
        "autocorrelation",
        "info",
        f"Neighbours are alike: batches correlate with r = {sample.batch_autocorrelation:.2f}, cycle times with "
        f"r = {sample.cycle_autocorrelation:.2f}.",
        {
            "batch": sample.batch_autocorrelation,
            "cycle": sample.cycle_autocorrelation,
            "independent": sample.independent,
        },
        f"About the mean cycle the table says what {sample.independent:.0f} independent cycles would; split it by "
        "time, not at random.",
    )
    share = 0.0 if steps.snapshot is None else float(steps.snapshot.known.mean())
    yield Finding(
        "contexts",
        "info",
        f"Contexts of requests are known for {100 * share:.0f} % of the sampled steps.",
        {"share": share},
        "The others come from the replay of the run." if share < 1 else "No replay is needed for them.",
    )
