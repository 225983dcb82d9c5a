"""roofml demo: the main job on made-up data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, digits, pct, print_json, progress, table


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Coefficients file (YAML) to write.")] = Path(
        "roofml-demo.yaml"
    ),
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Make a run from known parameters, fit it, and compare known with recovered. Needs no file and no network."""
    from roofml.calibration.coefficients import write_coefficients
    from roofml.cli.fit import parameter_rows
    from roofml.util.files import check_writable
    from roofml.validation.demo import run_demo

    check_writable(output)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("serving and fitting", total=10)
        result = run_demo(seed, lambda i, n: shown.update(task, completed=i - 1, total=n))
    write_coefficients(output, result.coefficients)
    rows = parameter_rows(result.fit)
    for row, truth in zip(rows, result.truth, strict=True):
        row["truth"] = float(truth)
        row["inside"] = bool(row["low"] <= truth <= row["high"])
    if as_json:
        print_json({"seed": seed, "output": str(output), "requests": len(result.run), "parameters": rows})
        return
    if quiet:
        return
    shown_rows = [
        [
            row["name"],
            f"{digits(row['truth'], 4)} {row['unit']}".strip(),
            digits(row["value"], 4),
            f"{digits(row['low'])} to {digits(row['high'])}",
            "data" if row["identified"] else "prior",
            "yes" if row["inside"] else "NO",
        ]
        for row in rows
    ]
    title = f"{len(result.run)} made-up requests to {result.coefficients.model.name} on {result.coefficients.gpu}"
    columns = ["parameter", "known", "recovered", "95 % interval", "decided by", "inside"]
    OUT.print(table(title, columns, shown_rows))
    errors = result.reports[0].metrics
    OUT.print(
        "errors of means, %: "
        + ", ".join(f"{name} {pct(errors[name].error_pct)}" for name in ("e2e_mean", "ttft_mean", "tpot_mean"))
    )
    good = sum(result.recovered.values())
    OUT.print(f"{good} of {len(result.recovered)} parameters that the data decides are inside their interval")
    OUT.print(f"written: {output}", markup=False)
    OUT.print("next: roofml fit RUN... -o coefficients.yaml, with the run folders of a real server")
