"""Kernel tables of another version of the engine: ratios from drift.csv, and the files of single shapes beside it.

A GPU's tables are of one campaign. What changed between releases is told by campaigns of several: for a table, a data
type and a size, time at a release over time at the table's own, and for single shapes where they differ: vLLM tunes its
kernels of mixtures shape by shape, so that one became twice as fast between two releases and its neighbour stayed. A
release that nobody measured takes the nearest one, and is less certain by what changed around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from roofml.hardware.kernel_tables import GemmTable, Rows
from roofml.util.arrays import Floats

if TYPE_CHECKING:
    from roofml.hardware.kernels import Efficiency

SD_OF_A_RELEASE = {"moe": 0.03}
"""Table -> relative sd of a minor release more or less than any that was measured. From 0.14 to 0.24 mixtures became
faster by a third where they changed most."""
SD_OF_ANY_RELEASE = 0.01
"""The same of other tables: 3 % in those ten."""
LAUNCH, READING = 1.0, 2.0
"""Sizes of decode attention's ratios: of the launch and of each work item, and of reading the cache."""


def release_number(release: tuple[int, int, int]) -> int:
    """(0, 15, 1) -> 1501: as tables write it, a minor release every hundred."""
    major, minor, patch = release
    return 10_000 * major + 100 * minor + min(patch, 99)


@dataclass(frozen=True)
class Change:
    """How a table's times differ at another release."""

    sizes: Floats
    """(sizes,) ascending."""
    ratio: Floats
    """(sizes,) time there over time in the table."""
    sd: float
    """Relative, of the ratio at another shape than those it is the median of, and of the release."""
    release: int = 0
    """The release that it was measured at."""
    between_sd: float = 0.0
    """The part of `sd` that is of the release: it was not measured itself."""

    def at(self, sizes: Floats) -> Floats:
        """The ratio at other sizes, interpolated in logarithms and constant outside."""
        return np.exp(np.interp(np.log(np.maximum(sizes, 1e-9)), np.log(self.sizes), np.log(self.ratio)))


@dataclass(frozen=True)
class ShapeRatios:
    """How single shapes differ at other releases."""

    tokens: Floats
    """(knots,) M, ascending."""
    ratios: Mapping[tuple[str | int, ...], Floats]
    """(data type, release, sizes...) -> (knots,) time there over time in the table."""

    def at(self, key: tuple[str | int, ...], tokens: Floats) -> Floats | None:
        """The ratio of exactly this shape at each M of `tokens`; None where it was not measured."""
        return self._at(self.ratios[key], tokens) if key in self.ratios else None

    def nearest(self, dtype: str, release: int, shape: Sequence[float], tokens: Floats) -> Floats | None:
        """The ratio of the nearest shape, in logarithms, of a data type and release; None if it has none."""
        sizes, ratios = self._of.get((dtype, release), (np.zeros((0, 0)), np.zeros((0, 0))))
        if not len(sizes):
            return None
        return self._at(ratios[int(np.argmin(np.abs(sizes - np.log(shape)).sum(axis=1)))], tokens)

    def _at(self, ratio: Floats, tokens: Floats) -> Floats:
        return np.exp(np.interp(np.log(tokens), np.log(self.tokens), np.log(ratio)))

    @cached_property
    def _of(self) -> dict[tuple[str | int, ...], tuple[Floats, Floats]]:
        """(data type, release) -> logarithms of the sizes (shapes, sizes), and the ratios (shapes, knots)."""
        keys: dict[tuple[str | int, ...], list[tuple[str | int, ...]]] = {}
        for key in self.ratios:
            keys.setdefault(key[:2], []).append(key)
        return {
            of: (np.log(np.array([key[2:] for key in found], np.float64)), np.array([self.ratios[k] for k in found]))
            for of, found in keys.items()
        }


Changes = Callable[[str, str], Change]
"""Of a table and a data type."""


def at_version(measured: Efficiency, release: tuple[int, int, int]) -> Efficiency:
    """The kernels as `release` of vLLM runs them; `measured` itself where its tables do not say their release."""
    wanted = release_number(release)

    def change(table: str, dtype: str) -> Change:
        own = measured.releases.get(table)
        if own is None:
            return Change(np.ones(1), np.ones(1), 0.0)
        return change_of(measured.drift_rows, table, dtype, own, wanted)

    changed = replace(
        measured,
        gemm=_products(measured, change),
        prefill_attention_rows=_prefill(measured.prefill_attention_rows, change),
        decode_attention_rows=_decode(measured.decode_attention_rows, change, measured.decode_drift_rows),
    )
    if measured.prefill_window_rows is not None:
        changed = replace(changed, prefill_window_rows=_prefill(measured.prefill_window_rows, change))
    if measured.decode_window_rows is not None:
        changed = replace(changed, decode_window_rows=_decode(measured.decode_window_rows, change))
    if measured.moe is not None:
        changed = replace(changed, moe=_mixtures(measured, measured.moe, wanted, change))
    if measured.allreduce_us:
        ratio = change("allreduce", "").at(measured.allreduce_bytes)
        times = {gpus: np.maximum.accumulate(us * ratio) for gpus, us in measured.allreduce_us.items()}
        changed = replace(changed, allreduce_us=times)
    return changed


