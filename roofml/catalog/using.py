"""A catalogue where other commands take a calibration: files for an export, calibrations for a plan."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from roofml.calibration.calibration import Calibration
from roofml.catalog.catalog import open_catalog
from roofml.catalog.nearest import nearest
from roofml.planning.ask import Asked
from roofml.util.errors import InputError


@contextmanager
def coefficients_files(catalog: str | None, given: Sequence[Path]) -> Generator[list[Path]]:
    """The coefficients files that a command line names: paths, or with `catalog` names of deployments in it, or all.

    Raises InputError for neither, and for a name that is not there.
    """
    if catalog is None:
        if not given:
            raise InputError("expected COEFFS files, or --catalog PLACE")
        yield list(given)
        return
    opened = open_catalog(catalog)
    with opened.files(opened.named([str(name) for name in given])) as files:
        yield files


def on_catalog(catalog: str, asked: Asked) -> list[str]:
    """Let the candidates of a plan stand on their calibrations in a catalogue, or the nearest: what stands for what."""
    opened, stand = open_catalog(catalog), asked.stand
    said: list[str] = []
    for candidate in asked.candidates:
        key = (candidate.gpu, candidate.tp, candidate.precision)
        if key in stand.made:
            continue
        try:
            deployment = stand.deployment(candidate)
        except InputError:  # the plan says of this candidate why it cannot be
            continue
        found = nearest(opened, deployment)
        stand.made[key] = found.calibration
        if not found.exact:
            said.append(f"{candidate.tp} x {candidate.gpu}: {found.sentence}")
    return said


def in_place_of(calibration: Calibration, catalog: str) -> tuple[Calibration, list[str]]:
    """The calibration of the same deployment in a catalogue, or the nearest, and what stands for what."""
    found = nearest(open_catalog(catalog), calibration.deployment)
    return found.calibration, [] if found.exact else [found.sentence]
