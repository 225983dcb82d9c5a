"""Compiled functions that are kept on disk where there is a place for them, and compiled anew where there is none.

A read-only package in a read-only home, a full disk or a broken cache file costs time, never the result.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
from numba import njit
from numba.core.caching import FunctionCache
from numba.extending import register_jitable
from numpy.typing import NDArray

from roofml.util.interrupts import uninterrupted


class _Cache(FunctionCache):
    """Numba's cache of a function, whose failures are its own affair."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with suppress(Exception):  # a file that is cut off or of another make raises nearly anything
            return cast("Any", super()).load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception), uninterrupted():
            super().save_overload(sig, data)


def compiled(*, nogil: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """As `numba.njit(cache=True)`, with a cache that may be missing."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = cast("Any", njit)(nogil=nogil, no_cfunc_wrapper=True)(function)
        if hasattr(dispatcher, "enable_caching"):  # not so with NUMBA_DISABLE_JIT
            with suppress(RuntimeError, OSError):  # no place on this machine can be written to
                dispatcher._cache = _Cache(dispatcher.py_func)
        return dispatcher

    return decorate


def called_by_compiled(function: Callable[..., Any]) -> Any:
    """As `numba.extending.register_jitable`: compiled code calls it, and so does Python, as it is.

    Without an entry for C, which nobody calls: those of the replay's functions take a sixth of its compilation.
    """
    return cast("Any", register_jitable)(no_cfunc_wrapper=True)(function)


def entry_of(function: Any, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """A compiled function that was called with such arguments before, as one that does not look at their types again.

    For many short calls: of some eighty arrays, looking takes four fifths of one.
    """
    overloads = getattr(function, "overloads", None)  # not so with NUMBA_DISABLE_JIT
    if overloads is None:
        return function
    return cast(
        "Callable[..., Any]", overloads[tuple(cast("Any", numba).typeof(each) for each in arguments)].entry_point
    )


def digest_argument(*files: Path) -> NDArray[Any]:
    """An argument whose type names a digest of `files`, for a cached function that compiles their code in.

    That cache watches only the file a function stands in: a change of a formula it calls would go unnoticed there.
    """
    digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    return np.zeros(1, np.dtype([(f"sources_{digest}", np.int8)]))
