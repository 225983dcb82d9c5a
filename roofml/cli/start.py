"""Where the console command begins: signals, streams and the environment first, and the commands only then.

Nothing heavy is imported before Ctrl-C can end the process, and no library before the environment is clean: JAX, XLA
and Numba read it when they are loaded.
"""

from __future__ import annotations

import os
from importlib import import_module

signal = import_module("_signal")  # what `signal` is made of, without the enumerations that take ten times as long

REMOVED = ("JAX_", "JAXLIB_", "XLA_", "TF_XLA_FLAGS", "NUMBA_DISABLE_JIT", "NUMBA_DEBUG", "NUMBA_BOUNDSCHECK")
"""Beginnings of variables that a shell exports for other programs, and that would change or break what we compute."""


def main() -> None:
    """Console entry point."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end_early)

    from roofml.cli import streams
    from roofml.util import interrupts

    streams.fill_closed()
    interrupts.install()
    streams.replace()
    _clean_environment()

    from roofml.cli.main import command

    interrupts.leave(command())


def _end_early(number: int, _frame: object) -> None:
    """While modules are imported: nothing is there yet that would have to be cleaned up."""
    try:
        os.write(2, b"roofml: interrupted\n")
    finally:
        os._exit(128 + number)


def _clean_environment() -> None:
    for name in list(os.environ):
        if name.startswith(REMOVED):
            del os.environ[name]
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # our matrices have thirty columns: its threads would wait for each other


if __name__ == "__main__":
    main()