def _sds(changes: Mapping[str, Change]) -> dict[str, float]:
    return {dtype: change.sd for dtype, change in changes.items() if change.sd}


def _mixtures(measured: Efficiency, moe: Rows, wanted: int, change: Changes) -> Rows:
    """Shapes that were measured at the nearest release have their own ratio, all others their data type's median."""
    changes = {dtype: change("moe", dtype) for dtype in set(moe.dtype)}
    values, sd = moe.values.copy(), np.empty(len(moe.dtype))
    for i, dtype in enumerate(moe.dtype):
        key = (dtype, changes[dtype].release, *(int(size) for size in moe.sizes[i]))
        own = None if measured.moe_drift is None else measured.moe_drift.at(key, measured.moe_tokens)
        values[i] /= changes[dtype].at(measured.moe_tokens) if own is None else own
        sd[i] = changes[dtype].sd if own is None else changes[dtype].between_sd
    return replace(moe, values=values, version_sd=sd)


def _products(measured: Efficiency, change: Changes) -> GemmTable:
    """Products change smoothly with shape: one that was not measured there takes the ratio of the nearest that was.

    Where every ratio is 1 the table is the same to the bit.
    """
    table = measured.gemm
    changes = {dtype: change("gemm", dtype) for dtype in table.slowdown}
    ratios: dict[str, Floats] = {}
    for dtype, slowdown in table.slowdown.items():
        ratios[dtype] = np.broadcast_to(changes[dtype].at(table.tokens), slowdown.shape).copy()
        for i, j in np.ndindex(len(table.n), len(table.k)):
            shape = (float(table.n[i]), float(table.k[j]))
            own = measured.gemm_drift and measured.gemm_drift.nearest(
                dtype, changes[dtype].release, shape, table.tokens
            )
            if own is not None:
                ratios[dtype][i, j] = own
    if all((ratio == 1).all() for ratio in ratios.values()):
        return replace(table, version_sd=_sds(changes))
    return replace(table.times(ratios), version_sd=_sds(changes))


def _prefill(rows: Rows, change: Changes) -> Rows:
    changes = {dtype: change("prefill_attention", dtype) for dtype in set(rows.dtype)}
    ratio = np.array([changes[dtype].at(np.ones(1))[0] for dtype in rows.dtype])
    sd = np.array([changes[dtype].sd for dtype in rows.dtype])
    return replace(rows, values=rows.values / ratio[:, None], version_sd=sd)


def _decode(rows: Rows, change: Changes, lines: Rows | None = None) -> Rows:
    """fixed_us and item_us go with the launch, mbu with reading; a shape with a line of its own there has that."""
    changes = {dtype: change("decode_attention", dtype) for dtype in set(rows.dtype)}
    launch, reading = np.array([changes[dtype].at(np.array([LAUNCH, READING])) for dtype in rows.dtype]).T
    sd = np.array([changes[dtype].sd for dtype in rows.dtype])
    values = rows.values * np.column_stack((launch, launch, 1 / reading, np.ones_like(launch)))
    if lines is not None:
        own = {
            (dtype, *map(int, sizes)): line
            for dtype, sizes, line in zip(lines.dtype, lines.sizes, lines.values, strict=True)
        }
        for i, dtype in enumerate(rows.dtype):
            line = own.get((dtype, changes[dtype].release, *map(int, rows.sizes[i])))
            if line is not None:
                values[i], sd[i] = line, changes[dtype].between_sd
    return replace(rows, values=values, version_sd=sd)


def change_of(rows: Rows | None, table: str, dtype: str, own: int, wanted: int) -> Change:
    """How times of a table and data type differ at release `wanted` from those of its `own`.

    The ratios are those of the nearest release measured, of two as near the older. Between two that differ, the sd
    grows to half their difference in the middle; outside of all by a release's typical change.
    """
    measured: dict[int, tuple[Floats, Floats, float]] = {own: (np.ones(1), np.ones(1), 0.0)}
    if rows is not None:
        name = f"{table}.{dtype}" if dtype else table
        of_table = np.array(rows.dtype) == name
        for release in np.unique(rows.sizes[of_table, 0]):
            chosen = of_table & (rows.sizes[:, 0] == release)
            order = np.argsort(rows.sizes[chosen, 1])
            ratio, sd = rows.values[chosen].T
            measured[int(release)] = (rows.sizes[chosen, 1][order], ratio[order], float(np.median(sd)))
    nearest = min(sorted(measured), key=lambda release: abs(release - wanted))
    sizes, ratio, sd = measured[nearest]
    beyond = [release for release in measured if (release - wanted) * (nearest - wanted) < 0]
    if nearest == wanted:
        between = 0.0
    elif not beyond:
        step = SD_OF_A_RELEASE.get(table, SD_OF_ANY_RELEASE)
        between = step * math.sqrt(abs(nearest - wanted) / 100)
    else:
        other = min(beyond, key=lambda release: abs(release - wanted))
        everywhere = np.union1d(sizes, measured[other][0])
        here, there = (Change(*measured[release]).at(everywhere) for release in (nearest, other))
        difference = float(np.sqrt(np.mean(np.log(there / here) ** 2)))
        between = difference * abs(nearest - wanted) / abs(other - nearest)
    return Change(sizes, ratio, math.hypot(sd, between), nearest, between)
