"""roofml export c, roofml export rust: our formula and calibrations in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import print_json, warn

if TYPE_CHECKING:
    from roofml.export.one_file.files import Language

Coeffs = Annotated[list[Path], typer.Argument(help="Coefficients files, one for each deployment.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The file.")]


def c(coeffs: Coeffs, output: Output = Path("roofml.h"), as_json: o.AsJson = False, quiet: o.Quiet = False) -> None:
    """Write a C99 header with our step times: formula, and calibrations as constants. Values are ours to 1e-9."""
    _write("c", coeffs, output, as_json, quiet)


def rust(coeffs: Coeffs, output: Output = Path("roofml.rs"), as_json: o.AsJson = False, quiet: o.Quiet = False) -> None:
    """Write a Rust module with our step times: formula, and calibrations as constants. Values are ours to 1e-9."""
    _write("rust", coeffs, output, as_json, quiet)


def _write(language: Language, coeffs: list[Path], output: Path, as_json: bool, quiet: bool) -> None:
    from roofml.export.go.artifact import read_artifact
    from roofml.export.one_file.files import write_one_file

    artifacts = [read_artifact(path) for path in coeffs]
    write_one_file(language, artifacts, output)
    for artifact in artifacts:
        for text in artifact.calibration.doubts:
            warn(text)
    names = [artifact.name for artifact in artifacts]
    if as_json:
        print_json({"file": str(output), "calibrations": names})
    elif not quiet:
        typer.echo(f"{output}: {', '.join(names)}")
