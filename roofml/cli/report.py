"""roofml report: one HTML file of a calibration and its runs, to send and to print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, warn, warn_of, working

if TYPE_CHECKING:
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
    load: Annotated[
        str | None,
        typer.Option("--load", metavar="LOAD", help="With --slo: a load, as of `simulate`. Default: the first run's."),
    ] = None,
    slo: o.Slos = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Requests a second (clients, of a closed loop) of all replicas, for the plan."),
    ] = None,
    price: Annotated[
        list[str] | None, typer.Option("--price", metavar="G=N", help="Of a GPU for an hour, such as H100=2.5.")
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write one HTML page, readable offline, on a phone and in print: what was measured and mended, how far predictions
    are off, where a step's time goes, errors over time, latency over load, and what all of it is made of.

    With --slo also what a server holds of a load, and what that costs.
    """
    from roofml.calibration.calibrate import load_for_runs
    from roofml.planning.ask import prices_of
    from roofml.report.load_section import Question, check_question, held
    from roofml.report.page import to_html
    from roofml.report.report import make_report, usual_after
    from roofml.traces.read import read_runs
    from roofml.util.writing import check_writable, write_file
    from roofml.workloads.read import of_run, read_workload
    from roofml.workloads.slo import parse_slos

    slos, prices = parse_slos(slo or []), prices_of(price or [])
    check_question(load, slos, rate, prices)
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
        more = []
        if slos:
            workload = of_run(read[0]) if load is None else read_workload(load, overrides=overrides).workload
            more = [held(calibration, Question(workload, slos, read[0].server, overrides, rate, prices))]
        page = make_report(calibration, read, after=share, more=more, words=["roofml", *sys.argv[1:]])
        write_file(output, to_html(page))
    if as_json:
        sections = [section.title for section in page.sections]
        print_json({"output": str(output), "title": page.title, "lead": page.lead, "sections": sections})
    elif not quiet:
        OUT.print(page.lead, markup=False)
        OUT.print(f"written: {output}", markup=False)
