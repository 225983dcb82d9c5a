"""A run of any format as a trace that BLIS reproduces, and the one command line that replays it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roofml.export.a_load import is_load, load_named
from roofml.export.belongs import check_belongs
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport, read_export, server_flags
from roofml.export.edit import Edit, carry_out, existing_text
from roofml.export.folder import DEFAULTS, HORIZON_US, folder_edits, path_flags, planned
from roofml.export.hub_name import config_name, hub_repository
from roofml.export.provenance import deployment_in
from roofml.export.queueing import as_open
from roofml.export.trace import TraceFiles, as_replayed, trace_files, trace_texts, warm_up
from roofml.hardware.gpu import load_gpu
from roofml.models.spec import config_path, has_config
from roofml.traces.read import NO_OVERRIDES, read_runs
from roofml.traces.run import Run
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line, for_shell
from roofml.util.reading import is_file, was_read

TOLD_FROM = 0.01
"""Share of the tokens that a server had cached and BLIS's groups do not, from which it is told."""


@dataclass(frozen=True)
class ExportedTrace:
    """A written trace, and what whoever replays it has to know."""

    run: str
    files: TraceFiles
    others: Sequence[Path]
    """Files of the deployment that were written with it."""
    replay: Sequence[str]
    """The words of the command line that replays it."""
    calibrate: Sequence[str]
    """Those of the one that compares the replay with what was measured."""
    requests: int
    measured: int
    warm_up: int
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people: what was written, then the two command lines, each made to be pasted."""
        shown = [for_line(str(path)) for path in (self.files.header, self.files.replay, self.files.judge, *self.others)]
        return [
            f"written: {', '.join(shown)}",
            f"{self.requests} requests, {self.measured} of them measured",
            for_line(for_shell(self.replay)),
            *([for_line(for_shell(self.calibrate))] if self.measured else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml export trace --json` prints it."""
        return {
            "run": self.run,
            "header": str(self.files.header),
            "trace": str(self.files.replay),
            "measured": str(self.files.judge),
            "files": [str(path) for path in self.others],
            "requests": self.requests,
            "measured_requests": self.measured,
            "warm_up_requests": self.warm_up,
            "replay": list(self.replay),
            "calibrate": list(self.calibrate),
            "remarks": list(self.remarks),
            "warnings": list(self.warnings),
        }


def read_traced(
    text: str, coeffs: Path | None, overrides: ServerOverrides = NO_OVERRIDES, rate: float | None = None
) -> Run:
    """The run at a path, or a LOAD that nobody has served, on the server that `coeffs` are for.

    Raises InputError for what is neither, and for a load without coefficients.
    """
    if not is_load(text):
        if rate is not None:
            raise InputError("--rate: expected a LOAD, a recorded run has its own")
        return read_runs([Path(text)], overrides)[0]
    if coeffs is None:
        raise InputError(f"{text}: a load has no server: give --coeffs FILE")
    return as_open(load_named(text, rate), read_export(coeffs), coeffs)


def export_trace(run: Run, folder: Path, coeffs: Path | None = None, *, replace: bool = False) -> ExportedTrace:
    """Write `run` as a trace into `folder`, which is made if it is not there.

    With `coeffs`, a coefficients file, the folder also gets all that BLIS needs of the deployment, and the line names
    it; so it does where an earlier export put that there. Raises InputError for coefficients of another deployment,
    and, unless `replace`, where another trace is in the way.
    """
    export = None if coeffs is None else read_export(coeffs)
    if export is not None:
        check_belongs(export, run)
    there = export is None and _holds_deployment(folder, run)
    files = trace_files(folder)
    texts = trace_texts(run, files)
    for path in texts:
        if _was_read(path):
            raise InputError(f"{path}: is an input of this command, expected another folder for the trace")

    def plan() -> list[Edit]:
        edits = [Edit(path, existing_text(path), text, makes_folder=True) for path, text in texts.items()]
        for edit in edits:
            if edit.before is not None and edit.changed and not replace:
                raise InputError(f"{edit.path}: holds another trace: give another folder, or say --replace")
        return edits + ([] if export is None else folder_edits(export, folder, replace=replace))

    edits, _ = carry_out(plan, plan(), backup=False)
    known = [] if export is None else [remark.text for remark in planned(export, folder, None)]
    notes, warnings = _lost(run)
    if export is None and not there:
        notes.append(f"{DEFAULTS} is BLIS's own: run the line where that is, or give --coeffs FILE")
    return ExportedTrace(
        run.name,
        files,
        [edit.path for edit in edits[len(texts) :]],
        _replay(run, files, folder, export, there),
        _calibrate(files, folder),
        len(run),
        int(run.ok.sum()),
        warm_up(run),
        (*known, *notes),
        (*(export.warnings if export is not None else ()), *warnings),
    )


