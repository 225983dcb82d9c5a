"""Statistics of held-out errors: figures, intervals and tests to judge methods by. Pure functions of arrays, no I/O.

- `figures`: the errors of one run
- `bootstrap_interval`: how far the mean error over runs may be off
- `wilcoxon` and `holm`: whether one method beats another
- `inversions`: whether predictions put runs in the right order
- `step_figures`: the errors of step times
- `interval_figures`: whether intervals mean what they say

Neighbouring requests shared steps and queues, so nothing here takes them for independent: contiguous blocks of
requests, or runs, are resampled and paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from roofml.util.arrays import Floats, Ints

LATENCIES = ("e2e", "ttft", "tpot")
BLOCKS = 20
"""Blocks of a run: so few that a block outlasts what neighbours share, and enough for a standard deviation."""
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Judged:
    """The judged requests of one run in order of arrival, measured and predicted. Arrays (requests,), times in µs."""

    arrival_us: Floats
    output_tokens: Ints
    measured_ttft_us: Floats
    predicted_ttft_us: Floats
    measured_e2e_us: Floats
    predicted_e2e_us: Floats

    def __post_init__(self) -> None:
        """Raise ValueError for arrays of several lengths, and for no requests."""
        lengths = {name: len(cast("Floats", values)) for name, values in vars(self).items()}
        if len(set(lengths.values())) != 1 or not len(self.arrival_us):
            raise ValueError(f"expected arrays of one length and at least one request, got {lengths}")

    def pair(self, metric: str) -> tuple[Floats, Floats]:
        """Return the measured and predicted e2e, ttft or tpot, µs, of the requests that have it, in order of arrival.

        A request has a TPOT if it made more than one token and the tokens came in more than one chunk. Raises
        ValueError for another metric.
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
    """Return every figure of one run: e2e, ttft, tpot and throughput, measured and predicted, with signed errors in %.

    Each latency has `mean`, `p50`, `p90`, `p99` (linear between order statistics, µs); `mape_pct`, the mean over
    requests of |predicted/measured - 1|; `bias_pct`, the same signed. `throughput` is output tokens a second between
    the first arrival and the last completion of the judged requests. A latency that no request has is left out.
    """
    result: dict[str, Any] = {}
    for metric in LATENCIES:
        measured, predicted = judged.pair(metric)
        if not len(measured):
            continue
        of_metric: dict[str, Any] = {}
        for name, level in (("mean", None), ("p50", 50), ("p90", 90), ("p99", 99)):
            truth, guess = (
                float(np.mean(v) if level is None else np.percentile(v, level)) for v in (measured, predicted)
            )
            of_metric[name] = {"measured_us": truth, "predicted_us": guess, "error_pct": _error_pct(truth, guess)}
        relative = predicted / measured - 1
        of_metric["mape_pct"] = 100 * float(np.mean(np.abs(relative)))
        of_metric["bias_pct"] = 100 * float(np.mean(relative))
        result[metric] = of_metric
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
    """Return the edges (count + 1,) of contiguous blocks of `n` requests whose sizes differ by one at most.

    Block b holds requests edges[b] to edges[b + 1] - 1. If there are fewer requests than blocks, a block holds one
    request. Raises ValueError for fewer than one request or block.
    """
    if n < 1 or count < 1:
        raise ValueError(f"{count} blocks of {n} requests: expected at least one of each")
    count = min(n, count)
    return np.arange(count + 1, dtype=np.int64) * n // count


