"""Beside: which files that lie beside a run, or are given with it, tell of its server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roofml.traces.finding import Finding
from roofml.traces.recording import Facts
from roofml.util.reading import is_folder, refuse

MOST_FILES = 2_000
"""Files of a folder that are looked at."""
DEPTH = 2
"""Folders within a folder that are looked into: tools put their results into one of their own."""


def files_in(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The files in a folder and in those within it, without hidden ones, by name; nothing of what is no folder."""
    if not is_folder(folder):
        return []
    found: list[Path] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        refuse(folder, error)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found += files_in(Path(entry.path), depth - 1) if depth > 1 else []
        else:
            found.append(Path(entry.path))
    return found[:MOST_FILES]


@dataclass(frozen=True)
class Beside:
    """What of some paths tells of a server and is no run."""

    paths: Sequence[Path]
    facts: Mapping[str, Facts]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Beside:
        """Those among `paths`."""
        return cls((), {})


def beside(path: Path, source: Path) -> tuple[Mapping[str, Facts], list[Finding]]:
    """What the files beside the run file `source`, of the RUN that was given as `path`, say of its server."""
    return {}, []
