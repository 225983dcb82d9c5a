"""roofml fit: coefficients of one model, GPU and tensor parallel size from its runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note_left_out, print_json, progress, show, warn, warn_of
from roofml.cli.steps import Contexts, step_data
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.prior import Prior


class Target(str, Enum):  # noqa: UP042 (typer shows the values of a str Enum)
    """Whose step-time formula is fitted."""

    native = "native"
    blis = "blis"


class PriorChoice(str, Enum):  # noqa: UP042 (typer shows the values of a str Enum)
    """What a fit starts from."""

    pooled = "pooled"
    package = "package"

    def prior(self) -> Prior | None:
        """The package's own prior, or None for what other models teach too."""
        from roofml.calibration.prior import PACKAGE

        return PACKAGE if self is PriorChoice.package else None


@o.server_options
def fit(
    runs: o.Runs,
    overrides: ServerOverrides,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Coefficients file (YAML) to write.")] = None,
    train_fraction: o.TrainFraction = 1.0,
    target: Annotated[Target, typer.Option(help="blis: also what makes BLIS itself most accurate.")] = Target.native,
    prior: Annotated[
        PriorChoice, typer.Option(help="What is believed before: other models' fits too, or kernel measurements alone.")
    ] = PriorChoice.pooled,
    steps: o.Steps = None,
    steps_only: Annotated[bool, typer.Option("--steps-only", help="Fit --steps and no latency of a request.")] = False,
    contexts: Annotated[
        Contexts, typer.Option(help="Contexts of sampled steps: of the file, the replay, KV usage, or one mean.")
    ] = Contexts.auto,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit coefficients to the runs of one model, GPU and TP, and write them as YAML (to stdout without -o)."""
    from roofml.calibration.calibrate import fit as fit_runs
    from roofml.latency.deployment import deployment_of
    from roofml.traces.read import read_runs
    from roofml.traces.selection import trainable
    from roofml.util.files import check_writable
    from roofml.validation.as_blis import with_blis
    from roofml.validation.evaluation import evaluate
    from roofml.validation.step_report import cycle_table, judge_fit

    if not 0 < train_fraction <= 1:
        raise InputError(f"--train-fraction {train_fraction:g}: expected more than 0 and at most 1")
    if steps_only and not steps:
        raise InputError("--steps-only: expected --steps FILE to fit")
    if output is not None:
        check_writable(output)
    read = read_runs(runs, overrides)
    deployment_of(read)  # what is wrong with one is said before anything else
    used = trainable(read)
    sampled = step_data(steps, used, contexts)
    warn_of(read)
    note_left_out(read, used, quiet)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("fitting", total=10)
        calibration = fit_runs(
            read,
            until=train_fraction,
            prior=prior.prior(),
            steps=sampled,
            steps_only=steps_only,
            on_round=lambda i, n: shown.update(task, completed=i - 1, total=n),
        )
    cycles = judge_fit(sampled, used, calibration)
    as_blis = None
    if target is Target.blis:
        calibration, as_blis = with_blis(calibration, used)
    if not calibration.converged:
        warn("the schedule still moved in the last round: fit more requests, or a run at lower load")
    if output is not None:
        calibration.save(output)
    if as_json:
        document: dict[str, Any] = {
            "coefficients": calibration.to_dict(),
            "output": None if output is None else str(output),
            "parameters": calibration.rows(),
            "converged": calibration.converged,
            "runs": [run.to_dict() for run in evaluate(calibration, used, until=train_fraction).runs],
            **({} if as_blis is None else {"blis_runs": [run.to_dict() for run in as_blis.runs]}),
            **({"steps": [cycle.to_dict() for cycle in cycles]} if cycles else {}),
        }
        print_json(document)
    elif output is None:
        typer.echo(calibration.to_yaml(), nl=False)
    elif not quiet:
        show(calibration)
        if as_blis is not None:
            show(as_blis)
        if cycles:
            show([cycle_table(cycles)])
        OUT.print(f"written: {output}", markup=False)
