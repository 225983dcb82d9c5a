"""roofml export trace: a run of any format as a trace that BLIS can replay, with the command line that does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import note, print_json, warn, warn_of, working

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides


@o.server_options
def trace(
    run: Annotated[
        str, typer.Argument(help="A run, or with --coeffs a LOAD: a line or a workload file.", metavar="RUN")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to; made if it is not there.")],
    overrides: ServerOverrides,
    coeffs: Annotated[
        Path | None, typer.Option("--coeffs", help="Coefficients for BLIS: the line replays the run with them.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-6, help="Of a LOAD: as many requests a second.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also where another run's trace is given up.")] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a run as a trace that BLIS reproduces, and print the command line that replays it.

    Prompts that repeat become prefix groups, output lengths are those that were made, deadlines and warm-up go along.
    """
    from roofml.export.replay_line import export_trace, read_traced

    with working(quiet or as_json, "reading"):
        read = read_traced(run, coeffs, overrides, rate)
    exported = export_trace(read, output, coeffs, replace=replace)
    warn_of([read])
    for text in exported.warnings:
        warn(text)
    if as_json:
        print_json(exported.to_dict())
        return
    if not quiet:
        for text in exported.remarks:
            note(text)
    typer.echo("\n".join(exported.lines()))
