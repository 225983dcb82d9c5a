"""Drift: campaigns of other versions of vLLM -> drift.csv: time there over time in a GPU's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernel_drift import LAUNCH, READING, release_number
from roofml.microbench.derive.allreduce import ELEMENT_BYTES
from roofml.microbench.derive.attention import decode_attention
from roofml.microbench.derive.bounds import LeftOut
from roofml.microbench.derive.curves import robust_sd
from roofml.microbench.derive.dtypes import CACHE_DTYPES, FORMATS_MEASURED
from roofml.microbench.derive.gemm import GEMM_TOKENS, WIDE, times_of
from roofml.microbench.derive.known_bad import version_of, without_known_bad
from roofml.microbench.derive.moe import SHAPE, usable
from roofml.util.arrays import Floats
from roofml.util.outside_text import for_line

Measured = Mapping[str, Any]
"""Kernel -> table of one campaign."""
Ratio = tuple[str, float, Any]
"""Table and data type, size, and the ratios of all shapes of that size (numpy or pandas)."""

TOKENS = (1, 16, 64, 256, 1024, 4096)
ELEMENTS = (128, 4096, 65536, 2**20, 2**24, 2**27)
LEAST_SHAPES = 3
"""Ratios of fewer shapes say nothing."""
BY_SHAPE = 0.05
"""Where the ratios of shapes scatter by more, relatively, each has its own."""
FAR = 800
"""Eight minor releases: kernels of nearer ones differ by no more than a campaign from the next."""
LEAST_SIDE = 256
"""Rows and columns of the smallest matrix that has ratios of its own."""
LONG_US = {"context_attention": 200.0, "generation_attention": 100.0}
"""Attention that takes so long, µs, is not mostly its launch."""
SHORT = 32
"""Tokens of context that take no time to read."""


def drift_lines(base: Measured, others: Sequence[Measured], gpu: Gpu) -> list[str]:
    """Header and rows of drift.csv: for every release of `others` the medians of time there over time in `base`.

    Tables of a release that is the base's own, or of which no shape is in both, have no rows.
    """
    lines = ["table,release,size,ratio,sd"]
    for kernel, compare in COMPARISONS.items():
        for release, mine, theirs in _pairs(kernel, base, others):
            for table, size, ratios in compare(mine, theirs, gpu):
                values = np.asarray(ratios, np.float64)
                values = values[np.isfinite(values)]
                if values.size >= LEAST_SHAPES:
                    ratio = float(np.median(values))
                    sd = robust_sd(np.log(values / ratio))
                    lines.append(f"{table},{release},{size:.0f},{ratio:.3f},{sd:.2g}")
    return [lines[0], *sorted(set(lines[1:]), key=_order)]


def moe_drift_lines(base: Measured, others: Sequence[Measured], gpu: Gpu) -> list[str]:
    """Header and rows of moe_drift.csv: the ratios of every mixture at a few M, where a release's scatter by shape."""
    lines = ["dtype,release,experts,top_k,hidden,inter," + ",".join(f"m{m}" for m in TOKENS)]
    for release, mine, theirs in _pairs("moe", base, others):
        for format, ratios in _mixture_ratios(mine, theirs, gpu):
            by_shape = ratios.groupby([*SHAPE, "num_tokens"]).median().unstack("num_tokens")
            by_shape = by_shape.reindex(columns=list(TOKENS)).dropna()
            if len(by_shape) and robust_sd(np.log(by_shape / by_shape.median()).to_numpy()) > BY_SHAPE:
                lines += [
                    f"{format},{release},{','.join(str(int(size)) for size in shape)},"
                    + ",".join(f"{value:.3f}" for value in row)
                    for shape, row in zip(by_shape.index, by_shape.to_numpy(), strict=True)
                ]
    return lines


def gemm_drift_lines(base: Measured, others: Sequence[Measured], gpu: Gpu) -> list[str]:
    """Header and rows of gemm_drift.csv: the ratios of every product, of the releases farthest from the tables'."""
    lines = ["dtype,release,n,k," + ",".join(f"m{m}" for m in GEMM_TOKENS)]
    for release, mine, theirs in _pairs("gemm", base, others):
        if abs(release - _release(mine)) < FAR:
            continue
        for source, format in FORMATS_MEASURED.items():
            ratios = _product_ratios(mine, theirs, source, gpu)
            lines += [
                f"{format},{release},{n},{k}," + ",".join(f"{value:.3f}" for value in ratio)
                for (n, k), ratio in ratios.items()
                if min(n, k) >= LEAST_SIDE
            ]
    return lines


def decode_drift_lines(base: Measured, others: Sequence[Measured], gpu: Gpu) -> list[str]:
    """Header and rows of decode_drift.csv: the straight lines of decode attention at the farthest releases.

    Not ratios: a release that splits a cache otherwise (0.14: batches below 32) changes a line's numbers unevenly.
    """
    lines = ["kv_dtype,release,heads,kv_heads,head_dim,fixed_us,item_us,mbu,sd"]
    for release, mine, theirs in _pairs("generation_attention", base, others):
        if abs(release - _release(mine)) >= FAR:
            for line in decode_attention(theirs, gpu).lines[1:]:
                dtype, cells = line.split(",", 1)
                lines.append(f"{dtype},{release},{cells}")
    return lines


