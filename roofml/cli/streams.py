"""Standard output and error of the command: closed, full or broken ones end it in one line, not in a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any, cast

from roofml.util.errors import because


class OutputError(Exception):
    """What was printed cannot be written. The message is one line, empty where the reader has just gone."""

    def __init__(self, error: OSError) -> None:
        """Keep the system's reason."""
        gone, closed = isinstance(error, BrokenPipeError), error.errno == errno.EBADF
        super().__init__("" if gone else f"standard output: {'is closed' if closed else because(error)}")


class _Output(io.TextIOWrapper):
    """Standard output whose failures are told from those of other files."""

    def write(self, s: str, /) -> int:
        try:
            return super().write(s)
        except OSError as error:
            raise OutputError(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputError(error) from None


class _Remarks(io.TextIOWrapper):
    """Standard error: what it cannot take is lost, and the command goes on."""

    def write(self, s: str, /) -> int:
        with suppress(OSError):
            return super().write(s)
        return len(s)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def fill_closed() -> None:
    """Open what the shell closed (`>&-`), so that no file of ours gets the number of a standard stream.

    What is printed to a closed standard output fails, as it should; to a closed standard error it is lost.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free, which is this one


def replace() -> None:
    """Put streams in the place of Python's, once, that fail as described above.

    A character that a terminal cannot show is written out as an escape. A file or a pipe gets UTF-8 in every locale.
    """
    if isinstance(sys.stdout, _Output):
        return
    for number, name, kind in ((1, "stdout", _Output), (2, "stderr", _Remarks)):
        before = getattr(sys, name)  # None for what was closed when Python started
        terminal = os.isatty(number)
        encoding = "utf-8"
        if before is not None:
            with suppress(OSError, ValueError):
                before.flush()
        if terminal and isinstance(before, io.TextIOWrapper):
            encoding = before.encoding
            raw = cast("Any", before.detach())  # Windows has a way of its own to write to a console
        else:
            raw = open(number, "wb", closefd=False)  # noqa: SIM115 (for as long as the process lives)
        stream = kind(raw, encoding=encoding, errors="backslashreplace", line_buffering=terminal or number == 2)
        setattr(sys, name, stream)


def finish() -> str | None:
    """Put out what was printed. If that fails, return why, in a line, empty where the reader has just gone."""
    try:
        sys.stdout.flush()
    except OutputError as error:
        abandon()
        return str(error)
    return None


def abandon() -> None:
    """Let what standard output still holds go nowhere, or Python would try once more at its end, and complain."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