def block_sums(values: Floats, count: int = BLOCKS) -> Floats:
    """Return the sums of `values` (requests,) over its blocks, shape (blocks,)."""
    return np.asarray(np.add.reduceat(values, blocks(len(values), count)[:-1]), np.float64)


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its interval."""

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
    """Return the mean over runs of |error of the run's mean|, %, with its interval.

    `pairs` has the measured and the predicted latencies of each run, both (requests,). This is the block bootstrap
    (Carlstein 1986): each resample draws as many contiguous blocks as a run has, with replacement, and the run's error
    is the error of the summed latencies. `resample_runs` draws the runs as well, so that the interval holds for runs of
    this kind and not for these runs alone.

    |error| folds at 0: noise alone makes it positive, and a percentile interval may lie beside its own estimate. So the
    interval reaches as far to both sides as the farther quantile does, and not below 0. Away from 0 it is the
    percentile interval. If errors are all noise, so is the estimate, and the interval reaches 0 in about four cases of
    five. Raises ValueError for no runs.
    """
    sums = [(block_sums(measured, count), block_sums(predicted, count)) for measured, predicted in pairs]
    if not sums:
        raise ValueError("no run to resample")
    counts = np.array([len(measured) for measured, _ in sums])
    padded = np.zeros((2, len(sums), int(counts.max())))
    for run, block_pair in enumerate(sums):
        padded[:, run, : counts[run]] = block_pair
    estimate = float(np.mean(_run_errors(padded.sum(axis=2))))

    random = np.random.default_rng(seed)
    runs = np.broadcast_to(np.arange(len(sums)), (resamples, len(sums)))
    if resample_runs:
        runs = random.integers(0, len(sums), runs.shape)
    drawn = (random.random((*runs.shape, padded.shape[2])) * counts[runs][:, :, None]).astype(np.int64)
    inside = np.arange(padded.shape[2]) < counts[runs][:, :, None]
    totals = np.where(inside, padded[:, runs[:, :, None], drawn], 0.0).sum(axis=3)
    means = _run_errors(totals).mean(axis=1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    reach = max(estimate - float(low), float(high) - estimate)
    return Interval(estimate, max(0.0, estimate - reach), estimate + reach)


def _run_errors(totals: Floats) -> Floats:
    """Return the |error|, %, of each sum in `totals` (measured and predicted, ..., runs)."""
    return 100 * np.abs(totals[1] / totals[0] - 1)


@dataclass(frozen=True)
class Paired:
    """A signed-rank test of our errors against those of another method."""

    statistic: float
    """Sum of the ranks of pairs in which ours is larger: 0 if it never is."""
    p: float
    """Probability of a statistic this small if neither method were better."""
    median_difference: float
    """Median of ours - other over all pairs: negative if ours is smaller."""
    n: int
    """Number of pairs that differ."""


def wilcoxon(ours: Floats, other: Floats) -> Paired:
    """Test whether ours is smaller than the other, both (pairs,), over runs or blocks.

    This is Wilcoxon's paired signed-rank test (1945), one-sided. It leaves out equal pairs, as Wilcoxon did; if all are
    equal, p is 1. Up to 50 pairs, or 13 if differences tie, are tested exactly, and more by the normal approximation.
    Raises ValueError for arrays of different shapes and for a difference that is not finite.
    """
    from scipy import stats

    if ours.shape != other.shape or ours.ndim != 1:
        raise ValueError(f"pairs of shapes {ours.shape} and {other.shape}")
    difference = ours - other
    if not np.all(np.isfinite(difference)):
        raise ValueError("a pair without a number")
    median = float(np.median(difference)) if len(difference) else 0.0
    different = difference[difference != 0]
    if not len(different):
        return Paired(0.0, 1.0, median, 0)
    result: Any = cast("Any", stats).wilcoxon(different, alternative="less", method="auto")
    return Paired(float(result.statistic), float(result.pvalue), median, len(different))


def holm(p: Floats) -> Floats:
    """Return p-values (tests,) corrected for their number, so that the family errs with 5 % at most (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1.0)
    return result


@dataclass(frozen=True)
class Order:
    """How well predictions put runs in order."""

    inverted: int
    """Number of pairs that the predictions put in the wrong order."""
    pairs: int
    """Number of pairs that count."""
    tau: float
    """Kendall's tau, (right - wrong) / pairs: 1 if all are right, 0 if no pair counts. A predicted tie is neither."""


def inversions(measured: Floats, predicted: Floats, tolerance: float = 0.0) -> Order:
    """Count the pairs of runs whose order by a figure, such as p99, the predictions invert. Both arrays are (runs,).

    A pair does not count if its measured values differ by no more than `tolerance`, relative to the larger: then the
    measurement does not say which is slower either. Kendall (1938). Raises ValueError for arrays of different shapes.
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
    """Return the errors of step or cycle times, both (steps,) and in the same unit.

    `mape_pct` and `median_abs_error_pct` are the mean and median of |predicted/measured - 1|, `bias_pct` is the signed
    mean, and `pearson_r` is 0 if either does not vary. Raises ValueError for different shapes and for no steps.
    """
    if measured.shape != predicted.shape or measured.ndim != 1 or not len(measured):
        raise ValueError(f"steps of shapes {measured.shape} and {predicted.shape}")
    relative = predicted / measured - 1
    a, b = measured - measured.mean(), predicted - predicted.mean()
    # A constant minus its mean leaves a rounding error, which is no variation.
    varies = all(np.ptp(values) > 1e-12 * np.max(np.abs(values)) for values in (measured, predicted))
    return {
        "mape_pct": 100 * float(np.mean(np.abs(relative))),
        "median_abs_error_pct": 100 * float(np.median(np.abs(relative))),
        "bias_pct": 100 * float(np.mean(relative)),
        "pearson_r": float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1)) if varies else 0.0,
    }


def interval_figures(z: Floats, half_width_pct: Floats, inside: Floats) -> dict[str, float]:
    """Return whether 90 % intervals hold, of predictions with standardized errors `z`; all are (predictions,).

    `inside` is 1 for an interval that holds the measurement, and `half_width_pct` half its width, in logarithms.
    `inside_interval_90_pct` should be 90 and `rms_z` 1; how wide they are says what they are worth. Raises ValueError
    for no predictions.
    """
    if not len(z) or not len(z) == len(half_width_pct) == len(inside):
        raise ValueError(f"{len(z)} errors, {len(half_width_pct)} widths and {len(inside)} intervals")
    return {
        "inside_interval_90_pct": 100 * float(np.mean(inside)),
        "half_width_90_pct": float(np.median(half_width_pct)),
        "rms_z": float(np.sqrt(np.mean(z**2))),
    }
