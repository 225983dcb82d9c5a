"""Lists: the requests of `vllm bench serve --save-detailed` and sglang's `--output-details`, field by field.

`input_lens`, `output_lens`, `ttfts`, `itls` (the gaps between chunks, a list for each request), `errors`; newer ones
also `start_times`, `latencies`. All have one entry a request, in order of sending; times are in seconds.

Both tools print the same aggregates, in ms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats import values
from roofml.traces.formats.values import Object
from roofml.traces.recording import LoadSaid, Requests
from roofml.util.arrays import Bools, Floats, Ints
from roofml.util.errors import InputError

STATISTICS = re.compile(r"(mean|median|p[0-9.]+)_(ttft|tpot|itl|e2el|e2e_latency)_ms")
KINDS = {"e2el": "e2e", "e2e_latency": "e2e"}
OTHER_UNIT = 3.0
"""How far the mean of the requests may lie from the mean that the header has."""
SEVERAL_TOKENS = (
    "several tokens came in a chunk, as of a server that speculates (or give --server-arg stream_interval=N)"
)
"""Why no fit may see such a run, unless its server is known to stream so."""
BUNDLED = 1.5
"""Mean gap between chunks over TPOT from which several tokens come in a chunk."""


@dataclass(frozen=True, eq=False)
class Lists:
    """What the requests of a run are, list by list. Arrays have shape (requests,)."""

    input_tokens: Ints
    output_tokens: Ints
    ttft_us: Floats
    e2e_us: Floats
    """NaN throughout where it is in no list."""
    chunks: Ints
    """0 where the gaps between them are not in it."""
    sends_us: Floats
    failed: Bools
    """Those of which there is an error."""

    @property
    def requests(self) -> int:
        """How many there are."""
        return len(self.ttft_us)

    @property
    def ok(self) -> Bools:
        """Those that failed have no first token, and no times but 0."""
        return ~self.failed & (self.ttft_us > 0) & (self.output_tokens > 0)

    def tokens_alone(self) -> Lists:
        """The same without the chunk that names the role, or an empty one, where every answer has it."""
        ok = self.ok & (self.chunks > 0)
        if ok.any() and float(np.median((self.chunks - self.output_tokens)[ok])) == 1:
            return replace(self, chunks=np.where(self.chunks > 0, self.chunks - 1, 0))
        return self

    def each(self, aside: Bools) -> Requests:
        """As a recording has them; those `aside` (requests,) are not measured."""
        ok = self.ok
        nothing = np.zeros(self.requests, np.int64)
        return Requests(
            send_us=self.sends_us,
            input_tokens=self.input_tokens,
            server_input_tokens=nothing,
            output_tokens=self.output_tokens,
            ttft_us=np.where(ok, self.ttft_us, np.nan),
            e2e_us=np.where(ok, self.e2e_us, np.nan),
            ok=ok,
            num_chunks=self.chunks if self.chunks.any() else nothing[:0],
            aside=aside,
        )


def read_lists(source: str, document: Object) -> Lists | None:
    """The lists of a detailed file; None of one without. Raises InputError naming list and request."""
    ttfts = values.column(source, document, "ttfts")
    if ttfts is None:
        return None
    requests = len(ttfts)
    columns = {name: values.column(source, document, name, requests) for name in ("input_lens", "output_lens")}
    for name, column in columns.items():
        if column is None:
            raise InputError(f"{source}: {name} is missing, and ttfts is there: expected both")
    errors = values.column(source, document, "errors", requests)
    starts = values.column(source, document, "start_times", requests)
    latencies = values.column(source, document, "latencies", requests)
    ttft_us = values.times_us(source, "ttfts", ttfts)
    output = values.counts(source, "output_lens", columns["output_lens"] or [])
    gaps_us, chunks = _gaps(source, values.column(source, document, "itls", requests), output)
    if latencies is not None:
        e2e_us = values.times_us(source, "latencies", latencies)
    elif chunks.any() or not (output > 1).any():
        e2e_us = ttft_us + gaps_us
    else:
        e2e_us = np.full(requests, np.nan)
    return Lists(
        input_tokens=values.counts(source, "input_lens", columns["input_lens"] or []),
        output_tokens=output,
        ttft_us=ttft_us,
        e2e_us=e2e_us,
        chunks=chunks,
        sends_us=values.times_us(source, "start_times", starts) if starts is not None else np.full(requests, np.nan),
        failed=np.array([bool(error) for error in errors or [""] * requests], np.bool_),
    )


def _gaps(source: str, itls: Sequence[object] | None, output: Ints) -> tuple[Floats, Ints]:
    """(sum of the gaps between chunks, µs; chunks), each (requests,). No chunks where no request has gaps."""
    total, chunks = np.zeros(len(output)), np.zeros(len(output), np.int64)
    for row, gaps in enumerate(itls or ()):
        if not isinstance(gaps, list):
            raise InputError(f"{source}: itls: request {row + 1}: expected a list of gaps")
        times: list[Any] = gaps  # pyright: ignore[reportUnknownVariableType]
        try:
            total[row] = 1e6 * math.fsum(times)
        except (TypeError, OverflowError, ValueError):
            raise InputError(f"{source}: itls: request {row + 1}: expected numbers, seconds") from None
        if not 0 <= total[row] < 1e15:
            raise InputError(f"{source}: itls: request {row + 1}: {total[row] / 1e6:g} s in all, beyond every clock")
        chunks[row] = len(times) + 1
    if not ((chunks > 1) & (output > 1)).any():
        chunks[:] = 0
    return total, chunks


def read_aggregates(source: str, document: Object) -> dict[str, float]:
    """As a recording has them, µs. Raises InputError naming the key of what is no number."""
    found: dict[str, float] = {}
    for key in document:
        match = STATISTICS.fullmatch(key)
        if match is not None:
            value = values.number(source, document, key)
            if value is not None:
                found[f"{KINDS.get(match[2], match[2])}_{match[1]}"] = 1e3 * value
    for key, name, scale in (
        ("duration", "duration_us", 1e6),
        ("output_throughput", "output_tokens_per_s", 1.0),
        ("request_throughput", "requests_per_s", 1.0),
    ):
        value = values.number(source, document, key)
        if value is not None:
            found[name] = scale * value
    return found


def read_load(source: str, document: Object, completed: int) -> LoadSaid:
    """What the header says of the load; lengths are means of what completed."""
    lengths = [values.number(source, document, f"total_{kind}_tokens") for kind in ("input", "output")]
    means = [total / completed if total and completed else None for total in lengths]
    return LoadSaid(
        max_concurrency=values.count(source, document, "max_concurrency") or None,
        requests_per_s=values.rate(source, document, "request_rate"),
        input_tokens=means[0],
        output_tokens=means[1],
    )


def check_unit(source: str, detail: Lists, aggregates: Mapping[str, float], sent: int) -> None:
    """Raise InputError where the requests' times are of another unit than the header's mean of them."""
    said, ok = aggregates.get("ttft_mean", 0.0), detail.ok
    if said <= 0 or not ok.any() or detail.requests < sent:
        return
    ratio = float(detail.ttft_us[ok].mean()) / said
    if not 1 / OTHER_UNIT < ratio < OTHER_UNIT:
        found = f"their mean is {detail.ttft_us[ok].mean() / 1e6:g} s by them and {said / 1e3:g} ms by mean_ttft_ms"
        raise InputError(f"{source}: ttfts: {found}, expected seconds")


def bundled(aggregates: Mapping[str, float]) -> list[Finding]:
    """The finding about chunks of several tokens, as means show them."""
    gap, token = aggregates.get("itl_mean", 0.0), aggregates.get("tpot_mean", 0.0)
    if not token or gap < BUNDLED * token:
        return []
    return [
        Finding(
            "bundled-chunks",
            "warning",
            f"The mean gap between chunks is {gap / token:.1f} times the mean TPOT: several tokens came at once.",
            {"itl_over_tpot": gap / token},
            "A server that speculates does so, or one that streams every so many tokens: no fit here describes the "
            "first, and the second needs --server-arg stream_interval=N.",
        )
    ]
