"""A served load: which of its requests count, whether its queue ever ends, and what a client would print of it.

A benchmark of so many requests, or a recording, is judged as its client does: all that completed. Of a load without end
those count that came when the server had settled and before the last ones, which have it for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.engine.replay import Replay
from roofml.engine.streaming import chunk_gaps_us
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats, Ints
from roofml.workloads.slo import LATENCIES, STATISTICS, Slo

WARM_UP, WARM_UP_E2E = 0.1, 2.0
"""Left out at the start: a share of the time in which requests come, or so many times the median E2E if that is more,
but never more than MOST_LEFT_OUT. Of sessions, E2E and the pause after it."""
MOST_LEFT_OUT = 1 / 3
COOL_DOWN = 0.15
"""Left out at the end: the median E2E, but never more than this share of that time."""
GROWING = 0.04
"""A queue that grows by this share of the requests that come does not end."""
FEWEST = 200
"""Requests without which nothing is said of a queue."""
BATCHES = 10
"""Parts of the judged requests, in order of arrival, whose figures tell how sure those of the whole are."""
ONE_CLASS: Ints = np.zeros(0, np.int64)
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}


@dataclass(frozen=True, eq=False)
class ServedLoad:
    """A load and how it was served."""

    run: Run
    replay: Replay
    judged: Bools
    """(requests,) those that count, all of which completed."""
    grows: bool
    """The queue grows as long as requests come: there is no steady state, and figures are of a load of this length."""
    begin_us: float
    end_us: float
    """Between which answers count for rates."""
    of_class: Ints
    """(requests,) the class of each; empty: there is one."""

    @property
    def sent_us(self) -> Floats:
        """(requests,) when each was sent."""
        return self.replay.schedule.arrival_us

    def latency_us(self, latency: str, chosen: Bools | None = None) -> Floats:
        """TTFT, TPOT, ITL or E2E of the judged requests, of those `chosen`, (requests,), if given; of ITL every gap."""
        judged = self.judged if chosen is None else self.judged & chosen
        if latency == "ttft":
            return self.replay.ttft_us[judged]
        if latency == "e2e":
            return self.replay.e2e_us[judged]
        if latency == "itl":
            gaps, request = chunk_gaps_us(self.run, self.replay)
            return gaps[judged[request]]
        several = judged & (self.run.output_tokens > 1)
        decode = self.replay.e2e_us[several] - self.replay.ttft_us[several]
        return decode / (self.run.output_tokens[several] - 1)

    def figure(self, metric: str, chosen: Bools | None = None) -> float | None:
        """A metric such as `ttft_p95`, µs; None where no judged request has it."""
        latency, statistic = metric.split("_")
        return statistic_of(self.latency_us(latency, chosen), statistic)

    def figures(self, chosen: Bools | None = None) -> dict[str, float]:
        """Metric -> µs, for every latency and statistic that there is."""
        found: dict[str, float] = {}
        for latency in LATENCIES:
            values = self.latency_us(latency, chosen)
            for statistic in STATISTICS:
                value = statistic_of(values, statistic)
                if value is not None:
                    found[f"{latency}_{statistic}"] = value
        return found

    def rates(self, wanted: Sequence[tuple[Slo, Bools]] = ()) -> dict[str, float]:
        """Requests, output tokens, and requests that meet every SLO's limit themselves, a second.

        Of all that are answered between `begin_us` and `end_us`; each SLO with the requests, (requests,), it is for.
        """
        done_us = self.sent_us + self.replay.e2e_us
        inside = self.replay.completed & (done_us >= self.begin_us) & (done_us <= self.end_us)
        per_second = 1e6 / max(self.end_us - self.begin_us, 1.0)
        good = inside.copy()
        for slo, whose in wanted:
            good &= ~whose | self._meets(slo)
        return {
            "requests_per_s": float(inside.sum()) * per_second,
            "output_tokens_per_s": float(self.run.output_tokens[inside].sum()) * per_second,
            "goodput_per_s": float(good.sum()) * per_second,
        }

    def _meets(self, slo: Slo) -> Bools:
        """(requests,) whether each meets the limit itself; between tokens, whether so many of its gaps do."""
        ttft, e2e, tokens = self.replay.ttft_us, self.replay.e2e_us, self.run.output_tokens
        with np.errstate(invalid="ignore"):
            if slo.latency == "ttft":
                return ttft < slo.limit_us
            if slo.latency == "e2e":
                return e2e < slo.limit_us
            if slo.latency == "tpot" or slo.statistic == "mean":
                return (e2e - ttft < slo.limit_us * np.maximum(tokens - 1, 1)) | (tokens == 1)
        gaps, request = chunk_gaps_us(self.run, self.replay)
        count = np.bincount(request, minlength=len(tokens))
        within = np.bincount(request, gaps < slo.limit_us, len(tokens))
        return within >= np.floor(PERCENTILES[slo.statistic] / 100 * count)

    def unsure(self, metrics: Sequence[str]) -> dict[str, float]:
        """Metric -> its relative standard error from this load alone (batch means); without those nobody has."""
        order = np.flatnonzero(self.judged)
        parts = [np.zeros(len(self.judged), np.bool_) for _ in range(BATCHES)]
        for part, places in zip(parts, np.array_split(order, BATCHES), strict=True):
            part[places] = True
        found: dict[str, float] = {}
        for metric in metrics:
            values = [value for part in parts if (value := self.figure(metric, part)) is not None]
            if len(values) == BATCHES and np.mean(values) > 0:
                found[metric] = float(np.std(values, ddof=1) / np.mean(values) / np.sqrt(BATCHES))
        return found


def statistic_of(values: Floats, statistic: str) -> float | None:
    """A mean or percentile, by its name; None of nothing."""
    if not len(values):
        return None
    return float(np.mean(values) if statistic == "mean" else np.percentile(values, PERCENTILES[statistic]))


def served_load(
    run: Run, replay: Replay, *, all_count: bool, of_class: Ints = ONE_CLASS, between_s: float = 0.0
) -> ServedLoad:
    """A load as it was served: `all_count` of a benchmark or recording, else once it is steady.

    `between_s`: the pause of a session between an answer and its next request, on average.
    """
    sent = replay.schedule.arrival_us
    done = replay.completed
    grows = not run.clients and _grows(run, replay)
    if all_count or not done.any():
        end = float(np.max((sent + replay.e2e_us)[done])) if done.any() else float(sent.max())
        return ServedLoad(run, replay, done, grows, float(sent.min()), end, of_class)
    if grows:
        ended = np.sort((sent + replay.e2e_us)[done])
        left_out = int(WARM_UP * len(ended))
        return ServedLoad(run, replay, done, grows, float(ended[left_out]), float(ended[-1 - left_out]), of_class)
    begin, end = steady_window(sent, replay.e2e_us, between_s)
    judged = done & (sent >= begin) & (sent <= end)
    if not judged.any():  # all came at once
        return ServedLoad(run, replay, done, grows, float(sent.min()), float(np.nanmax(sent + replay.e2e_us)), of_class)
    return ServedLoad(run, replay, judged, grows, begin, end, of_class)


def steady_window(sent_us: Floats, e2e_us: Floats, between_s: float = 0.0) -> tuple[float, float]:
    """(begin, end) of what counts of requests sent at these times, µs; NaN of what has no answer."""
    first, last = float(sent_us.min()), float(sent_us.max())
    span, usual = last - first, float(np.nanmedian(e2e_us))
    begin = first + min(max(WARM_UP * span, WARM_UP_E2E * (usual + 1e6 * between_s)), MOST_LEFT_OUT * span)
    return begin, last - min(usual, COOL_DOWN * span)


def _grows(run: Run, replay: Replay) -> bool:
    """Whether more and more requests wait: those of the last quarter find more waiting than those of the second."""
    size = len(run)
    if size < FEWEST:
        return False
    schedule = replay.schedule
    began = np.where(schedule.first_step >= 0, schedule.step_start_us[schedule.first_step], np.inf)
    before = np.searchsorted(np.sort(began), np.sort(schedule.arrival_us), side="right")
    waiting = np.arange(size) - before
    second, last = waiting[size // 4 : size // 2], waiting[3 * size // 4 :]
    return float(last.mean() - second.mean()) > GROWING * size / 2
