"""Reading runs from paths: the readers of trace formats, and the doctor after them.

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
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_folder, is_there, open_file


class Reader(NamedTuple):
    """How one trace format is recognised and read."""

    detect: Callable[[Path], bool]
    read: Callable[[Path, ServerOverrides], RawRun]


READERS: dict[str, Reader] = {
    "tracev2": Reader(tracev2.detect, tracev2.read),
}
"""Format name -> reader; the first that recognises a path reads it."""

NO_OVERRIDES = ServerOverrides()


def read_raw(path: Path, overrides: ServerOverrides = NO_OVERRIDES) -> RawRun:
    """The run at `path`, a folder or a trace file, as it was recorded; `overrides` are the user's facts of its server.

    Raises InputError, one line naming file and line or field, if nothing is there, no format fits or the content
    cannot be a run.
    """
    if not is_there(path):
        raise InputError(f"{path}: no such file or folder")
    for reader in READERS.values():
        if reader.detect(path):
            return reader.read(path, overrides)
    if not is_folder(path):
        open_file(path, MOST_BYTES_OF_A_TABLE).close()  # says it if it is no file at all
    expected = "a folder with trace.yaml and trace.csv, or a trace file"
    raise InputError(f"{path}: not a run; expected {expected} (formats: {', '.join(READERS)})")


def read_run(path: str | Path, **server: Any) -> Run:
    """The run at `path`, a folder or a trace file, corrected by the doctor, whose findings it holds.

    Keywords give facts of the server that the files lack or have wrong: `gpu="H100"`, `model`, `tensor_parallel`,
    `max_num_seqs`, ... as in `roofml.traces.server.ServerOverrides`. Raises InputError as `read_raw` does, and for a
    keyword that is no fact of a server.
    """
    facts = [field.name for field in fields(ServerOverrides)]
    for name in server:
        if name not in facts:
            raise InputError(f"{name}: not a fact of a server, expected {', '.join(facts)}")
    return clean(read_raw(Path(path), ServerOverrides(**server)))


def read_runs(paths: Sequence[Path], overrides: ServerOverrides = NO_OVERRIDES, strict: bool = True) -> list[Run]:
    """Read and clean each run, and give runs that share a name unique ones. With `strict`, refuse an unusable run.

    A recording under two paths counts twice, and a finding says so. Raises InputError for an unreadable run and for a
    path given twice.
    """
    runs: list[Run] = []
    recordings: dict[Path | str, Path] = {}  # by resolved path and by identity
    for path in paths:
        is_folder(path)  # refuses a name that cannot be looked up: too long, links in a circle
        resolved = path.resolve()
        if resolved in recordings:
            raise InputError(f"{path}: given twice")
        run = clean(read_raw(path, overrides))
        if run.identity in recordings:
            run = replace(run, findings=(_copy_of(recordings[run.identity]), *run.findings))
        recordings[resolved] = recordings[run.identity] = path
        for finding in run.findings:
            if strict and finding.severity == "error":
                raise InputError(f"{path}: {finding.code}: {finding.summary} {finding.advice}")
        runs.append(run)
    return told_apart(runs)


def _copy_of(path: Path) -> Finding:
    summary = f"This is the same recording as {for_line(str(path))}, measured number by number."
    advice = "A fit counts its requests twice: leave one of the two out."
    return Finding("same-recording", "warning", summary, {"other": str(path)}, advice)
