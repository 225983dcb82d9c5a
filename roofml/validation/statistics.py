"""Statistics of held-out errors: figures, intervals and tests to judge methods by. Pure functions of arrays, no I/O.

What to use when: `figures` for one run; `bootstrap_interval` for how far the mean error over runs may be off;
`wilcoxon` and `compare` for whether one method beats another; `inversions` for whether predictions put runs in the
right order; `step_figures` for step times. Neighbouring requests shared steps and queues, so nothing here takes them
for independent: what is resampled and paired are contiguous blocks of requests, or runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from roofml.util.arrays import Floats, Ints

LATENCIES = ("e2e", "ttft", "tpot")
BLOCKS = 20
"""Blocks of a run: few enough that a block outlasts what neighbours share, enough for a standard deviation."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Judged:
    """The judged requests of one run in order of arrival, measured and predicted. Arrays (requests,), times in µs."""

    arrival_us: Floats
    output_tokens: Ints
    measured_ttft_us: Floats
    predicted_ttft_us: Floats
    measured_e2e_us: Floats
    predicted_e2e_us: Floats

    def __post_init__(self) -> None:
        """Raise ValueError for arrays of several lengths, or none at all."""
        lengths = {name: len(cast("Floats", values)) for name, values in vars(self).items()}
        if len(set(lengths.values())) != 1 or not len(self.arrival_us):
            raise ValueError(f"expected arrays of one length and at least one request, got {lengths}")

    def pair(self, metric: str) -> tuple[Floats, Floats]:
        """Measured and predicted e2e, ttft or tpot of the requests that have it, in order of arrival.

        A request has a TPOT when it made more than one token and they did not all come in one chunk.
        """
        if metric == "e2e":
            return self.measured_e2e_us, self.predicted_e2e_us
        if metric == "ttft":
            return self.measured_ttft_us, self.predicted_ttft_us
        if metric != "tpot":
            raise ValueError(f"metric {metric!r}: expected one of {', '.join(LATENCIES)}")
        decode_us = self.measured_e2e_us - self.measured_ttft_us
        several = (self.output_tokens > 1) & (decode_us > 0)
        gaps = self.output_tokens[several] - 1
        return decode_us[several] / gaps, (self.predicted_e2e_us - self.predicted_ttft_us)[several] / gaps


def _error_pct(measured: float, predicted: float) -> float:
    return 100 * (predicted / measured - 1)


def figures(judged: Judged) -> dict[str, Any]:
    """Every figure of one run: of e2e, ttft, tpot and throughput, measured, predicted and the signed error in %.

    Under each latency: `mean`, `p50`, `p90`, `p99` (linear between order statistics, µs); `mape_pct`, the mean over
    requests of |predicted/measured - 1|; `bias_pct`, the same signed. `throughput` is output tokens a second between
    the first arrival and the last completion of the judged requests. A latency that no request has is left out.
    """
    result: dict[str, Any] = {}
    for metric in LATENCIES:
        measured, predicted = judged.pair(metric)
        if not len(measured):
            continue
        found: dict[str, Any] = {}
        for name, level in (("mean", None), ("p50", 50), ("p90", 90), ("p99", 99)):
            truth, guess = (
                float(np.mean(v) if level is None else np.percentile(v, level)) for v in (measured, predicted)
            )
            found[name] = {"measured_us": truth, "predicted_us": guess, "error_pct": _error_pct(truth, guess)}
        relative = predicted / measured - 1
        found["mape_pct"] = 100 * float(np.mean(np.abs(relative)))
        found["bias_pct"] = 100 * float(np.mean(relative))
        result[metric] = found
    tokens = float(np.sum(judged.output_tokens))
    truth, guess = (
        1e6 * tokens / float(np.max(judged.arrival_us + e2e) - np.min(judged.arrival_us))
        for e2e in (judged.measured_e2e_us, judged.predicted_e2e_us)
    )
    result["throughput"] = {
        "measured_tokens_per_s": truth,
        "predicted_tokens_per_s": guess,
        "error_pct": _error_pct(truth, guess),
    }
    return result