def _pairs(kernel: str, base: Measured, others: Sequence[Measured]) -> Iterator[tuple[int, Any, Any]]:
    """(release, table of `base`, table of the other) for every other release of the kernel; the first campaign's."""
    seen: set[int] = set()
    for other in others:
        if kernel in base and kernel in other:
            mine, theirs = (without_known_bad(measured[kernel], kernel, LeftOut()) for measured in (base, other))
            if not any(part.empty or "version" not in part for part in (mine, theirs)):
                release = _release(theirs)
                if release not in seen | {_release(mine)}:
                    seen.add(release)
                    yield release, mine, theirs


def _order(line: str) -> tuple[str, int, int]:
    table, release, size, *_ = line.split(",")
    return table, int(release), int(size)


def _release(table: Any) -> int:
    newest = max((version_of(str(text)) for text in table.version.unique()), default=(0,))
    major, minor, patch = (*newest, 0, 0, 0)[:3]
    return release_number((major, minor, patch))


def _products(base: Any, other: Any, gpu: Gpu) -> Iterator[Ratio]:
    for source, format in FORMATS_MEASURED.items():
        found = _product_ratios(base, other, source, gpu)
        wide = [ratio for (n, k), ratio in found.items() if min(n, k) >= WIDE]
        for m in TOKENS:
            yield f"gemm.{format}", m, np.array([ratio[GEMM_TOKENS.index(m)] for ratio in wide])


def _product_ratios(base: Any, other: Any, source: str, gpu: Gpu) -> dict[tuple[int, int], Floats]:
    """(n, k) -> time in `other` over time in `base` at `GEMM_TOKENS`, of shapes in both."""
    own, theirs = (times_of(part, source, gpu, LeftOut()) for part in (base, other))
    return {shape: theirs[shape] / times for shape, times in own.items() if shape in theirs}


def _mixtures(base: Any, other: Any, gpu: Gpu) -> Iterator[Ratio]:
    for format, ratios in _mixture_ratios(base, other, gpu):
        of = ratios.index.get_level_values("num_tokens")
        for m in TOKENS:
            yield f"moe.{format}", m, ratios[of == m]


def _mixture_ratios(base: Any, other: Any, gpu: Gpu) -> Iterator[tuple[str, Any]]:
    """Format, and the ratios of every mixture, distribution and M that both have (a Series)."""
    base, other = (
        part[part.moe_ep_size == 1].assign(inter=part.inter_size // part.moe_tp_size) for part in (base, other)
    )
    for source, format in FORMATS_MEASURED.items():
        if all(usable(part, source, gpu, LeftOut()) for part in (base, other)):
            key = [*SHAPE, "num_tokens", "distribution"]
            own, theirs = (part[part.moe_dtype == source].groupby(key).latency.min() for part in (base, other))
            yield format, (theirs / own).dropna()


def _attention(kernel: str, base: Any, other: Any) -> Iterator[tuple[str, Any]]:
    """Type of the cache, and times of both (columns own, theirs; ms), of shapes without a window in both."""
    shape = ["batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"]
    if kernel == "generation_attention":
        shape.append("step")
    base, other = (part[part.window_size == 0] if "window_size" in part else part for part in (base, other))
    for source, (dtype, _) in CACHE_DTYPES.items():
        own, theirs = (part[part.kv_cache_dtype == source].groupby(shape).latency.min() for part in (base, other))
        both = own.to_frame("own").join(theirs.rename("theirs"), how="inner")
        yield dtype, both


def _prefill(base: Any, other: Any, gpu: Gpu) -> Iterator[Ratio]:
    for dtype, both in _attention("context_attention", base, other):
        long = both[1e3 * both.own > LONG_US["context_attention"]]
        yield f"prefill_attention.{dtype}", 1, long.theirs / long.own


def _decode(base: Any, other: Any, gpu: Gpu) -> Iterator[Ratio]:
    for dtype, both in _attention("generation_attention", base, other):
        context = both.index.get_level_values("isl") + both.index.get_level_values("step")
        short, long = both[context <= SHORT], both[1e3 * both.own > LONG_US["generation_attention"]]
        yield f"decode_attention.{dtype}", LAUNCH, short.theirs / short.own
        yield f"decode_attention.{dtype}", READING, long.theirs / long.own


def _reductions(base: Any, other: Any, gpu: Gpu) -> Iterator[Ratio]:
    own, theirs = (
        part[part.backend.str.endswith("graph")].groupby(["message_size", "num_gpus"]).latency.median()
        for part in (base, other)
    )
    ratios = (theirs / own).dropna()
    size = ratios.index.get_level_values("message_size")
    for lower, elements in zip((0, *ELEMENTS), ELEMENTS, strict=False):
        yield "allreduce", ELEMENT_BYTES * elements, ratios[(size > lower) & (size <= elements)]


COMPARISONS: dict[str, Callable[[Any, Any, Gpu], Iterator[Ratio]]] = {
    "gemm": _products,
    "moe": _mixtures,
    "context_attention": _prefill,
    "generation_attention": _decode,
    "custom_allreduce": _reductions,
}


def drift_text(name: str, lines: Sequence[str], gpu: Gpu, about: Mapping[str, str]) -> str:
    """The text of a file of drift, whose head names the releases that it tells of."""
    column = lines[0].split(",").index("release")
    releases = sorted({int(line.split(",")[column]) for line in lines[1:]})
    engine = ", ".join(f"{number // 10_000}.{number // 100 % 100}.{number % 100}" for number in releases)
    header = {"kernel": name, "gpu": gpu.name, "engine": f"vllm {engine}", **about}
    return "".join(f"# {key}: {for_line(value)}\n" for key, value in header.items()) + "\n".join(lines) + "\n"
