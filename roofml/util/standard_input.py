"""Standard input as a file that can be read more than once: `-` on a command line."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import tempfile
from pathlib import Path

from roofml.util.errors import InputError

STANDARD_INPUT = Path("-")
BLOCK = 1 << 20


def is_standard_input(path: Path) -> bool:
    """Whether the path is `-`. A file of that name is reached by its full path."""
    return path == STANDARD_INPUT


@functools.cache
def kept(most: int) -> Path:
    """A temporary file with all of standard input, which is read once. Raises InputError for more than `most` bytes."""
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("-: there is no standard input")
    if sys.stdin.isatty():
        raise InputError("-: standard input is a terminal, expected a file or another command's output")
    handle, name = tempfile.mkstemp(prefix="roofml-stdin-")
    atexit.register(_remove, name)
    size = 0
    with os.fdopen(handle, "wb") as file:
        while block := sys.stdin.buffer.read(BLOCK):
            size += len(block)
            if size > most:
                raise InputError(f"-: more than {most} bytes, expected at most that")
            file.write(block)
    return Path(name)


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        Path(name).unlink()
