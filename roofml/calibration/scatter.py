"""Scatter: how far a mean, or a percentile, of finitely many requests lies from that of as many others alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from roofml.util.arrays import Floats

OWN_SD: Mapping[str, float] = {"e2e": 0.01, "tpot": 0.01, "ttft": 0.2}
"""Relative: how far a single request's latency lies from its replay, beside what all of a run are off by. In the public
runs 0.6 to 1 %, and of the TTFT 10 to 25 % (docs/intervals.md)."""


def level_of(metric: str) -> float | None:
    """The percentile that a metric is of, as a share: 0.99 of ttft_p99; None of a mean."""
    level = metric.partition("_")[2].removeprefix("p")
    return int(level) / 100 if level.isdigit() else None


def scatter(metric: str, times_us: Floats) -> float:
    """The variance of the logarithm of a figure of so many requests' latencies, (requests,), as they were predicted.

    `metric` is kind and statistic: ttft_mean, e2e_p99. Of a mean it is that of single requests over their number. Of a
    percentile it is what order statistics say: it may as well be the one a standard deviation of the rank away.
    """
    count, level = len(times_us), level_of(metric)
    if not count:
        return 0.0
    own = OWN_SD.get(metric.partition("_")[0], OWN_SD["tpot"]) ** 2
    if level is None:
        return own / count
    apart = float(np.sqrt(level * (1 - level) / count))
    low, high = np.quantile(times_us, [max(level - apart, 0.0), min(level + apart, 1.0)])
    own /= max(count * min(level, 1 - level), 1.0)
    return max(own, float(np.log(high / low) / 2) ** 2) if low > 0 else own
