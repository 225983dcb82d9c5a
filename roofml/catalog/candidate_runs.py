"""The runs of a candidate, read where it lies or from a copy, and told about as plain data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from roofml.catalog.discovery import Candidate
from roofml.catalog.key import key_of
from roofml.jobs.places import LocalPlace, Place, place_of
from roofml.models.load import load_model
from roofml.traces.aggregate_run import AggregateRun, RefusedRun
from roofml.traces.read import read_all
from roofml.traces.run import Run, missing_of
from roofml.traces.server import ServerOverrides
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.interrupts import temporary_folder
from roofml.util.outside_text import for_line
from roofml.util.reading import MOST_BYTES_OF_A_TABLE

_DATE = re.compile(r"(?<!\d)(20\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A candidate of a place: plain data, which can be sent to other machines."""

    address: str
    folder: str
    files: tuple[tuple[str, int], ...]
    """Names from the place, and sizes."""
    whole: bool

    @classmethod
    def of(cls, place: Place, candidate: Candidate) -> Source:
        """That of a candidate."""
        files = tuple((entry.name, entry.size) for entry in candidate.files)
        return cls(place.address, candidate.folder, files, candidate.whole)


def told(source: Source, overrides: ServerOverrides) -> dict[str, Any]:
    """What is in a candidate: `runs` that can be fitted, and `refused` ones, each with the reason. Plain data."""
    runs: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    with _here(source) as folder:
        try:
            every = read_all([folder], overrides, strict=False, complete=False).every
        except InputError as error:
            return {"runs": [], "refused": [{"run": None, "reason": _plain(str(error), folder, source)}]}
        for run in every:
            try:
                runs.append(_facts(run, source))
            except InputError as error:
                refused.append({"run": run.name, "reason": _plain(str(error), folder, source)})
        if not every:
            reason = "no run in it: files of a server, tables of steps or exact batches alone"
            refused.append({"run": None, "reason": reason})
    return {"runs": runs, "refused": refused}


def runs_of(
    source: Source, overrides: ServerOverrides, wanted: Sequence[Mapping[str, Any]], server: Mapping[str, Any]
) -> list[Run]:
    """The runs of a candidate that a fit takes, by content, under the names and with the server that it has for them.

    Raises InputError where they are not there any more as they were told about.
    """
    with _here(source) as folder:
        found = read_all([folder], overrides, strict=False, complete=False).runs
    by_content = {content_of(run): run for run in reversed(found)}
    chosen: list[Run] = []
    for each in wanted:
        if each["content"] not in by_content:
            raise InputError(f"{each['name']}: changed while it was read: run the same command again")
        run = by_content[each["content"]]
        chosen.append(replace(run, name=each["name"], server=replace(run.server, **server)))
    return chosen


def content_of(run: Run) -> str:
    """A digest of all of a run that a fit depends on: what was measured, as corrected, and its server."""
    arrays = ("arrival_us", "prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens", "ttft_us", "e2e_us")
    more = ("ok", "counted_tokens", "late", "priority", "stage")
    server = asdict(run.server)
    server.pop("said_by")
    facts = repr((sorted(server.items(), key=str), run.saturated, run.deadline_us, run.clients))
    return digest(run.identity, facts, *(np.asarray(getattr(run, name)) for name in (*arrays, *more)))


def _facts(run: Run | AggregateRun | RefusedRun, source: Source) -> dict[str, Any]:
    """A run as plain data. Raises InputError, with the reason, for one that no fit may see."""
    if isinstance(run, RefusedRun):
        raise InputError(run.reason)
    if isinstance(run, AggregateRun):
        raise InputError("means alone and no request's times: `roofml fit` takes it, a catalogue does not")
    for reason in missing_of(run.server):
        raise InputError(reason)
    for finding in run.findings:
        if finding.severity == "error":
            raise InputError(f"{finding.code}: {finding.summary} {finding.advice}")
    if run.overview is not None and run.overview.unfit is not None:
        raise InputError(f"cannot be fitted on: {run.overview.unfit}")
    measured = int(run.ok.sum())
    if measured == 0:
        raise InputError("no successful request")
    key, model = key_of(run.server), load_model(run.server.model)
    return {
        "name": run.name,
        "identity": run.identity,
        "content": content_of(run),
        "key": key.to_dict(),
        "model": model.name,
        "hf_repo": run.server.model,
        "gpu_said": run.server.gpu,
        "engine_version_said": run.server.engine_version,
        "kv_said": run.server.kv_dtype,
        "requests": measured,
        "saturated": run.saturated,
        "recorded": _recorded(f"{source.folder}/{run.name}"),
        "findings": dict(sorted(Counter(finding.severity for finding in run.findings).items())),
        "seats": run.server.max_num_seqs,
    }


def _recorded(name: str) -> str | None:
    """The last date in the names of a run and its folders, which is when it was recorded as far as anything says."""
    for match in reversed(list(_DATE.finditer(name))):
        try:
            return date(int(match[1]), int(match[2]), int(match[3])).isoformat()
        except ValueError:  # a 31st of a short month
            continue
    return None


@contextmanager
def _here(source: Source) -> Generator[Path]:
    """The candidate as a folder of this machine that holds its files and no others."""
    place = place_of(source.address)
    if isinstance(place, LocalPlace) and source.whole:
        yield place.path / source.folder
        return
    with temporary_folder("roofml-run-") as temporary:
        # The folder's own name is the run's, where its files give it none.
        named = temporary / (PurePosixPath(source.folder).name or PurePosixPath(place.shown).name or "runs")
        named.mkdir()
        for name, size in source.files:
            below = name if source.folder == "." else name.removeprefix(f"{source.folder}/")
            copy = named / below
            copy.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(place, LocalPlace):
                copy.symlink_to(place.path / name)
            else:
                copy.write_bytes(place.read(name, size or MOST_BYTES_OF_A_TABLE))
        yield named


def _plain(text: str, folder: Path, source: Source) -> str:
    """A reason that names files from the place on, wherever the candidate lay when it was read."""
    return for_line(text.replace(str(folder), source.folder))
