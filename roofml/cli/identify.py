"""roofml identify: what runs say of each parameter, and which small extra load would say more."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import (
    note_left_out,
    print_json,
    progress,
    show,
    show_round,
    warn,
    warn_not_converged,
    working,
)
from roofml.cli.fit import PriorChoice, PriorOption

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides


@o.server_options
def identify(
    runs: o.Runs,
    overrides: ServerOverrides,
    train_fraction: o.TrainFraction = 1.0,
    prior: PriorOption = PriorChoice.pooled,
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

    o.check_train_fraction(train_fraction)
    with working(quiet or as_json, "reading"):
        read = read_runs(runs, overrides)
        deployment_of(read)  # what is wrong with one is said before anything else
    used = trainable(read)
    note_left_out(read, used, quiet)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("fitting", total=10)
        calibration = fit_runs(
            read,
            until=train_fraction,
            prior=prior.prior(),
            on_round=partial(show_round, shown, task),
        )
        identification = identify_fit(
            calibration,
            used,
            with_profiles,
            lambda what, i, n: shown.update(task, description=what, completed=i, total=n),
        )
    for doubt in calibration.doubts:
        warn(doubt)
    warn_not_converged(calibration.converged)
    if as_json:
        print_json(identification.to_dict())
    else:
        show(identification)
