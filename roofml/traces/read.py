"""Reading runs from paths: recognised by content, made into runs with what files beside them say of the server.

A new format is one file in `formats/` and one row in `READERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from roofml.traces import tracev2
from roofml.traces.aggregate_run import AggregateRun, RefusedRun
from roofml.traces.beside import Beside, beside, files_in
from roofml.traces.doctor import clean
from roofml.traces.finding import Finding
from roofml.traces.formats import blis_ground_truth, csv_requests, sglang_bench, vllm_bench
from roofml.traces.from_recording import as_run, overview_of
from roofml.traces.raw import RawRun
from roofml.traces.recording import Recording
from roofml.traces.run import Run, told_apart
from roofml.traces.server import ServerOverrides, resolve_server
from roofml.traces.settings import refuse_unmodelled
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_folder, is_there, open_file
from roofml.util.standard_input import is_standard_input

READERS: Mapping[str, ModuleType] = {
    "blis-ground-truth": blis_ground_truth,
    "vllm-bench": vllm_bench,
    "sglang-bench": sglang_bench,
    "csv": csv_requests,
}
"""Format -> the module that detects and reads it, into recordings; the first that recognises a path reads it. TraceV2
stands before them: it brings its server with it."""
FORMATS = ("tracev2", *READERS)

NO_OVERRIDES = ServerOverrides()

AnyRun = Run | AggregateRun | RefusedRun


@dataclass(frozen=True, eq=False)
class Reading:
    """All that was read from some paths, in their order and the files'; names are unique."""

    every: Sequence[AnyRun]
    server: Mapping[str, Mapping[str, object]]
    """File -> what it says of a server, where files of a server alone were given."""

    @property
    def runs(self) -> list[Run]:
        """Those with the times of their requests."""
        return [run for run in self.every if isinstance(run, Run)]

    @property
    def aggregates(self) -> list[AggregateRun]:
        """Those with means alone."""
        return [run for run in self.every if isinstance(run, AggregateRun)]

    @property
    def refused(self) -> list[RefusedRun]:
        """Those that cannot be used."""
        return [run for run in self.every if isinstance(run, RefusedRun)]


