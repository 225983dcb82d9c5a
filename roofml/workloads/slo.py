"""SLOs: what a user expects of a server, such as `p95 ttft < 500ms`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from roofml.util.errors import InputError
from roofml.util.names import shown

Latency = Literal["ttft", "tpot", "itl", "e2e"]
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
LATENCIES: tuple[Latency, ...] = ("ttft", "tpot", "itl", "e2e")
UNITS_US = {"ms": 1e3, "s": 1e6}
LONGEST_US = 1e12
"""No limit is longer: twelve days."""
_SLO = re.compile(r"\s*([a-z0-9]+)\s+([a-z0-9]+)\s*(<=?)\s*([0-9.]+(?:e[0-9]{1,2})?)\s*(ms|s)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Slo:
    """A statistic of a latency over the requests of a load, and what it has to stay below."""

    statistic: str
    """One of `STATISTICS`."""
    latency: Latency
    limit_us: float

    @property
    def metric(self) -> str:
        """Its name among metrics: `ttft_p95`."""
        return f"{self.latency}_{self.statistic}"

    def __str__(self) -> str:
        """As it is written."""
        unit, divisor = ("ms", 1e3) if self.limit_us < 1e6 else ("s", 1e6)
        return f"{self.statistic} {self.latency} < {self.limit_us / divisor:g}{unit}"


def parse_slo(text: str, source: str = "--slo") -> Slo:
    """What a text such as `p95 ttft < 500ms` says. Raises InputError, naming `source` and the word that is wrong."""
    match = _SLO.fullmatch(text)
    if match is None:
        raise InputError(f"{source} {shown(text)}: expected an SLO such as 'p95 ttft < 500ms'")
    statistic, latency = match[1].lower(), match[2].lower()
    if statistic not in STATISTICS:
        raise InputError(f"{source} {shown(text)}: {shown(match[1])}: expected one of {', '.join(STATISTICS)}")
    if latency not in LATENCIES:
        raise InputError(f"{source} {shown(text)}: {shown(match[2])}: expected one of {', '.join(LATENCIES)}")
    try:
        limit = float(match[4]) * UNITS_US[match[5].lower()]
    except ValueError:
        limit = 0.0
    if not 0 < limit <= LONGEST_US:
        raise InputError(f"{source} {shown(text)}: {shown(match[4])}: expected a time above 0")
    return Slo(statistic, latency, limit)


def parse_slos(texts: Sequence[str], source: str = "--slo") -> tuple[Slo, ...]:
    """The SLOs of several texts. Raises InputError for two of one metric, and as `parse_slo`."""
    slos = tuple(parse_slo(text, source) for text in texts)
    for place, slo in enumerate(slos):
        if any(slo.metric == other.metric for other in slos[:place]):
            raise InputError(f"{source} {shown(texts[place])}: {slo.statistic} {slo.latency} has a limit already")
    return slos
