"""From paths to runs: the readers of trace formats, and the doctor behind them.

A new format is one file here and one row in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from roofml.traces import tracev2
from roofml.traces.doctor import clean
from roofml.traces.finding import Finding
from roofml.traces.raw import RawRun
from roofml.traces.run import Run, told_apart
from roofml.traces.server import ServerOverrides
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


def read_raw(path: Path, overrides: ServerOverrides = NOTHING_SAID) -> RawRun:
    """The run at `path`, a folder or a trace file, as it is recorded, with what the user says about its server.

    Raises InputError, one line naming file and line or field, where nothing is there, no format fits or the content
    cannot be a run.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    for reader in READERS.values():
        if reader.detect(path):
            return reader.read(path, overrides)
    expected = "a folder with trace.yaml and trace.csv, or a trace file"
    raise InputError(f"{path}: not a run; expected {expected} (formats: {', '.join(READERS)})")


def read_run(path: str | Path, **server: Any) -> Run:
    """The run at `path`, a folder or a trace file, corrected by the doctor: `findings` says what it found.

    What the files do not say about the server, or say wrongly, is given by name: `gpu="H100"`, `model`,
    `tensor_parallel`, `max_num_seqs`, ... as in `roofml.traces.server.ServerOverrides`. Raises InputError as `read_raw`
    does, and for a name that is no fact of a server.
    """
    known = [field.name for field in fields(ServerOverrides)]
    for name in server:
        if name not in known:
            raise InputError(f"{name}: not a fact of a server, expected {', '.join(known)}")
    return clean(read_raw(Path(path), ServerOverrides(**server)))


def read_runs(paths: Sequence[Path], overrides: ServerOverrides = NOTHING_SAID, strict: bool = True) -> list[Run]:
    """Read and clean each run; those of one name are told apart. With `strict`, an unusable one is refused.

    A recording that is there twice, under two paths, counts twice, and says so. Raises InputError for an unreadable run
    and for one path given twice.
    """
    runs: list[Run] = []
    seen: dict[Path | str, Path] = {}
    for path in paths:
        place = path.resolve()
        if place in seen:
            raise InputError(f"{path}: given twice")
        run = clean(read_raw(path, overrides))
        if run.identity in seen:
            run = replace(run, findings=(_copy_of(seen[run.identity]), *run.findings))
        seen[place] = seen[run.identity] = path
        for finding in run.findings:
            if strict and finding.severity == "error":
                raise InputError(f"{path}: {finding.code}: {finding.summary} {finding.advice}")
        runs.append(run)
    return told_apart(runs)


def _copy_of(path: Path) -> Finding:
    summary = f"This is the same recording as {path}, measured number by number."
    advice = "A fit counts its requests twice: leave one of the two out."
    return Finding("same-recording", "warning", summary, {"other": str(path)}, advice)