def blocks(n: int, count: int = BLOCKS) -> Ints:
    """Edges (count + 1,) of contiguous blocks of `n` requests whose sizes differ by one at most.

    Block b is requests edges[b] to edges[b + 1] - 1. Fewer requests than blocks: one request a block.
    """
    if n < 1 or count < 1:
        raise ValueError(f"{count} blocks of {n} requests: expected at least one of each")
    count = min(n, count)
    return np.arange(count + 1, dtype=np.int64) * n // count


def block_sums(values: Floats, count: int = BLOCKS) -> Floats:
    """Sums of `values` (requests,) over its blocks, shape (blocks,)."""
    return np.asarray(np.add.reduceat(values, blocks(len(values), count)[:-1]), np.float64)


def block_errors(judged: Judged, metric: str, count: int = BLOCKS) -> Floats:
    """|error| of the mean of a latency over each block of requests, %, shape (blocks,)."""
    measured, predicted = judged.pair(metric)
    return 100 * np.abs(block_sums(predicted, count) / block_sums(measured, count) - 1)


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    pairs: Sequence[tuple[Floats, Floats]],
    count: int = BLOCKS,
    resample_runs: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean over runs of |error of the run's mean|, %, with its interval. `pairs`: measured, predicted of each run.

    Block bootstrap (Carlstein 1986): each resample draws as many contiguous blocks as a run has, with replacement, and
    the run's error is that of the blocks' summed latencies. `resample_runs` draws the runs as well: the interval is
    then for runs of this kind and not for these alone. |error| folds at 0, where noise alone makes it positive and a
    percentile interval may lie beside its own estimate; so the interval reaches as far to both sides as the farther
    quantile does, and not below 0. Away from 0 that is the percentile interval; where errors are all noise the estimate
    is too, and the interval reaches 0 in about four cases of five.
    """
    sums = [(block_sums(measured, count), block_sums(predicted, count)) for measured, predicted in pairs]
    if not sums:
        raise ValueError("no run to resample")
    held = np.array([len(measured) for measured, _ in sums])
    padded = np.zeros((2, len(sums), int(held.max())))
    for run, both in enumerate(sums):
        padded[:, run, : held[run]] = both
    estimate = float(np.mean(_run_errors(padded.sum(axis=2))))

    random = np.random.default_rng(seed)
    runs = np.broadcast_to(np.arange(len(sums)), (resamples, len(sums)))
    if resample_runs:
        runs = random.integers(0, len(sums), runs.shape)
    drawn = (random.random((*runs.shape, padded.shape[2])) * held[runs][:, :, None]).astype(np.int64)
    inside = np.arange(padded.shape[2]) < held[runs][:, :, None]
    totals = np.where(inside, padded[:, runs[:, :, None], drawn], 0.0).sum(axis=3)
    means = _run_errors(totals).mean(axis=1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    reach = max(estimate - float(low), float(high) - estimate)
    return Interval(estimate, max(0.0, estimate - reach), estimate + reach)


def _run_errors(totals: Floats) -> Floats:
    """(measured and predicted, ..., runs) sums -> |error| of each, %."""
    return 100 * np.abs(totals[1] / totals[0] - 1)


@dataclass(frozen=True)
class Paired:
    """A signed-rank test of ours against theirs."""

    statistic: float
    """Sum of the ranks of pairs in which ours is larger: 0 where it never is."""
    p: float
    """Probability of a statistic as small if neither were better."""
    median_difference: float
    """Of ours - theirs over all pairs: negative where ours is smaller."""
    n: int
    """Pairs that differ."""


def wilcoxon(ours: Floats, theirs: Floats) -> Paired:
    """Are ours smaller? Wilcoxon's paired signed-rank test (1945), one-sided, over runs or blocks, shape (pairs,).

    Equal pairs say nothing and are left out, as Wilcoxon did; where all are equal p is 1. Few pairs are tested exactly
    (up to 50, or 13 where differences tie), more by the normal approximation.
    """
    from scipy import stats

    if ours.shape != theirs.shape or ours.ndim != 1:
        raise ValueError(f"pairs of shapes {ours.shape} and {theirs.shape}")
    difference = ours - theirs
    if not np.all(np.isfinite(difference)):
        raise ValueError("a pair without a number")
    median = float(np.median(difference)) if len(difference) else 0.0
    different = difference[difference != 0]
    if not len(different):
        return Paired(0.0, 1.0, median, 0)
    found: Any = cast("Any", stats).wilcoxon(different, alternative="less", method="auto")
    return Paired(float(found.statistic), float(found.pvalue), median, len(different))


def holm(p: Floats) -> Floats:
    """P-values (tests,) corrected for being several, so that the whole family errs with 5 % at most (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1.0)
    return result


