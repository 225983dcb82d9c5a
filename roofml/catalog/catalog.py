"""A catalogue that was made, opened to be used."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from roofml.calibration.coefficients import SCHEMA, Coefficients, coefficients_of
from roofml.calibration.other_models import OtherModels, read_other_models
from roofml.calibration.prior import Prior
from roofml.catalog.index import Row, read_index
from roofml.catalog.names import COEFFS, INDEX, global_name
from roofml.jobs.places import LocalPlace, Place, place_of
from roofml.latency.deployment import Deployment
from roofml.util.digest import digest
from roofml.util.errors import InputError
from roofml.util.interrupts import temporary_folder
from roofml.util.reading import as_text
from roofml.util.schema import check_version
from roofml.util.yaml_io import parse_mapping

MOST_BYTES = 4_000_000


@dataclass(frozen=True, eq=False)
class Catalog:
    """The calibrations of many deployments, below one place."""

    place: Place
    rows: Sequence[Row]

    def coefficients(self, row: Row) -> tuple[Coefficients, Path]:
        """The coefficients of a row, and the name of their file for errors.

        Raises InputError for a file that cannot be read, or is not the one that the index is of.
        """
        name = f"{COEFFS}/{row.name}.yaml"
        where = Path(f"{self.place.shown}/{name}")
        text = as_text(self.place.read(name, MOST_BYTES), where)
        if digest(text) != row.coefficients_sha256:
            raise InputError(f"{where}: is not the file that {INDEX} is of: `roofml catalog fit` writes both")
        document = parse_mapping(text, where)
        check_version(document, SCHEMA, where)
        return coefficients_of(document, where), where

    @contextmanager
    def files(self, rows: Sequence[Row]) -> Generator[list[Path]]:
        """Files of this machine with the coefficients of some rows, for as long as the block runs."""
        if isinstance(self.place, LocalPlace):
            yield [self.place.path / COEFFS / f"{row.name}.yaml" for row in rows]
            return
        with temporary_folder("roofml-catalog-") as folder:
            copies: list[Path] = []
            for row in rows:
                name = PurePosixPath(row.name).name  # of an index from outside: no path
                copies.append(folder / f"{name}.yaml")
                copies[-1].write_bytes(self.place.read(f"{COEFFS}/{name}.yaml", MOST_BYTES))
            yield copies

    def named(self, names: Sequence[str]) -> list[Row]:
        """The rows of these names, all without any. Raises InputError for one that is not there."""
        by_name = {row.name: row for row in self.rows}
        for name in names:
            if name not in by_name:
                raise InputError(f"{self.place.shown}: no deployment {name}, expected one of {', '.join(by_name)}")
        return [by_name[name] for name in names] if names else list(self.rows)

    def others(self, gpu: str) -> OtherModels | None:
        """The fits of all models on a GPU; None where it has none."""
        if all(row.gpu != gpu for row in self.rows):
            return None
        name = global_name(gpu)
        if not self.place.read_some([name]):
            return None
        with temporary_folder("roofml-catalog-") as folder:
            copy = folder / name
            copy.write_bytes(self.place.read(name, MOST_BYTES))
            return read_other_models(copy)

    def prior(self, deployment: Deployment) -> Prior:
        """What the catalogue's other models say of a deployment before its traces; else what the package's do."""
        others = self.others(deployment.gpu.name)
        return (read_other_models() if others is None else others).prior(deployment)


def open_catalog(text: str) -> Catalog:
    """The catalogue at a path or URL. Raises InputError where none is there."""
    place = place_of(text)
    try:
        rows = read_index(place, INDEX)
    except InputError as error:
        raise InputError(f"--catalog {place.shown}: no catalogue of `roofml catalog fit` there ({error})") from None
    return Catalog(place, rows)
