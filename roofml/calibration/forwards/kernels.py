"""Kernels of traced forwards: their times, by name, as times of the components that they belong to.

A traced case says how its time divides, which no total does: all-reduces against norms, attention against products.
Names are those of vLLM's backends on NVIDIA GPUs; what no pattern knows is a part of the layers' overhead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roofml.calibration.forwards.offsets import OFFSET_NAMES, OFFSETS
from roofml.calibration.forwards.times import ADDENDS, FACTORS, Timed
from roofml.latency.components import StepComponents
from roofml.latency.formula import attending_us, corrected, products_us
from roofml.latency.parameters import LOGARITHMIC, NAMES, STEP_COUNT, StepParameters
from roofml.traces.forwards import Forwards
from roofml.util.arrays import Floats, Ints

KERNEL_SD = 0.04
"""Relative: kernels under a profiler against those in a graph alone, and those that overlap."""
WHOLE = 0.97
"""Share of a case's time that its kernels must make up for them to be all of it."""
PATTERNS: Mapping[str, re.Pattern[str]] = {
    "communication": re.compile(r"all_?reduce|all_?gather|reduce_?scatter|nccl|cross_device|multimem", re.IGNORECASE),
    "attention": re.compile(r"flash|fmha|attention|attn|paged|mla|splitkv|reshape_and_cache", re.IGNORECASE),
    "gemm": re.compile(r"gemm|gemv|nvjet|cutlass|cublas|matmul|fused_moe|moe_kernel|_mm_|marlin", re.IGNORECASE),
}
"""Group of components -> names of its kernels; the first that fits."""
GROUPS = tuple(PATTERNS)


def grouped(kernels: Mapping[str, float]) -> dict[str, float]:
    """µs of each group, and of `other`."""
    times = dict.fromkeys((*GROUPS, "other"), 0.0)
    for name, time in kernels.items():
        times[next((group for group, pattern in PATTERNS.items() if pattern.search(name)), "other")] += time
    return times


@dataclass(frozen=True, eq=False)
class KernelRows:
    """Group times of traced cases, as measurements beside the cases' own."""

    timed: Timed
    case: Ints
    """(rows,) which case."""
    group: Ints
    """(rows,) which of GROUPS."""
    log_us: Floats
    """(rows,)"""

    @property
    def sd(self) -> Floats:
        """(rows,)"""
        return np.full(len(self.case), KERNEL_SD)

    def rows(self, values: Floats, offsets: Floats) -> tuple[Floats, Floats]:
        """(rows,) logarithm of predicted over measured, and (rows, parameters + offsets) derivatives.

        By differences: three sums of a few components each, and no formula of their own.
        """
        size = len(NAMES) + len(OFFSETS)
        if not len(self.case):
            return np.zeros(0), np.zeros((0, size))
        here = self._log_times(values, offsets)
        slopes = np.zeros((len(self.case), size))
        for place in range(STEP_COUNT):
            step, moved = 1e-5, np.array(values, np.float64)
            moved[place] *= np.exp(step) if LOGARITHMIC[place] else 1.0
            moved[place] += 0.0 if LOGARITHMIC[place] else step
            slopes[:, place] = (self._log_times(moved, offsets) - here) / step
        for number, name in enumerate(OFFSET_NAMES):
            if name not in ADDENDS:
                moved = np.array(offsets, np.float64)
                moved[number] += 1e-5
                slopes[:, len(NAMES) + number] = (self._log_times(values, moved) - here) / 1e-5
        return here - self.log_us, slopes

    def _log_times(self, values: Floats, offsets: Floats) -> Floats:
        found = dict(zip(OFFSET_NAMES, offsets, strict=True))
        p = StepParameters(*values[:STEP_COUNT])
        p = p._replace(**{name: getattr(p, name) * float(np.exp(found[offset])) for offset, name in FACTORS.items()})
        columns = [column[: self.timed.count] for column in self.timed.routed(offsets)]
        device = corrected(StepComponents(*columns[:-3]), columns[-3], p)
        groups = {
            "communication": device.communication,
            "attention": device.attention_items + attending_us(device, p.max_weight),
            "gemm": products_us(device, p.max_weight),
        }
        table = np.array([groups[name] for name in GROUPS])
        return found["pace"] + np.log(table[self.group, self.case])


def kernel_rows(forwards: Forwards, timed: Timed) -> KernelRows:
    """The rows of the cases that were traced whole; a file's ten longest kernels alone may not be."""
    case: list[int] = []
    group: list[int] = []
    log_us: list[float] = []
    for number, each in enumerate(forwards.cases):
        total = sum(each.kernels.values())
        if total < WHOLE * each.median_us:
            continue
        times = grouped(each.kernels)
        for place, name in enumerate(GROUPS):
            if times[name] <= 0 or (name == "communication" and forwards.ranks == 1):
                continue
            case.append(number)
            group.append(place)
            log_us.append(float(np.log(times[name])))
    return KernelRows(timed, np.array(case, np.int64), np.array(group, np.int64), np.array(log_us))


def said_of_kernels(forwards: Forwards) -> Sequence[str]:
    """A sentence on the traced kernels; none where nothing was traced."""
    traced = [case for case in forwards.cases if case.kernels]
    if not traced:
        return []
    whole = sum(sum(case.kernels.values()) >= WHOLE * case.median_us for case in traced)
    return [f"kernels of {len(traced)} cases were traced, all of them in {whole}: those say how their time divides"]
