"""From the paths of a command line to diagnosed runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from roofml.cli.console import warn
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.traces import ServerOverrides
    from roofml.traces.doctor import Diagnosis


def diagnose(paths: Sequence[Path], overrides: ServerOverrides, strict: bool = True) -> list[Diagnosis]:
    """Read and examine each run. With `strict`, one that the doctor calls unusable is refused.

    Raises InputError for an unreadable run and for the same run given twice.
    """
    from roofml.traces import read_run
    from roofml.traces.doctor import examine

    found: list[Diagnosis] = []
    seen: dict[Path, Path] = {}
    for path in paths:
        place = path.resolve()
        if place in seen:
            raise InputError(f"{path}: given twice")
        seen[place] = path
        diagnosis = examine(read_run(path, overrides))
        if strict:
            for finding in diagnosis.findings:
                if finding.severity == "error":
                    raise InputError(f"{path}: {finding.code}: {finding.summary} {finding.advice}")
        found.append(diagnosis)
    return found


def warn_of(diagnoses: Sequence[Diagnosis]) -> None:
    """Say the doctor's warnings: once the rest of the command line is known to be good, for a refusal is one line."""
    for diagnosis in diagnoses:
        for finding in diagnosis.findings:
            if finding.severity == "warning":
                warn(f"{diagnosis.run.name}: {finding.summary}")


def with_gpu(diagnosis: Diagnosis, gpu: str) -> Diagnosis:
    """The diagnosis of a run on `gpu`, unless it or the command line said its own."""
    if diagnosis.run.server.gpu is not None:
        return diagnosis
    return replace(diagnosis, run=replace(diagnosis.run, server=replace(diagnosis.run.server, gpu=gpu)))
