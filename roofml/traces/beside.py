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
FEW_FILES = 40
"""Files of a folder that can be taken to be of one subject."""
ENDINGS = (".log", ".txt", ".out", ".yaml", ".yml", ".sh")
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
    known: dict[Path, bool] = field(default_factory=dict[Path, bool])

    def of(self, path: Path, source: Path, models: Sequence[str] = ()) -> ServerFiles:
        """What is said of the server of the run in the file `source`, of a RUN that was given as `path`.

        What merely lies beside a file that was given, and is not named like it, may be of anything: it counts if it
        is of the model that the client asked for (`models`), in a folder of few files.
        """
        if self.given:
            return read_server_files(self.given)
        if is_standard_input(source):
            return ServerFiles({})
        folder, depth = (path, DEPTH) if is_folder(path) else (source.absolute().parent, 1)
        if folder not in self.folders:
            self.folders[folder] = files_in(folder, depth)
        files = self.folders[folder]
        if not is_folder(path) and len(files) > FEW_FILES:  # of anything, and long to look through
            files = [file for group in _by_closeness(source, files).values() for file in group]
        mine, unclear = belonging(source, [file for file in files if self._tells(file)])
        said = read_server_files(mine)
        if mine and not is_folder(path) and not named_alike(source, mine) and not self._plausible(folder, said, models):
            return ServerFiles({}, (_unclear(mine, "which may be of anything else"),))
        return ServerFiles(said.facts, (*unclear, *said.findings), said.refused, said.hints, said.observed)

    def _tells(self, file: Path) -> bool:
        """Whether a file tells of a server; each is looked at once."""
        if file not in self.known:
            self.known[file] = kind_of(file) is not None
        return self.known[file]

    def _plausible(self, folder: Path, said: ServerFiles, models: Sequence[str]) -> bool:
        """Whether files beside a run can be of its server, though nothing in their names says so."""
        if said.refused is not None or len(self.folders[folder]) > FEW_FILES:
            return False
        theirs = {str(facts["model"]) for facts in (*said.facts.values(), *said.hints.values()) if "model" in facts}
        names = [{_last(name) for name in group} for group in (models, theirs)]
        return not all(names) or any(one in other or other in one for one in names[0] for other in names[1])


def _last(model: str) -> str:
    """The name of a model without the folders and the organization before it."""
    return model.rstrip("/").rpartition("/")[2].rpartition("--")[2].lower()


def named_alike(source: Path, files: Sequence[Path]) -> bool:
    """Whether server files are named like the run in the file `source`."""
    return any(set(files) == set(group) for group in _by_closeness(source, files).values())


def belonging(source: Path, candidates: Sequence[Path]) -> tuple[Sequence[Path], list[Finding]]:
    """Which of the server files beside a run are of its server: those named like it, else all, if they can be of one.

    With a finding where nobody can know.
    """
    named = _by_closeness(source, candidates)
    for closeness in sorted(named):
        if _of_one_server(named[closeness]):
            return named[closeness], []
    if _of_one_server(candidates):
        return candidates, []
    return [], [_unclear(candidates, "more than are of one")]


def _by_closeness(source: Path, candidates: Sequence[Path]) -> dict[int, list[Path]]:
    """Files by how alike their names are to the run's: 0 the same, 1 with a word more or less, 2 with another last."""
    ours = _words(run_name(source))
    named: dict[int, list[Path]] = {}
    for file in candidates:
        theirs = _words(file.stem if file.suffix in ENDINGS else file.name)
        if theirs == ours:
            named.setdefault(0, []).append(file)
        elif ours == theirs[:-1] or (len(ours) > 1 and ours[:-1] == theirs):
            named.setdefault(1, []).append(file)
        elif len(ours) > 1 and len(theirs) > 1 and ours[:-1] == theirs[:-1]:
            named.setdefault(2, []).append(file)
    return named


def _unclear(candidates: Sequence[Path], why: str) -> Finding:
    names = ", ".join(file.name for file in candidates[:5])
    return Finding(
        "server-files-unclear",
        "info",
        f"{len(candidates)} files beside the run tell of servers, {why}: {names}.",
        {"files": len(candidates)},
        "None was taken. Give the right one with the run, or with --server FILE.",
    )


def _of_one_server(files: Sequence[Path]) -> bool:
    kinds = Counter(kind_of(file) for file in files)
    return all(number <= MOST_OF_A_KIND.get(str(kind), 1) for kind, number in kinds.items())


def _words(name: str) -> tuple[str, ...]:
    return tuple(word for word in _BETWEEN.split(name.lower()) if word)