def read_raw(path: Path, overrides: ServerOverrides = NO_OVERRIDES) -> RawRun:
    """The run at `path`, a folder or a trace file, as it was recorded; `overrides` are the user's facts of its server.

    Raises InputError, one line naming file and line or field, if nothing is there, no format fits, the content cannot
    be a run, there are several, or one that has means alone.
    """
    found = list(_raw_runs(path, overrides, {}, complete=True))
    if len(found) > 1:
        raise InputError(f"{path}: {len(found)} runs in it, expected one")
    (run,) = found
    if not isinstance(run, RawRun):
        raise InputError(f"{path}: {_why_not(run)}")
    return run


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

    A recording under two paths counts twice, and a finding says so. Raises InputError for an unreadable run, for one
    that has means alone, and for a path given twice.
    """
    reading = read_all(paths, overrides, strict=strict)
    for run in reading.aggregates:
        raise InputError(f"{run.source}: {_why_not(run)}")
    if paths and not reading.every:
        raise InputError(f"{', '.join(map(str, paths))}: no run in it, but {', '.join(reading.server)} of a server")
    return reading.runs


def read_all(
    paths: Sequence[Path], overrides: ServerOverrides = NO_OVERRIDES, *, strict: bool = True, complete: bool = True
) -> Reading:
    """Read and clean all runs in `paths`, and give those that share a name unique ones.

    Files of a server among them tell of every run's. With `strict`, a run that cannot be used is refused by
    InputError, unless others of its file can; with `complete`, so is one of whose server nobody says what a replay
    needs. Without, it is in what is returned, and says why. Raises InputError for what cannot be read.
    """
    every: list[AnyRun] = []
    recordings: dict[Path | str, Path] = {}  # by resolved path and by identity
    sorted_out = Beside.of(paths)
    for path in paths:
        is_folder(path)  # refuses a name that cannot be looked up: too long, links in a circle
        resolved = path.resolve() if not is_standard_input(path) else path
        if resolved in recordings:
            raise InputError(f"{path}: given twice")
        recordings[resolved] = path
        if path in sorted_out.paths:
            continue
        found = [_cleaned(raw, complete) for raw in _raw_runs(path, overrides, sorted_out.facts, complete=complete)]
        if strict:
            _refuse_errors(path, found)
        for run in found:
            if not isinstance(run, RefusedRun):
                if run.identity in recordings:
                    run = replace(run, findings=(_copy_of(recordings[run.identity]), *run.findings))
                recordings[run.identity] = path
            every.append(run)
    return Reading(told_apart(every), sorted_out.facts if not every else {})


def _refuse_errors(path: Path, found: Sequence[AnyRun]) -> None:
    """Raise InputError for a path without a usable run, and for a run that no fit should see."""
    refused = [run for run in found if isinstance(run, RefusedRun)]
    if refused and len(refused) == len(found):
        raise InputError(f"{path}: {refused[0].reason}")
    for run in found:
        for finding in run.findings:
            if finding.severity == "error":
                raise InputError(f"{path}: {finding.code}: {finding.summary} {finding.advice}")


def _why_not(run: RawRun | AggregateRun | RefusedRun) -> str:
    if isinstance(run, RefusedRun):
        return run.reason
    return "means alone and no request's times: `evaluate` and `fit` take it, and nothing else can"


def _cleaned(run: RawRun | AggregateRun | RefusedRun, complete: bool) -> AnyRun:
    if not isinstance(run, RawRun):
        return run
    if complete or run.overview is None or run.overview.format == "tracev2":
        return clean(run)
    try:
        return clean(run)
    except InputError as error:
        return RefusedRun(run.name, run.overview, str(error), run.findings, run.source, run.server)


def _raw_runs(
    path: Path, overrides: ServerOverrides, facts: Mapping[str, Mapping[str, object]], *, complete: bool
) -> Iterator[RawRun | AggregateRun | RefusedRun]:
    """What is at `path`, as it was recorded, on its server. `facts` are what files given beside it say of that."""
    if not is_there(path):
        raise InputError(f"{path}: no such file or folder")
    if tracev2.detect(path):
        yield tracev2.read(path, overrides, complete)
        return
    recordings = list(_recordings(path))
    if not recordings:
        if tracev2.looks_like(path):  # it says best what is wrong with one
            yield tracev2.read(path, overrides, complete)
            return
        if not is_folder(path):
            open_file(path, MOST_BYTES_OF_A_TABLE).close()  # says it if it is no file at all
        raise InputError(f"{path}: not a run; expected a folder or a file of one of {', '.join(FORMATS)}")
    for recording in _numbered(recordings):
        yield _on_its_server(path, recording, overrides, facts, complete)


def _recordings(path: Path) -> Iterator[Recording]:
    """The recordings at `path`: of the first format that recognises it, or of each file in a folder."""
    for module in READERS.values():
        if module.detect(path):
            yield from module.read(path)
            return
    for file in files_in(path):
        for module in READERS.values():
            if module.detect(file):
                yield from module.read(file)
                break


def _numbered(recordings: Sequence[Recording]) -> Iterator[Recording]:
    """The recordings of a path, those that share a name as `name`, `name#2`, ..."""
    used: dict[str, int] = {}
    for recording in recordings:
        name = for_line(recording.name) or "run"
        used[name] = used.get(name, 0) + 1
        yield replace(recording, name=name if used[name] == 1 else f"{name}#{used[name]}")


def _on_its_server(
    path: Path,
    recording: Recording,
    overrides: ServerOverrides,
    given: Mapping[str, Mapping[str, object]],
    complete: bool,
) -> RawRun | AggregateRun | RefusedRun:
    """A recording with its server, from itself, the files beside it, and the user's word."""
    overview = overview_of(recording)
    if recording.refused is not None:
        return RefusedRun(recording.name, overview, recording.refused, recording.findings, recording.source)
    found, findings = beside(path, Path(recording.source))
    files = {**found, **given, **recording.facts}
    folder = path if is_folder(path) else path.parent
    try:
        for name, facts in files.items():
            refuse_unmodelled(facts, str(folder / name))
        server, server_findings = resolve_server(folder, files, recording.hints, overrides, complete=complete)
        return as_run(recording, server, (*findings, *server_findings), overrides)
    except InputError as error:
        if complete:
            raise
        return RefusedRun(recording.name, overview, str(error), recording.findings, recording.source)


def _copy_of(path: Path) -> Finding:
    summary = f"This is the same recording as {for_line(str(path))}, measured number by number."
    advice = "A fit counts its requests twice: leave one of the two out."
    return Finding("same-recording", "warning", summary, {"other": str(path)}, advice)