@dataclass(frozen=True)
class Comparison:
    """Our method against the best of the others by one metric."""

    other: str
    ours_mean: float
    """Mean of our errors over units, in their unit."""
    other_mean: float
    test: Paired
    p_holm: float
    """The test's p, corrected for the number of metrics."""


def compare(errors: Mapping[str, Mapping[str, Floats]], ours: str) -> dict[str, Comparison]:
    """Test our method against the best other by every metric. `errors`: metric -> method -> |errors| (units,).

    Units are runs or blocks, the same for every method. The best other has the smallest mean: chosen on the same
    data as it is tested on, which is in its favour and against ours. Raises ValueError where there is no other.
    """
    found: dict[str, tuple[str, Paired]] = {}
    for metric, by_method in errors.items():
        others = {name: float(np.mean(values)) for name, values in by_method.items() if name != ours}
        if ours not in by_method or not others:
            raise ValueError(f"{metric}: expected {ours} and another method, got {', '.join(by_method) or 'none'}")
        best = min(others, key=lambda name: others[name])
        found[metric] = best, wilcoxon(by_method[ours], by_method[best])
    corrected = holm(np.array([test.p for _, test in found.values()]))
    return {
        metric: Comparison(
            best, float(np.mean(errors[metric][ours])), float(np.mean(errors[metric][best])), test, float(p)
        )
        for (metric, (best, test)), p in zip(found.items(), corrected, strict=True)
    }


@dataclass(frozen=True)
class Order:
    """How well predictions order runs."""

    inverted: int
    """Pairs that the predictions put the wrong way round."""
    pairs: int
    """Pairs that count."""
    tau: float
    """Kendall's: (right - wrong) / pairs, 1 where all are right; 0 where no pair counts. A predicted tie is neither."""


def inversions(measured: Floats, predicted: Floats, tolerance: float = 0.0) -> Order:
    """Pairs of runs whose order by a figure, p99 say, is inverted by its predictions. Both (runs,).

    Pairs whose measured values differ by no more than `tolerance`, relative to the larger, do not count: which of the
    two is slower is then not known either. Kendall (1938).
    """
    if measured.shape != predicted.shape or measured.ndim != 1:
        raise ValueError(f"runs of shapes {measured.shape} and {predicted.shape}")
    i, j = np.triu_indices(len(measured), 1)
    apart = measured[i] - measured[j]
    counts = np.abs(apart) > tolerance * np.maximum(np.abs(measured[i]), np.abs(measured[j]))
    agreement = (np.sign(apart) * np.sign(predicted[i] - predicted[j]))[counts]
    pairs = int(counts.sum())
    return Order(int(np.sum(agreement < 0)), pairs, float(agreement.mean()) if pairs else 0.0)


def step_figures(measured: Floats, predicted: Floats) -> dict[str, float]:
    """Errors of step or cycle times, both (steps,) and in the same unit.

    `mape_pct` and `median_abs_error_pct` of |predicted/measured - 1|, `bias_pct` its signed mean, and `pearson_r`, 0
    where either does not vary.
    """
    if measured.shape != predicted.shape or measured.ndim != 1 or not len(measured):
        raise ValueError(f"steps of shapes {measured.shape} and {predicted.shape}")
    relative = predicted / measured - 1
    a, b = measured - measured.mean(), predicted - predicted.mean()
    # A constant leaves a rounding error where it has its mean taken off: that is no variation.
    varies = all(np.ptp(values) > 1e-12 * np.max(np.abs(values)) for values in (measured, predicted))
    return {
        "mape_pct": 100 * float(np.mean(np.abs(relative))),
        "median_abs_error_pct": 100 * float(np.median(np.abs(relative))),
        "bias_pct": 100 * float(np.mean(relative)),
        "pearson_r": float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1)) if varies else 0.0,
    }
