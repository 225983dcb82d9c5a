"""roofml simulate: a load that nobody has run, as a calibrated server would serve it."""

from __future__ import annotations

from dataclasses import replace
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
    replicas: Annotated[
        int | None, typer.Option("--replicas", metavar="N", help="Servers alike that share the load out.")
    ] = None,
    router: Annotated[
        str | None,
        typer.Option("--router", metavar="R", help="round-robin, least-loaded (the default) or prefix-aware."),
    ] = None,
    prefill_replicas: Annotated[
        int | None, typer.Option("--prefill-replicas", metavar="N", help="Servers that compute prompts alone ...")
    ] = None,
    decode_replicas: Annotated[
        int | None, typer.Option("--decode-replicas", metavar="N", help="... and those that make the answers then.")
    ] = None,
    link: Annotated[
        float | None,
        typer.Option("--link", metavar="GB/s", help="What KV goes over, of each GPU; else as within a node's sheet."),
    ] = None,
    prefill_gpu: Annotated[
        str | None, typer.Option("--prefill-gpu", metavar="G", help="GPU of prefill servers, if another.")
    ] = None,
    prefill_tp: Annotated[
        int | None, typer.Option("--prefill-tp", min=1, help="Tensor parallel size of these, if another.")
    ] = None,
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
    nobody says of the server is vLLM's default; of a recorded run, its own. Several servers share a load out: alike, or
    some for prompts and some for answers.
    """
    from roofml.calibration.servers import server_for
    from roofml.catalog.using import in_place_of
    from roofml.planning.picture import check_picture
    from roofml.planning.simulation import simulate_by
    from roofml.planning.simulation_picture import plot_simulation
    from roofml.planning.subject import calibration_for
    from roofml.planning.wanted import Wanted, system_of
    from roofml.workloads.read import read_workload
    from roofml.workloads.slo import parse_slos

    if coeffs is not None and catalog is not None:
        raise InputError("--coeffs and --catalog: expected one of them")
    wanted = Wanted(replicas, prefill_replicas, decode_replicas, router, link)
    apart = prefill_gpu is not None or prefill_tp is not None
    wanted.check(other_prefill=apart)
    slos = parse_slos(slo or [])
    if plot is not None:
        check_picture(plot)
    with working(quiet or as_json, "reading"):
        read = read_workload(load, rate=rate, concurrency=concurrency, requests=requests, overrides=overrides)
        calibration, moved = calibration_for(coeffs, subject, overrides, precision=precision, recorded=read.server)
        if catalog is not None:
            calibration, carried = in_place_of(calibration, catalog)
            moved = [*moved, *carried]
        server, prefill = server_for(calibration, overrides, read.server), None
        if apart:
            overrides = replace(
                overrides,
                gpu=prefill_gpu or calibration.deployment.gpu.name,
                tensor_parallel=calibration.deployment.tp if prefill_tp is None else prefill_tp,
                num_gpu_blocks=None,  # what was said is of a decode server
            )
            prefill, carried = calibration_for(coeffs, subject, overrides, precision=precision, recorded=read.server)
            moved = [*moved, *carried]
            if catalog is not None:
                prefill, carried = in_place_of(prefill, catalog)
                moved = [*moved, *carried]
        system = system_of(wanted, calibration, server, prefill, overrides)
    with working(quiet or as_json, "serving"):
        simulated = simulate_by(system, read.workload, slos, seed)
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
