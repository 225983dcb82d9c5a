"""roofml identify: what runs say of each parameter, and which small extra load would say more."""

from __future__ import annotations

from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import note_left_out, print_json, progress, show, warn, warn_of
from roofml.cli.fit import PriorChoice
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError


@o.server_options
def identify(
    runs: o.Runs,
    overrides: ServerOverrides,
    train_fraction: o.TrainFraction = 1.0,
    prior: Annotated[
        PriorChoice, typer.Option(help="What is believed before: other models' fits too, or kernel measurements alone.")
    ] = PriorChoice.pooled,
    with_profiles: Annotated[
        bool, typer.Option("--profiles/--no-profiles", help="Profile intervals take most of the time.")
    ] = True,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit runs of one model, GPU and TP; say what they decide, what they leave open, and which load would tell."""
    from roofml.calibration.calibrate import fit as fit_runs
    from roofml.calibration.identification import identify as identify_fit
    from roofml.latency.deployment import deployment_of
    from roofml.traces.read import read_runs
    from roofml.traces.selection import trainable

    if not 0 < train_fraction <= 1:
        raise InputError(f"--train-fraction {train_fraction:g}: expected more than 0 and at most 1")
    read = read_runs(runs, overrides)
    deployment_of(read)  # what is wrong with one is said before anything else
    warn_of(read)
    used = trainable(read)
    note_left_out(read, used, quiet)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("fitting", total=10)
        calibration = fit_runs(
            read,
            until=train_fraction,
            prior=prior.prior(),
            on_round=lambda i, n: shown.update(task, completed=i - 1, total=n),
        )
        identification = identify_fit(
            calibration,
            used,
            with_profiles,
            lambda what, i, n: shown.update(task, description=what, completed=i, total=n),
        )
    if not calibration.converged:
        warn("the schedule still moved in the last round: fit more requests, or a run at lower load")
    if as_json:
        print_json(identification.to_dict())
    else:
        show(identification)
