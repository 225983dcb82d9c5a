"""roofml export keda: replicas on Kubernetes by what one of them holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, warn, working

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides


@o.server_options
def keda(
    coeffs: Annotated[Path, typer.Argument(metavar="COEFFS", help="Coefficients file (YAML) of `roofml fit`.")],
    load: Annotated[str, typer.Option("--load", metavar="LOAD", help="As of `plan`: requests that come at a rate.")],
    overrides: ServerOverrides,
    slo: o.Slos = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="YAML file to write.")] = Path("scaledobject.yaml"),
    kind: Annotated[Literal["keda", "hpa"], typer.Option(help="A ScaledObject of KEDA, or an HPA.")] = "keda",
    deployment: Annotated[str, typer.Option(help="Name of the Deployment that is scaled.")] = "vllm",
    namespace: Annotated[str, typer.Option(help="Its namespace.")] = "default",
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="Where KEDA asks.")
    ] = "http://prometheus-server.monitoring.svc:80",
    min_replicas: Annotated[int, typer.Option(help="Fewest replicas.")] = 1,
    max_replicas: Annotated[int, typer.Option(help="Most replicas.")] = 10,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a KEDA ScaledObject, or an HPA, whose thresholds are what a replica holds under the SLOs.

    The lower end of the 90 % interval of `plan`: 19 servers in 20 hold more.
    """
    from roofml.export.keda import Target, scaled_object
    from roofml.planning.ask import ask, threshold_of
    from roofml.util.writing import check_writable, write_file
    from roofml.workloads.read import read_workload
    from roofml.workloads.slo import parse_slos

    target = Target(deployment, namespace, prometheus, min_replicas, max_replicas)
    slos = parse_slos(slo or [])
    check_writable(output)
    with working(quiet or as_json, "planning"):
        planned = ask(read_workload(load, overrides=overrides), overrides, coeffs=coeffs).plan(slos)
        threshold = threshold_of(planned)
    for text in planned.warnings:
        warn(text)
    write_file(output, scaled_object(threshold, target, kind))
    if as_json:
        found = {"requests_per_s": threshold.requests_per_s, "in_flight": threshold.in_flight}
        print_json({"output": str(output), "kind": kind, **found, "said": list(threshold.said)})
    elif not quiet:
        for line in threshold.said:
            OUT.print(line, markup=False)
        OUT.print(f"written: {output}", markup=False)
