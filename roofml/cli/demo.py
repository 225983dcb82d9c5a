"""roofml demo: the main job on made-up data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, progress, show


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Coefficients file (YAML) to write.")] = Path(
        "roofml-demo.yaml"
    ),
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Make a run from known parameters, fit it, and compare known with recovered. Needs no file and no network."""
    from roofml.util.writing import check_writable
    from roofml.validation.demo import run_demo

    check_writable(output)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("serving and fitting", total=10)
        result = run_demo(seed, lambda i, n: shown.update(task, completed=i - 1, total=n))
    result.calibration.save(output)
    if as_json:
        print_json({"seed": seed, "output": str(output), **result.to_dict()})
    elif not quiet:
        show(result)
        OUT.print("\n".join(result.verdict()))
        OUT.print(f"written: {output}", markup=False)
        OUT.print("next: roofml fit RUN... -o coefficients.yaml, with the run folders of a real server")
