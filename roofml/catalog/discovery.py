"""Discovery: which folders below a place may hold runs.

Every folder that directly holds files is one candidate, and is read as one thing: its files, and those of folders in it
that are named for what lies beside a run (COMPANIONS). What is in a candidate is only seen when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from roofml.jobs.places import Entry, Place
from roofml.util.digest import digest
from roofml.util.errors import InputError

COMPANIONS = frozenset({"log", "logs", "metrics", "scrapes", "server", "config", "configs", "prometheus", "telemetry"})
"""Names of folders that belong to the folder they are in: a server's log, its settings, scrapes of it."""
MOST_FILES_OF_ONE = 2_000
"""Files of a candidate: more are no run's (`traces.beside.MOST_FILES`)."""


@dataclass(frozen=True)
class Candidate:
    """One folder below a place."""

    folder: str
    """Path from the place, with `/`; `.` for the place itself."""
    files: tuple[Entry, ...]
    """By name; names are from the place."""
    whole: bool
    """Whether these are all files below the folder, so that it can be read where it lies."""

    @property
    def problem(self) -> str:
        """Why it cannot be read at all; empty where that is not known yet."""
        if len(self.files) > MOST_FILES_OF_ONE:
            return f"{len(self.files)} files, expected at most {MOST_FILES_OF_ONE}"
        return next((f"{entry.name}: {entry.problem}" for entry in self.files if entry.problem), "")

    @property
    def signature(self) -> str | None:
        """Changes when a file does, as far as names, sizes and times say; None where the place says no times."""
        if not all(entry.version for entry in self.files):
            return None
        return digest(*(f"{entry.name}\0{entry.size}\0{entry.version}" for entry in self.files))


def candidates(place: Place, without: str | None = None) -> list[Candidate]:
    """All candidates of a place, by folder, but those below the folder `without` of it.

    Raises InputError where the place cannot be listed or has no file.
    """
    entries = [entry for entry in place.entries() if without is None or not entry.name.startswith(f"{without}/")]
    if not entries:
        raise InputError(f"{place.shown}: no file below it, expected runs")
    return grouped(entries)


def grouped(entries: Sequence[Entry]) -> list[Candidate]:
    """The candidates of a listing."""
    folders = {PurePosixPath(entry.name).parent for entry in entries}
    by_folder: dict[PurePosixPath, list[Entry]] = {}
    for entry in entries:
        folder = PurePosixPath(entry.name).parent
        while folder.name.lower() in COMPANIONS and folder.parent in folders:
            folder = folder.parent
        by_folder.setdefault(folder, []).append(entry)
    above = {parent for folder in by_folder for parent in folder.parents}
    found = [
        Candidate(str(folder), tuple(sorted(files)), whole=folder not in above) for folder, files in by_folder.items()
    ]
    return sorted(found, key=lambda candidate: candidate.folder)
