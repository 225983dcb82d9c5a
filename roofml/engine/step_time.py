"""Where the compiled replay takes a step's time from: our formula, any Python function, or a constant.

The scheduler is compiled once for each kind (`overload` chooses by type, so nothing is decided per step): `Formula` and
a constant run inline, a `Callback` is a C function pointer that comes back to Python, for which ctypes takes the GIL.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from roofml.latency.batch import WHOLE_SUMS, StepSums
from roofml.latency.components import ComponentTables, step_components
from roofml.latency.formula import step_time
from roofml.latency.parameters import StepParameters
from roofml.util.arrays import Floats

StepTimes = Callable[[StepSums], Floats]
"""Steps -> their times, shape (steps,), µs, finite and positive. The replay asks for one step at a time."""


class Formula(NamedTuple):
    """Our own formula."""

    tables: ComponentTables
    parameters: StepParameters


class Callback:
    """A `StepTimes` as a C function of a step's sums.

    An exception cannot cross the compiled loop: it is kept, steps take 1 µs from there on so that the loop ends soon,
    and `check` raises it.
    """

    def __init__(self, times: StepTimes) -> None:
        self._error: Exception | None = None

        def time_of(*sums: float) -> float:
            if self._error is not None:
                return 1.0
            try:
                time = float(times(StepSums.from_columns(np.array([sums])))[0])
                if not (math.isfinite(time) and time > 0):
                    raise ValueError(f"step time: expected a positive time, found {time:g} µs for the step {sums}")
            except Exception as error:
                self._error = error
                return 1.0
            return time

        double = ctypes.c_double
        self.pointer = ctypes.CFUNCTYPE(double, *[double] * WHOLE_SUMS)(time_of)
        """What the compiled loop calls; it must not outlive this object."""

    def check(self) -> None:
        """Raise what the function raised, if it did."""
        if self._error is not None:
            raise self._error


def time_of_step(source: Any, sums: Any) -> float:
    """Time of one step, µs, from its `StepSums`, but for launches. For compiled code alone."""
    raise NotImplementedError


def _by_formula(source: Any, sums: Any) -> Any:
    new_tokens = sums.prefill_tokens + sums.decode_tokens
    parts = step_components(source.tables, sums, int(new_tokens), int(sums.decode_tokens), int(sums.requests))
    mixed = 1.0 * (sums.prefill_tokens > 0)
    tables = source.tables
    return step_time(parts, new_tokens, sums.requests, mixed, tables.layers, source.parameters, tables.norm)


def _by_callback(source: Any, sums: Any) -> Any:
    return source(*sums[:WHOLE_SUMS])


def _constant(source: Any, sums: Any) -> Any:
    return source


@overload(time_of_step)
def _choose(source: Any, sums: Any) -> Any:  # pyright: ignore[reportUnusedFunction]
    if isinstance(source, types.Float):
        return _constant
    return _by_callback if isinstance(source, types.ExternalFunctionPointer) else _by_formula
