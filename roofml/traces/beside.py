"""Beside: which files that lie beside a run, or are given with it, tell of its server."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roofml.traces.finding import Finding
from roofml.traces.formats.documents import run_name
from roofml.traces.server_files import ServerFiles, kind_of, read_server_files
from roofml.util.reading import is_folder, refuse
from roofml.util.standard_input import is_standard_input

MOST_FILES = 2_000
"""Files of a folder that are looked at."""
DEPTH = 2
"""Folders within a folder that are looked into: tools put their results into one of their own."""
MOST_OF_A_KIND = {"/metrics": 2}
"""How many files of a kind are of one server: scrapes before and after a run. One of any other."""
_BETWEEN = re.compile(r"[-_. ]+")


def files_in(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The files in a folder and in those within it, without hidden ones, by name; nothing of what is no folder."""
    if not is_folder(folder):
        return []
    found: list[Path] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        refuse(folder, error)
    for entry in entries[:MOST_FILES]:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found += files_in(Path(entry.path), depth - 1) if depth > 1 else []
        elif entry.is_file():
            found.append(Path(entry.path))
    return found[:MOST_FILES]


@dataclass
class Neighbours:
    """The files that tell of the servers of some runs; each folder is looked through once."""

    given: Sequence[Path] = ()
    """Those that the user named: they are of all runs, and no others are looked for."""
    folders: dict[Path, list[Path]] = field(default_factory=dict[Path, list[Path]])

    def of(self, path: Path, source: Path) -> ServerFiles:
        """What is said of the server of the run in the file `source`, of a RUN that was given as `path`."""
        if self.given:
            return read_server_files(self.given)
        if is_standard_input(source):
            return ServerFiles({})
        folder, depth = (path, DEPTH) if is_folder(path) else (source.absolute().parent, 1)
        if folder not in self.folders:
            self.folders[folder] = [file for file in files_in(folder, depth) if kind_of(file) is not None]
        mine, unclear = belonging(source, self.folders[folder])
        said = read_server_files(mine)
        return ServerFiles(said.facts, (*unclear, *said.findings), said.refused, said.hints, said.observed)


def belonging(source: Path, candidates: Sequence[Path]) -> tuple[Sequence[Path], list[Finding]]:
    """Which of the server files beside a run are of its server: those named like it, else all, if they can be of one.

    With a finding where nobody can know.
    """
    ours = _words(run_name(source))
    named: dict[int, list[Path]] = {}
    for file in candidates:
        theirs = _words(file.name if file.suffix not in (".log", ".txt", ".out", ".yaml", ".yml", ".sh") else file.stem)
        if theirs == ours:
            named.setdefault(0, []).append(file)
        elif ours in (theirs[:-1], theirs) or (len(ours) > 1 and ours[:-1] == theirs):
            named.setdefault(1, []).append(file)
        elif len(ours) > 1 and len(theirs) > 1 and ours[:-1] == theirs[:-1]:
            named.setdefault(2, []).append(file)
    for closeness in sorted(named):
        if _of_one_server(named[closeness]):
            return named[closeness], []
    if _of_one_server(candidates):
        return candidates, []
    names = ", ".join(file.name for file in candidates[:5])
    return [], [
        Finding(
            "server-files-unclear",
            "info",
            f"{len(candidates)} files beside the run tell of servers, more than are of one: {names}.",
            {"files": len(candidates)},
            "None was taken. Give the right one with the run, or with --server FILE.",
        )
    ]


def _of_one_server(files: Sequence[Path]) -> bool:
    kinds = Counter(kind_of(file) for file in files)
    return all(number <= MOST_OF_A_KIND.get(str(kind), 1) for kind, number in kinds.items())


def _words(name: str) -> tuple[str, ...]:
    return tuple(word for word in _BETWEEN.split(name.lower()) if word)
