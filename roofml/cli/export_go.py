"""roofml export go: our formula and calibrations as a Go package, and as a latency backend of BLIS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import print_json, warn
from roofml.util.errors import InputError


def go(
    coeffs: Annotated[
        list[Path] | None,
        typer.Argument(help="Coefficients files, one for each deployment; with --catalog names in it, or all."),
    ] = None,
    catalog: o.CatalogOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder of the package; made if need be.")
    ] = None,
    blis: Annotated[
        Path | None,
        typer.Option("--blis", metavar="CHECKOUT", help="A BLIS checkout: the package goes into it, with its adapter."),
    ] = None,
    pace_of: Annotated[
        str | None,
        typer.Option(
            "--pace-of", metavar="RUN", help="Steps as long as on the server of this run of the fit (`paces`)."
        ),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a Go package of our step times: formula, calibrations beside it, tests, and an adapter for BLIS.

    It needs nothing but Go's standard library, and its values are ours to 1e-9.
    """
    from roofml.catalog.using import coefficients_files
    from roofml.export.go.artifact import read_artifact
    from roofml.export.go.package import GoPackage
    from roofml.export.go.places import in_checkout, in_folder

    if blis is not None:
        places = in_checkout(blis, output)
    elif output is not None:
        places = in_folder(output)
    else:
        raise InputError("nowhere to write: give -o DIR, or --blis CHECKOUT")
    with coefficients_files(catalog, coeffs or []) as files:
        if pace_of is not None and len(files) > 1:
            raise InputError("--pace-of: expected one COEFFS file, for a run is of one model")
        package = GoPackage([read_artifact(path, pace_of) for path in files], places)
    package.write()
    for artifact in package.artifacts:
        for text in artifact.calibration.doubts:
            warn(text)
    if as_json:
        print_json(package.to_dict())
    elif not quiet:
        typer.echo("\n".join(package.lines()))
