"""Readers: a run folder or trace file -> RawRun; the doctor -> Run. A new format is one file here and one row below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from roofml.traces import tracev2
from roofml.traces.raw import RawRun as RawRun
from roofml.traces.raw import ServerOverrides as ServerOverrides
from roofml.util.errors import InputError


class Reader(NamedTuple):
    """How one trace format is recognised and read."""

    detect: Callable[[Path], bool]
    read: Callable[[Path, ServerOverrides], RawRun]


READERS: dict[str, Reader] = {
    "tracev2": Reader(tracev2.detect, tracev2.read),
}
"""Format name -> reader; the first that recognises a path reads it."""

NOTHING_SAID = ServerOverrides()


def read_run(path: Path, overrides: ServerOverrides = NOTHING_SAID) -> RawRun:
    """The run at `path`, a folder or a trace file, with what the user says about its server.

    `roofml.traces.doctor.examine` makes the corrected `Run` of it. Raises InputError, one line naming file and line
    or field, where nothing is there, no format fits or the content cannot be a run.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    for reader in READERS.values():
        if reader.detect(path):
            return reader.read(path, overrides)
    expected = "a folder with trace.yaml and trace.csv, or a trace file"
    raise InputError(f"{path}: not a run; expected {expected} (formats: {', '.join(READERS)})")
