"""roofml plan: what load a deployment holds under SLOs, how many of which GPUs a rate takes, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, progress, show, warn, working
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides


@o.server_options
def plan(
    load: Annotated[str, typer.Option("--load", metavar="LOAD", help="As of `simulate`; what differs is how much.")],
    overrides: ServerOverrides,
    subject: o.Subject = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="G[,G..]", help="GPUs to compare.")] = None,
    tensor_parallel: Annotated[
        str | None, typer.Option("--tp", metavar="N[,N..]", help="Tensor parallel sizes to compare.")
    ] = None,
    coeffs: o.Coeffs = None,
    catalog: o.CatalogOption = None,
    slo: o.Slos = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Requests a second (clients, of a closed loop) of all replicas."),
    ] = None,
    price: Annotated[
        list[str] | None, typer.Option("--price", metavar="G=N", help="Of a GPU for an hour, such as H100=2.5.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="P[,P..]", help="Formats of the weights to compare.")
    ] = None,
    max_num_seqs: Annotated[
        str | None, typer.Option("--max-num-seqs", metavar="N[,N..]", help="Most requests in a step, to compare.")
    ] = None,
    max_num_batched_tokens: Annotated[
        str | None,
        typer.Option("--max-num-batched-tokens", metavar="N[,N..]", help="Most new tokens in a step, to compare."),
    ] = None,
    disaggregated: Annotated[
        bool,
        typer.Option("--disaggregated", help="How few prefill and decode servers of the cheapest take --rate, too."),
    ] = False,
    link: Annotated[
        float | None,
        typer.Option("--link", metavar="GB/s", help="What KV goes over then, of each GPU; else as in a node's sheet."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture: throughput of a GPU against speed of a user (extra `plot`)."),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """The largest rate, or number of clients, that meets every SLO, with its interval; replicas and cost of --rate.

    For MODEL on every combination of --gpu, --tp, --precision and the server's limits, the cheapest first, or for what
    --coeffs was fitted on, and with other hardware for what its calibration carries over.
    """
    from roofml.catalog.using import on_catalog
    from roofml.planning.ask import ask, prices_of
    from roofml.planning.picture import check_picture
    from roofml.planning.plan_picture import plot_plan
    from roofml.workloads.read import read_workload
    from roofml.workloads.slo import parse_slos

    if coeffs is not None and catalog is not None:
        raise InputError("--coeffs and --catalog: expected one of them")
    slos, prices = parse_slos(slo or []), prices_of(price or [])
    if plot is not None:
        check_picture(plot)
    with working(quiet or as_json, "reading"):
        read = read_workload(load, overrides=overrides)
        asked = ask(
            read,
            overrides,
            model=subject,
            gpus=gpu,
            tps=tensor_parallel,
            precisions=precision,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            coeffs=coeffs,
        )
        carried = [] if catalog is None else on_catalog(catalog, asked)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("planning", total=len(asked.candidates))
        planned = asked.plan(slos, rate, prices, lambda done: shown.update(task, completed=done), disaggregated, link)
    for text in (*carried, *planned.warnings):
        warn(text)
    if plot is not None:
        plot_plan(planned, plot)
    if as_json:
        print_json({**planned.to_dict(), "plot": plot and str(plot)})
        return
    show(planned)
    if plot is not None and not quiet:
        OUT.print(f"written: {plot}", markup=False)
