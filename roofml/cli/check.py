"""roofml check: does a calibration still hold on a new run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, show, warn, warn_of, working

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides


@o.server_options
def check(
    run: o.OneRun,
    coeffs: Annotated[Path, typer.Option("--coeffs", help="Coefficients file (YAML) of `roofml fit`.")],
    overrides: ServerOverrides,
    fail_above: o.FailAbove = None,
    after: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the run's requests to leave out, from its start.")
    ] = 0.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture of residuals over time and over batch (extra `plot`).")
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Say whether a calibration still holds on a new run: it holds, or what changed, by how much and since when.

    Ends with 1 unless it holds. With --fail-above only if the change is surely larger, or cannot be told.
    """
    from roofml.planning.drift import check_file
    from roofml.planning.drift_picture import plot_drift
    from roofml.traces.read import read_runs
    from roofml.util.writing import check_writable

    if plot is not None:
        check_writable(plot)
    with working(quiet or as_json, "reading"):
        read = read_runs([run], overrides)[0]
    with working(quiet or as_json, "checking"):
        drift = check_file(coeffs, read, after=after)
    warn_of([read])
    for text in drift.warnings:
        warn(text)
    drawn = plot if drift.evidence is not None else None
    if drawn is not None:
        plot_drift(drift, drawn)
    elif plot is not None:
        warn(f"{plot}: not drawn: no latency was compared")
    if as_json:
        print_json({**drift.to_dict(), "plot": drawn and str(drawn)})
    else:
        show(drift)
        if drawn is not None and not quiet:
            OUT.print(f"written: {drawn}", markup=False)
    if drift.fails(fail_above):
        raise typer.Exit(1)
