"""Making a leaderboard, from a request to the written files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roofml.jobs.cluster import Wanted
from roofml.jobs.cluster import check_installed as check_dask
from roofml.util.errors import InputError
from roofml.util.outside_text import for_shell
from roofml.util.reading import is_folder, is_there
from roofml.util.writing import check_writable, write_files
from roofml.validation.leaderboard.board import board
from roofml.validation.leaderboard.cells import Inputs, cells, folds_of, load
from roofml.validation.leaderboard.page import markdown, picture
from roofml.validation.leaderboard.predictors import PREDICTORS, check_installed

ELSEWHERE = ("roofml", "global-9", "extended", "per-model-9", "package-prior", "wide-prior", "no-cold-start")
"""Variants that also run by the protocols that leave out a model or a workload. The others are about the trace."""


@dataclass(frozen=True)
class Request:
    """The request of a command line."""

    runs: tuple[Path, ...]
    gpu: str | None
    steps: tuple[Path, ...]
    protocols: tuple[str, ...]
    predictors: tuple[str, ...]
    """Only these predictors; all of them if none is named."""
    seed: int
    all_protocols: bool
    """Whether no protocol was named."""

    def selected(self) -> dict[str, list[str]]:
        """Return protocol -> predictors. Raises InputError for a name that is no predictor."""
        for name in self.predictors:
            if name not in PREDICTORS:
                raise InputError(f"--method {name!r}: expected one of {', '.join(PREDICTORS)}")
        return {
            protocol: [
                name
                for name, predictor in PREDICTORS.items()
                if (
                    name in self.predictors
                    if self.predictors
                    else protocol == "temporal" or predictor.kind == "baseline" or name in ELSEWHERE
                )
            ]
            for protocol in self.protocols
        }

    def command(self, output: Path) -> str:
        """Return the command line that makes the same board."""
        given: list[str] = ["--gpu", self.gpu] if self.gpu else []
        for path in self.steps:
            given += ["--steps", str(path)]
        for protocol in () if self.all_protocols else self.protocols:
            given += ["--protocol", protocol]
        for name in self.predictors:
            given += ["--method", name]
        if self.seed:
            given += ["--seed", str(self.seed)]
        several = len(self.runs) > 1
        places = (f"{for_shell([str(path.parent)])}/*" if several else for_shell([str(path)]) for path in self.runs)
        return f"roofml leaderboard {' '.join(dict.fromkeys(places))} {for_shell([*given, '-o', str(output)])}"


def written_files(output: Path | None) -> list[Path]:
    """Return the Markdown file and the JSON and PNG files beside it.

    Raises InputError if two of them would have the same name, or if one cannot be written.
    """
    if output is None:
        return []
    check_writable(output)
    files = [output, output.with_suffix(".json"), output.with_suffix(".png")]
    if len({os.path.realpath(file) for file in files}) < len(files):
        raise InputError(f"{output}: expected a name that does not end in .json or .png, which are written beside it")
    for file in files[1:]:
        check_writable(file)
    return files


def make(
    request: Request,
    output: Path | None,
    folder: Path,
    wanted: Wanted,
    on_cell: Callable[[int, int, str], None],
    on_cluster: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return the board as one JSON document. If `output` is given, write the files there and beside it.

    Cells are kept in `folder`. `wanted` says who computes them. `on_cell(done, total, what)` is called for each cell
    when it is ready, `on_cluster` with the address of Dask's page. Raises InputError, before anything is computed, if
    the request cannot be met.
    """
    selected, files = request.selected(), written_files(output)
    if wanted.scheduler is not None:
        check_dask("--scheduler")
    if is_there(folder) and not is_folder(folder):
        raise InputError(f"{folder}: expected a folder")
    check_installed([name for names in selected.values() for name in names], picture=output is not None)
    steps = tuple(path.resolve() for path in request.steps)
    inputs = Inputs(tuple(path.resolve() for path in request.runs), request.gpu, steps, request.seed)
    runs = load(inputs).runs
    written_files(output)  # none of them may be among what was read
    for protocol in request.protocols:
        folds_of(protocol, runs)
    total, done = sum(map(len, selected.values())), 0

    def count(protocol: str, name: str, cached: bool) -> None:
        nonlocal done
        done += 1
        on_cell(done, total, f"{protocol} {name}{' (known)' if cached else ''}")

    on_cell(0, total, f"{total} cells")
    document = board(inputs, cells(inputs, selected, folder, wanted, count, on_cluster))
    if output is not None:
        page = markdown(document, request.command(output))
        write_files(dict(zip(files, (page, as_text(document), picture(document)), strict=True)))
    return document


def as_text(document: object) -> str:
    """Return JSON indented by two spaces, as files have it."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