def _was_read(path: Path) -> bool:
    """Whether this command has read the file that is there."""
    try:
        return was_read(path.stat())
    except OSError:  # there is none, or writing says why not
        return False


def entry_of(run: Run) -> ModelEntry:
    """The run's deployment as BLIS's command line names it. Raises InputError without a GPU."""
    server = run.server
    if server.gpu is None:
        raise InputError(f"{run.name}: the run does not say its GPU: give --gpu")
    named = config_name(server.model)
    name = config_path(named).parent.name if has_config(named) else ""
    name = name or server.model.rstrip("/").rsplit("/", 1)[-1]
    return ModelEntry(name, load_gpu(server.gpu).name, server.tensor_parallel, hub_repository(server.model))


def _replay(run: Run, files: TraceFiles, folder: Path, export: BlisExport | None, there: bool) -> list[str]:
    server = run.server
    limits = (server.max_num_seqs, server.max_num_batched_tokens, server.max_model_len)
    entry = entry_of(run) if export is None else export.model
    words = ["blis", "replay", "--trace-header", str(files.header), "--trace-data", str(files.replay)]
    words += ["--results-path", str(folder / "results.json"), "--horizon", str(HORIZON_US)]
    words += server_flags(entry, server.num_gpu_blocks, server.block_size, *limits)
    if export is not None:
        return words + path_flags(export, folder)
    return [*words, "--defaults-filepath", str(folder / DEFAULTS)] if there else words


def _calibrate(files: TraceFiles, folder: Path) -> list[str]:
    words = ["blis", "calibrate", "--trace-header", str(files.header), "--trace-data", str(files.judge)]
    return [*words, "--sim-results", str(folder / "results.json"), "--report", str(folder / "report.json")]


def _holds_deployment(folder: Path, run: Run) -> bool:
    """Whether an earlier export put the run's own deployment into the folder.

    Raises InputError where it is another's: the line would replay with its coefficients.
    """
    path = folder / DEFAULTS
    if not is_file(path):
        return False
    there, ours = deployment_in((existing_text(path) or "").splitlines()), entry_of(run)
    if there is not None and (there.model, there.gpu, there.tp) != (ours.key, ours.gpu, str(ours.tensor_parallel)):
        raise InputError(f"{path}: is of {there}, and the run of {ours.key} on {ours.gpu}: give another folder")
    return there is not None


def _lost(run: Run) -> tuple[list[str], list[str]]:
    """What BLIS's form cannot hold of a run: remarks, and warnings."""
    notes: list[str] = []
    warnings: list[str] = []
    server = run.server
    if server.prefix_caching:
        had = np.where(run.prefix_group >= 0, np.minimum(run.prefix_tokens, run.prompt_tokens - 1), 0).sum()
        has = as_replayed(run).prefix_tokens.sum()
        if had > 0 and 1 - has / had > TOLD_FROM:
            held = f"BLIS's prefix groups hold {100 * has / had:.0f} % of the tokens that prompts share"
            warnings.append(f"{held}: a group has one length")
    too_long = run.prompt_tokens + run.output_tokens > server.max_model_len
    if too_long.any():
        warnings.append(f"BLIS drops {int(too_long.sum())} requests: longer than max_model_len {server.max_model_len}")
    if run.clients:
        notes.append(f"{run.clients} clients in a closed loop: the trace has the times at which they really sent")
    if math.isfinite(run.deadline_us):
        notes.append(f"requests without an answer after {run.deadline_us / 1e6:.1f} s are given up, as the client did")
    if len(run.priority) and server.settings.policy == "priority":
        warnings.append(
            "the server's policy was priority, and the trace has none: BLIS serves first come, first served"
        )
    if server.fresh:
        notes.append("BLIS knows no cold start: the first ten seconds of a server that had just started are slower")
    return notes, warnings
