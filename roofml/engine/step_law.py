"""Step laws: where the compiled replay takes a step's time from, our formula or any Python function.

The scheduler is compiled once for each kind of law (`overload` chooses by type, so nothing is decided per step):
`Formula` runs inline, a `Callback` is a C function pointer that comes back to Python, for which ctypes takes the GIL.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from roofml.latency.batch import StepTable
from roofml.latency.components import ComponentTables, step_components
from roofml.latency.formula import StepParameters, step_time

StepLaw = Callable[[StepTable], NDArray[np.float64]]
"""Steps -> their times, shape (steps,), µs, finite and positive. The replay asks for one step at a time."""


class Formula(NamedTuple):
    """Our own law."""

    tables: ComponentTables
    parameters: StepParameters


class Callback:
    """A StepLaw as a C function of a step's seven sums.

    An exception cannot cross the compiled loop: it is kept, steps take 1 µs from there on so that the loop ends soon,
    and `check` raises it.
    """

    def __init__(self, law: StepLaw) -> None:
        self._error: Exception | None = None

        def one(*sums: float) -> float:
            if self._error is not None:
                return 1.0
            try:
                time = float(law(StepTable.from_columns(np.array([sums])))[0])
                if not (math.isfinite(time) and time > 0):
                    raise ValueError(f"step law: expected a positive time, found {time:g} µs for the step {sums}")
            except Exception as error:
                self._error = error
                return 1.0
            return time

        double = ctypes.c_double
        self.pointer = ctypes.CFUNCTYPE(double, *[double] * 7)(one)
        """What the compiled loop calls; it must not outlive this object."""

    def check(self) -> None:
        """Raise what the law raised, if it did."""
        if self._error is not None:
            raise self._error


def law_us(
    law: Any,
    prefill_tokens: float,
    decode_tokens: float,
    requests: float,
    prefill_pairs: float,
    prefill_context: float,
    decode_context: float,
    decode_beyond: float,
) -> float:
    """Time of one step, µs, from the sums of a StepTable's row. For compiled code alone."""
    raise NotImplementedError


def _formula_us(
    law: Any,
    prefill_tokens: Any,
    decode_tokens: Any,
    requests: Any,
    prefill_pairs: Any,
    prefill_context: Any,
    decode_context: Any,
    decode_beyond: Any,
) -> Any:
    parts = step_components(
        law.tables,
        prefill_tokens,
        decode_tokens,
        requests,
        prefill_pairs,
        prefill_context,
        decode_context,
        decode_beyond,
        int(prefill_tokens + decode_tokens),
        int(decode_tokens),
        int(requests),
    )
    mixed = 1.0 * (prefill_tokens > 0)
    return step_time(
        parts, prefill_tokens + decode_tokens, requests, mixed, law.tables.layers, law.parameters, law.tables.norm
    )


def _callback_us(
    law: Any,
    prefill_tokens: Any,
    decode_tokens: Any,
    requests: Any,
    prefill_pairs: Any,
    prefill_context: Any,
    decode_context: Any,
    decode_beyond: Any,
) -> Any:
    return law(prefill_tokens, decode_tokens, requests, prefill_pairs, prefill_context, decode_context, decode_beyond)


@overload(law_us)
def _choose(  # pyright: ignore[reportUnusedFunction]
    law: Any,
    prefill_tokens: Any,
    decode_tokens: Any,
    requests: Any,
    prefill_pairs: Any,
    prefill_context: Any,
    decode_context: Any,
    decode_beyond: Any,
) -> Any:
    return _callback_us if isinstance(law, types.ExternalFunctionPointer) else _formula_us
