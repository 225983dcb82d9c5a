"""roofml simulate: a load that nobody has run, as a calibrated server would serve it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_findings, print_json, show, warn, working
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides


@o.server_options
def simulate(
    load: Annotated[
        str,
        typer.Option(
            "--load",
            metavar="LOAD",
            help="A run, a workload file, a YAML file of classes, or a line: poisson:rate=8,input=1024,output=256.",
        ),
    ],
    overrides: ServerOverrides,
    subject: o.Subject = None,
    coeffs: o.Coeffs = None,
    catalog: o.CatalogOption = None,
    slo: o.Slos = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Requests a second, instead of the load's own.")] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Clients that wait for their answers, instead of arrivals.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", help="Requests to send; all are judged, as a benchmark's client does.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is random in the load.")] = 0,
    precision: o.Precision = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture of latencies and of queue, batch and KV over time (extra `plot`)."),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Serve a load that nobody has run: TTFT, TPOT, ITL, E2E, rates and queues, with 90 % intervals.

    On MODEL with --gpu and --tp, by physics and what other models taught, or by the calibration of --coeffs. What
    nobody says of the server is vLLM's default; of a recorded run, its own.
    """
    from roofml.calibration.servers import server_for
    from roofml.catalog.using import in_place_of
    from roofml.planning.simulation import simulate as serve
    from roofml.planning.simulation_picture import plot_simulation
    from roofml.planning.subject import calibration_for
    from roofml.util.writing import check_writable
    from roofml.workloads.read import read_workload
    from roofml.workloads.slo import parse_slos

    if coeffs is not None and catalog is not None:
        raise InputError("--coeffs and --catalog: expected one of them")
    slos = parse_slos(slo or [])
    if plot is not None:
        check_writable(plot)
    with working(quiet or as_json, "reading"):
        read = read_workload(load, rate=rate, concurrency=concurrency, requests=requests, overrides=overrides)
        calibration, moved = calibration_for(coeffs, subject, overrides, precision=precision, recorded=read.server)
        if catalog is not None:
            calibration, carried = in_place_of(calibration, catalog)
            moved = [*moved, *carried]
        server = server_for(calibration, overrides, read.server)
    with working(quiet or as_json, "serving"):
        simulated = serve(calibration, read.workload, server, slos=slos, seed=seed)
    if not (quiet or as_json):
        told = [finding for finding in read.workload.findings if finding.severity != "info"]
        if told:
            print_findings(told, quiet)
    for text in (*moved, *simulated.warnings):
        warn(text)
    if plot is not None:
        plot_simulation(simulated, plot)
    if as_json:
        print_json({**simulated.to_dict(), "plot": plot and str(plot)})
        return
    show(simulated)
    if plot is not None and not quiet:
        OUT.print(f"written: {plot}", markup=False)
