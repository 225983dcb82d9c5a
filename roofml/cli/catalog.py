"""roofml catalog: calibrations of many deployments, made together and kept up to date."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note, print_json, progress, show, working
from roofml.cli.fit import Target

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides

app = typer.Typer(help="Calibrations of many deployments: make, keep up to date, check.", no_args_is_help=True)


@app.command(epilog="Example: roofml catalog fit runs -o catalog --gpu H100")
@o.server_options
def fit(
    folder: Annotated[str, typer.Argument(help="Folder with runs below it, or a URL: s3://bucket/runs.")],
    output: Annotated[str, typer.Option("-o", "--output", help="Folder or URL of the catalogue: made, or updated.")],
    overrides: ServerOverrides,
    scheduler: o.Scheduler = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes on this machine, without --scheduler.")
    ] = os.cpu_count() or 1,
    target: Annotated[Target, typer.Option(help="blis: also what makes BLIS itself most accurate.")] = Target.native,
    accept_misfit: Annotated[
        bool, typer.Option("--accept-misfit", help="Keep fits that do not describe their runs, marked as such.")
    ] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit every deployment whose runs are below a folder, judge each, and write them as a catalogue.

    What was computed is kept: the same command goes on where it was stopped, and computes only what is new. Flags of
    the server are said of every run.
    """
    from roofml.catalog.making import Request, make
    from roofml.jobs.cluster import Wanted
    from roofml.jobs.places import place_of

    cluster = Wanted(scheduler, workers)
    request = Request(place_of(folder), place_of(output), overrides, cluster, accept_misfit, blis=target is Target.blis)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("looking for runs", total=None)

        def on_cluster(dashboard: str) -> None:
            if dashboard and not quiet and not as_json:
                note(f"Dask's dashboard: {dashboard}")

        def on_progress(what: str, done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total)

        made = make(request, on_progress, on_cluster)
    if as_json:
        print_json(made.to_dict())
    elif not quiet:
        show(made)
        OUT.print(f"written: {made.place}", markup=False)


@app.command(epilog="Example: roofml catalog check catalog runs/today --gpu H100 -o summary.md")
@o.server_options
def check(
    catalog: Annotated[str, typer.Argument(help="Folder or URL of `roofml catalog fit`.")],
    folder: Annotated[str, typer.Argument(metavar="NEW_RUNS", help="Folder with new runs below it, or a URL.")],
    overrides: ServerOverrides,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Summary to write, in Markdown.")
    ] = None,
    fail_above: o.FailAbove = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Check whether each deployment's calibration still holds on new runs of it.

    Ends with 1 unless all that could be checked hold, or where nothing could. With --fail-above only if a change is
    surely larger, or cannot be told.
    """
    from roofml.catalog.catalog import open_catalog
    from roofml.catalog.check import check_catalog
    from roofml.jobs.places import place_of
    from roofml.util.writing import check_writable, write_file

    if output is not None:
        check_writable(output)
    with working(quiet or as_json, "checking"):
        checked = check_catalog(open_catalog(catalog), place_of(folder), overrides)
    if output is not None:
        write_file(output, checked.markdown())
    if as_json:
        print_json({**checked.to_dict(), "output": output and str(output)})
    else:
        show(checked)
        if output is not None and not quiet:
            OUT.print(f"written: {output}", markup=False)
    if checked.fails(fail_above):
        raise typer.Exit(1)
