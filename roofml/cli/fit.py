"""roofml fit: coefficients of one model, GPU and tensor parallel size from its runs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import (
    OUT,
    note,
    note_left_out,
    print_json,
    progress,
    show,
    show_round,
    warn,
    warn_not_converged,
    warn_of,
    working,
)
from roofml.cli.steps import Contexts, step_data
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.calibration import Calibration
    from roofml.calibration.prior import Prior
    from roofml.traces.read import Reading
    from roofml.traces.server import ServerOverrides
    from roofml.validation.as_blis import BlisInSample
    from roofml.validation.evaluation import Evaluation
    from roofml.validation.step_report import JudgedCycles


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


PriorOption = Annotated[
    PriorChoice, typer.Option(help="What is believed before: other models' fits too, or kernel measurements alone.")
]
ContextsFrom = Annotated[
    Contexts, typer.Option(help="Contexts of sampled steps: of the file, the replay, KV usage, or one mean.")
]


@o.server_options
def fit(
    runs: o.Runs,
    overrides: ServerOverrides,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Coefficients file (YAML) to write.")] = None,
    train_fraction: o.TrainFraction = 1.0,
    target: Annotated[Target, typer.Option(help="blis: also what makes BLIS itself most accurate.")] = Target.native,
    prior: PriorOption = PriorChoice.pooled,
    catalog: o.CatalogOption = None,
    steps: o.Steps = None,
    steps_only: Annotated[bool, typer.Option("--steps-only", help="Fit --steps and no latency of a request.")] = False,
    contexts: ContextsFrom = Contexts.auto,
    accept_misfit: Annotated[
        bool, typer.Option("--accept-misfit", help="Write a fit that does not describe its runs, marked as one.")
    ] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit coefficients to the runs of one model, GPU and TP, and write them as YAML (to stdout without -o)."""
    from roofml.calibration.calibrate import fit as fit_runs
    from roofml.calibration.means import means_runs
    from roofml.calibration.subset import subsets_said
    from roofml.latency.deployment import deployment_of
    from roofml.traces.read import read_all
    from roofml.traces.selection import trainable
    from roofml.util.writing import check_writable
    from roofml.validation.step_report import cycle_table, judge_fit

    o.check_train_fraction(train_fraction)
    if catalog is not None and prior is PriorChoice.package:
        raise InputError("--catalog and --prior package: expected one of them")
    if steps_only and not steps:
        raise InputError("--steps-only: expected --steps FILE to fit")
    if output is not None:
        check_writable(output)
    with working(quiet or as_json, "reading"):
        reading = read_all(runs, overrides)
        read, means = reading.runs, means_runs(reading.aggregates)
        o.check_something(reading, forwards=True)
        believed = prior.prior()
        if reading.judged:  # what is wrong with one is said before anything else
            deployment = deployment_of([*read, *(each.run for each in means)])
            if catalog is not None:
                from roofml.catalog.catalog import open_catalog

                believed = open_catalog(catalog).prior(deployment)
        elif catalog is not None:
            raise InputError("--catalog: expected a client's file of a server, of which others' fits can say something")
    if target is Target.blis and not read:
        raise InputError("--target blis: BLIS's own form is fitted to requests: give a client's file of a server too")
    if output is not None:
        check_writable(output)  # what was read is an input now
    used = trainable(read)
    sampled = step_data([*(steps or ()), *reading.steps], used, contexts)
    note_left_out(read, used, quiet)
    warn_of(reading.aggregates)
    warn_of(reading.forwards)
    with progress(quiet or as_json) as shown:
        on_round = partial(show_round, shown, shown.add_task("fitting", total=10))
        calibration = fit_runs(
            read,
            means=reading.aggregates,
            until=train_fraction,
            prior=believed,
            steps=sampled,
            steps_only=steps_only,
            forwards=reading.forwards,
            on_round=on_round,
        )
    calibration.check_described(accept_misfit)
    cycles = judge_fit(sampled, used, calibration)
    as_blis = None
    if target is Target.blis:
        from roofml.validation.as_blis import with_blis

        calibration, as_blis = with_blis(calibration, used)
    for sentence in calibration.misfit:
        warn(f"a misfit, accepted: {sentence}")
    warn_not_converged(calibration.converged)
    if not quiet:
        for sentence in subsets_said(calibration.posterior.subsets, calibration.runs):
            note(sentence)
    if output is not None:
        calibration.save(output, accept_misfit=accept_misfit)
    if as_json:
        from roofml.validation.evaluation import evaluate

        in_sample = evaluate(calibration, used, until=train_fraction)
        print_json({**_document(calibration, in_sample, as_blis, cycles, output), **_cases(calibration, reading)})
    elif output is None:
        typer.echo(calibration.to_yaml(), nl=False)
    elif not quiet:
        for part in (calibration, as_blis, [cycle_table(cycles)] if cycles else None):
            show(part or [])
        if reading.forwards:
            from roofml.calibration.forwards.learn import case_table, learn

            learned = learn(calibration.deployment, calibration.posterior.prior, reading.forwards)
            show([case_table(learned.fits, reading.forwards)])
        OUT.print(f"written: {output}", markup=False)


def _cases(calibration: Calibration, reading: Reading) -> dict[str, Any]:
    """What JSON has of exact batches: nothing where there were none."""
    if not reading.forwards:
        return {}
    from roofml.calibration.forwards.learn import learn

    learned = learn(calibration.deployment, calibration.posterior.prior, reading.forwards)
    return {"forwards": [fit.to_dict(each.name) for fit, each in zip(learned.fits, reading.forwards, strict=True)]}


def _document(
    calibration: Calibration,
    in_sample: Evaluation,
    as_blis: BlisInSample | None,
    cycles: Sequence[JudgedCycles],
    output: Path | None,
) -> dict[str, Any]:
    return {
        "coefficients": calibration.to_dict(),
        "output": output and str(output),
        "parameters": calibration.rows(),
        "converged": calibration.converged,
        "runs": in_sample.to_dict()["runs"],
        **({} if as_blis is None else {"blis_runs": [run.to_dict() for run in as_blis.runs]}),
        **({"steps": [cycle.to_dict() for cycle in cycles]} if cycles else {}),
    }
