"""roofml pool: what models with traces teach about those without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, digits, print_json, progress, table
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.other_models import Member


def pool(
    runs: o.Runs,
    output: Annotated[Path, typer.Option("-o", "--output", help="File (YAML) to write, as coeffs/global.yaml.")],
    gpu: o.Gpu = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit every model of the runs by itself, and write the fits as the prior of models without a trace."""
    from roofml.calibration.other_models import member_of, write_pooled
    from roofml.calibration.prior import pool as pool_fits
    from roofml.cli.reading import diagnose, warn_of
    from roofml.latency.parameters import PARAMETERS, from_coordinates
    from roofml.traces import ServerOverrides
    from roofml.util.files import check_writable
    from roofml.validation.cross_validation import fit_parts, setting_of
    from roofml.validation.splits import groups, part, trainable

    check_writable(output)
    diagnoses = diagnose(runs, ServerOverrides(gpu=gpu))
    by_model = groups(diagnoses)
    settings = [setting_of([d.run for d in group]) for group in by_model]
    if len({where.gpu.name for where in settings}) != 1:
        raise InputError("the runs are of several GPUs: expected one, to which the pooled fits belong")
    warn_of(diagnoses)
    members: list[Member] = []
    with progress(quiet or as_json) as shown:
        task = shown.add_task("fitting", total=len(by_model))
        for group, where in zip(by_model, settings, strict=True):
            shown.update(task, description=where.model.name)
            parts = [part(d) for d in trainable(group)]
            found = fit_parts(parts, where)
            members.append(member_of(found, where.model.name, where.tp, [p.run.name for p in parts]))
            shown.update(task, advance=1)
    write_pooled(output, settings[0].gpu.name, members)
    centre = pool_fits([member.learned() for member in members])
    values = from_coordinates(centre.mean)
    if as_json:
        shared = {
            p.name: {"value": float(v), "sd": float(s)} for p, v, s in zip(PARAMETERS, values, centre.sd, strict=True)
        }
        print_json({"output": str(output), "models": [m.model for m in members], "parameters": shared})
        return
    if quiet:
        return
    rows = [
        [p.name, *(digits(m.values[i], 4) for m in members), digits(values[i], 4), digits(centre.sd[i])]
        for i, p in enumerate(PARAMETERS)
    ]
    OUT.print(
        table(
            "fits, and what they say of another model", ["parameter", *(m.model for m in members), "pooled", "sd"], rows
        )
    )
    OUT.print(f"written: {output}", markup=False)
