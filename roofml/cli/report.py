"""roofml report: one HTML file of a calibration and its runs, to send and to print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, warn, warn_of, working
from roofml.traces.server import ServerOverrides


@o.server_options
def report(
    runs: o.Runs,
    coeffs: Annotated[Path, typer.Option("--coeffs", help="Coefficients file (YAML) of `roofml fit`.")],
    overrides: ServerOverrides,
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    after: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of each run to leave out, from its start. Default: what was fitted."
        ),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write one HTML page, readable offline, on a phone and in print: what was measured and mended, how far predictions
    are off, where a step's time goes, errors over time, latency over load, and what all of it is made of.
    """
    from roofml.calibration.calibrate import load_for_runs
    from roofml.report.page import to_html
    from roofml.report.report import make_report, usual_after
    from roofml.traces.read import read_runs
    from roofml.util.writing import check_writable, write_file

    check_writable(output)
    with working(quiet or as_json, "reading"):
        read = read_runs(runs, overrides)
        calibration, read = load_for_runs(coeffs, read)
    check_writable(output)  # what was read is an input now
    warn_of(read)
    for text in calibration.doubts:
        warn(text)
    with working(quiet or as_json, "writing"):
        share = usual_after(calibration, read) if after is None else after
        page = make_report(calibration, read, after=share, words=["roofml", *sys.argv[1:]])
        write_file(output, to_html(page))
    if as_json:
        sections = [section.title for section in page.sections]
        print_json({"output": str(output), "title": page.title, "lead": page.lead, "sections": sections})
    elif not quiet:
        OUT.print(page.lead, markup=False)
        OUT.print(f"written: {output}", markup=False)
