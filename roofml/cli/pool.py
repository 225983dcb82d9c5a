"""roofml pool: what models with traces teach about those without."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, progress, show, warn_of, working


def pool(
    runs: o.Runs,
    output: Annotated[Path, typer.Option("-o", "--output", help="File (YAML) to write, as coeffs/global.yaml.")],
    gpu: o.Gpu = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit every model of the runs by itself, and write the fits as the prior of models without a trace."""
    from roofml.calibration.pooling import deployments_to_pool, fit_models
    from roofml.traces.read import read_runs
    from roofml.traces.server import ServerOverrides
    from roofml.util.writing import check_writable

    check_writable(output)
    with working(quiet or as_json, "reading"):
        read = read_runs(runs, ServerOverrides(gpu=gpu))
        deployments = deployments_to_pool(read)
    check_writable(output)  # it must not be among what was read
    warn_of(read)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("fitting", total=len(deployments))
        pooled = fit_models(deployments, lambda done, name: shown.update(task, description=name, completed=done))
    pooled.save(output)
    if as_json:
        print_json({"output": str(output), **pooled.to_dict()})
    elif not quiet:
        show(pooled)
        OUT.print(f"written: {output}", markup=False)
