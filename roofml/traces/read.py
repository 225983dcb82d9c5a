"""Reading runs from paths: recognised by content, made into runs with what files beside them say of the server.

A new format is one file in `formats/` and one row in `READERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from roofml.traces import forwards as exact
from roofml.traces import tracev2
from roofml.traces.aggregate_run import AggregateRun, RefusedRun
from roofml.traces.beside import Neighbours, files_in
from roofml.traces.doctor import clean
from roofml.traces.finding import Finding
from roofml.traces.formats import (
    aiperf,
    blis_ground_truth,
    csv_requests,
    guidellm,
    inference_perf,
    llmperf,
    llmservingsim,
    otel_spans,
    sglang_bench,
    vllm_bench,
    workload,
)
from roofml.traces.from_recording import as_run, overview_of
from roofml.traces.raw import RawRun
from roofml.traces.recording import Recording
from roofml.traces.run import Run, told_apart
from roofml.traces.server import ServerOverrides, resolve_server
from roofml.traces.server_files import ServerFiles, is_server_file, server_reports
from roofml.traces.settings import refuse_unmodelled
from roofml.traces.steps import is_steps
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE, is_folder, is_there, open_file
from roofml.util.standard_input import is_standard_input

READERS: Mapping[str, ModuleType] = {
    "blis-ground-truth": blis_ground_truth,
    "vllm-bench": vllm_bench,
    "sglang-bench": sglang_bench,
    "guidellm": guidellm,
    "inference-perf": inference_perf,
    "aiperf": aiperf,
    "llmperf": llmperf,
    "llmservingsim": llmservingsim,
    "otel-spans": otel_spans,
    "workload": workload,
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
    servers: Sequence[ServerFiles] = ()
    """What files say of servers, where no run was given with them."""
    steps: Sequence[Path] = ()
    """Tables of steps among the paths."""
    forwards: Sequence[exact.Forwards] = ()
    """Files of exact batches among them."""

    @property
    def runs(self) -> list[Run]:
        """Those with the times of their requests."""
        return [run for run in self.every if isinstance(run, Run)]

    @property
    def aggregates(self) -> list[AggregateRun]:
        """Those with means alone."""
        return [run for run in self.every if isinstance(run, AggregateRun)]

    @property
    def judged(self) -> list[Run | AggregateRun]:
        """Both, in their order."""
        return [run for run in self.every if not isinstance(run, RefusedRun)]

    @property
    def why_nothing(self) -> str | None:
        """Why nothing of all that can be used; None where something can, facts, steps and exact batches too."""
        if self.steps or self.forwards or any(server.refused is None for server in self.servers):
            return None
        reasons = [run.reason for run in self.every if isinstance(run, RefusedRun)]
        if len(reasons) < len(self.every):
            return None
        reasons += [server.refused for server in self.servers if server.refused is not None]
        return reasons[0] if len(reasons) == 1 else f"nothing can be used of {len(reasons)}: {'; '.join(reasons)}"


def read_raw(path: Path, overrides: ServerOverrides = NO_OVERRIDES) -> RawRun:
    """The run at `path`, a folder or a trace file, as it was recorded; `overrides` are the user's facts of its server.

    Raises InputError, one line naming file and line or field, if nothing is there, no format fits, the content cannot
    be a run, there are several, or one that has means alone.
    """
    found = list(_raw_runs(path, overrides, Neighbours(), complete=True))
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
        for path in reading.steps:
            open_file(path, MOST_BYTES_OF_A_TABLE).close()  # says it if it is no file at all
        what = "exact batches that were timed" if reading.forwards else "what a server was told"
        what = "a table of steps" if reading.steps else what
        raise InputError(f"{paths[0]}: not a run, but {what}: expected a run beside it")
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
    for path in paths:
        is_folder(path)  # refuses a name that cannot be looked up: too long, links in a circle
        resolved = path.resolve() if not is_standard_input(path) else path
        if resolved in recordings:
            raise InputError(f"{path}: given twice")
        recordings[resolved] = path
    kinds = {path: kind_of_path(path) for path in paths}
    # A server's log tells of it, and with lines of iterations of its steps too.
    servers = [path for path in paths if kinds[path] == "server" or (kinds[path] == "steps" and is_server_file(path))]
    neighbours = Neighbours([file for path in servers for file in (files_in(path) if is_folder(path) else [path])])
    for path in paths:
        if kinds[path] != "run":
            continue
        found = [_cleaned(raw, complete) for raw in _raw_runs(path, overrides, neighbours, complete=complete)]
        if strict:
            _refuse_errors(path, found)
        for run in found:
            if not isinstance(run, RefusedRun):
                if run.identity in recordings:
                    run = replace(run, findings=(_copy_of(recordings[run.identity]), *run.findings))
                recordings[run.identity] = path
            every.append(run)
    reports = server_reports(servers) if servers and not every else []
    server = next((run.server for run in every if isinstance(run, Run)), None)
    timed = [
        exact.on_their_server(exact.read(path), overrides, server, complete)
        for path in paths
        if kinds[path] == "forwards"
    ]
    return Reading(told_apart(every), reports, [path for path in paths if kinds[path] == "steps"], timed)


def kind_of_path(path: Path) -> str:
    """`run`, `steps` for a table of steps, `forwards` for exact batches, or `server` for what tells of a server alone.

    What is nothing is a `run`.
    """
    if not is_folder(path):
        if exact.detect(path):
            return "forwards"
        if is_steps(path):
            return "steps"
        if any(reader.detect(path) for reader in (tracev2, *READERS.values())):
            return "run"
        return "server" if is_server_file(path) else "run"
    if any(reader.detect(path) for reader in (tracev2, *READERS.values())):
        return "run"
    inside = files_in(path)
    if any(reader.detect(file) for file in inside for reader in READERS.values()):
        return "run"
    return "server" if any(is_server_file(file) for file in inside) else "run"


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
    path: Path, overrides: ServerOverrides, neighbours: Neighbours, *, complete: bool
) -> Iterator[RawRun | AggregateRun | RefusedRun]:
    """What is at `path`, as it was recorded, on its server, of which files beside it tell."""
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
        expected = "a folder with trace.yaml and trace.csv, or a folder or file of another format"
        raise InputError(f"{path}: not a run; expected {expected} ({', '.join(FORMATS)})")
    for file, recording in _numbered(recordings):
        yield _on_its_server(path, file, recording, overrides, neighbours, complete)


def _recordings(path: Path) -> Iterator[tuple[Path, Recording]]:
    """The recordings at `path`, each with its file: of the first format that recognises it, or of each in a folder."""
    for module in READERS.values():
        if module.detect(path):
            yield from ((path, recording) for recording in module.read(path))
            return
    for file in files_in(path):
        for module in READERS.values():
            if module.detect(file):
                yield from ((file, recording) for recording in module.read(file))
                break


def _numbered(recordings: Sequence[tuple[Path, Recording]]) -> Iterator[tuple[Path, Recording]]:
    """The recordings of a path, those that share a name as `name`, `name#2`, ..."""
    used: dict[str, int] = {}
    for file, recording in recordings:
        name = for_line(recording.name) or "run"
        used[name] = used.get(name, 0) + 1
        yield file, replace(recording, name=name if used[name] == 1 else f"{name}#{used[name]}")


def _on_its_server(
    path: Path,
    file: Path,
    recording: Recording,
    overrides: ServerOverrides,
    neighbours: Neighbours,
    complete: bool,
) -> RawRun | AggregateRun | RefusedRun:
    """A recording with its server, from itself, the files beside it, and the user's word."""
    overview = overview_of(recording)

    def refused(reason: str) -> RefusedRun:
        return RefusedRun(recording.name, overview, reason, recording.findings, recording.source)

    if recording.refused is not None:
        return refused(recording.refused)
    folder = path if is_folder(path) else path.parent
    try:
        asked = [facts["model"] for facts in (*recording.hints.values(), *recording.facts.values()) if "model" in facts]
        said = neighbours.of(path, file, [str(model) for model in asked])
        files = {**said.facts, **recording.facts}
        if said.refused is not None:
            return refused(said.refused)
        for name, facts in files.items():
            refuse_unmodelled(facts, str(folder / name))
        hints = {**recording.hints, **said.hints}
        server, findings = resolve_server(folder, files, hints, overrides, complete=complete, run=path)
        return as_run(recording, server, (*said.findings, *findings), overrides)
    except InputError as error:
        if complete:
            raise
        return refused(str(error))


def _copy_of(path: Path) -> Finding:
    summary = f"This is the same recording as {for_line(str(path))}, measured number by number."
    advice = "A fit counts its requests twice: leave one of the two out."
    return Finding("same-recording", "warning", summary, {"other": str(path)}, advice)
