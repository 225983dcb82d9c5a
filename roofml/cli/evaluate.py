"""roofml evaluate: errors on requests the fit has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note, print_json, progress, show, warn, warn_of, working
from roofml.cli.fit import Target
from roofml.cli.steps import step_data
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.traces.server import ServerOverrides
    from roofml.validation.evaluation import Evaluation
    from roofml.validation.points.judge import PointsEvaluation

JUDGED_BY = "cycle times are judged with --coeffs and by the protocols temporal and zero-shot"


@o.server_options
def evaluate(
    overrides: ServerOverrides,
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or trace files.", metavar="RUN...")] = None,
    coeffs: o.Coeffs = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="temporal: fit each run's first share, judge the rest. lomo, lowo: leave one model, one workload out. "
            "load: fit each run's stage of the lowest rate, judge those above. "
            "zero-shot: use no trace of the model at all (the default without --coeffs)."
        ),
    ] = None,
    train_fraction: Annotated[
        float | None, typer.Option(help="Share to fit (temporal, default 0.6) or to skip (--coeffs, default 0).")
    ] = None,
    steps: Annotated[
        list[Path] | None, typer.Option(help="Sampled steps of a run, to judge cycle times as well (no lomo, lowo).")
    ] = None,
    target: Annotated[Target, typer.Option(help="blis: BLIS's coefficients in BLIS's way of running.")] = Target.native,
    points: Annotated[
        Path | None,
        typer.Option(help="A CSV file of measured operating points, a row each, instead of runs.", metavar="FILE"),
    ] = None,
    anchor: Annotated[
        bool, typer.Option("--anchor", help="Learn from one point of each deployment, judge the others.")
    ] = False,
    fail_above: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="PCT", help="End with 1 if mean |E2E error| over normal runs is larger, in %."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture: predicted against measured latencies (extra `plot`).")
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Judge predictions on held-out requests: fit the first part of each run, or take --coeffs as they are.

    With --points: on operating points that others measured, without any trace.
    """
    from roofml.planning.picture import check_picture

    if plot is not None:
        check_picture(plot)
    if points is not None:
        given = {"RUN": runs, "--coeffs": coeffs, "--protocol": protocol, "--train-fraction": train_fraction}
        given |= {"--steps": steps, "--target blis": target is Target.blis}
        given |= {"--fail-above": fail_above is not None}
        _check_alone(given, overrides)
        _say(_judged_points(points, anchor, quiet or as_json), plot, as_json, quiet)
        return
    if anchor:
        raise InputError("--anchor: there are points to learn from with --points FILE alone")
    if not runs:
        raise InputError("nothing to judge: give RUN..., or --points FILE")
    from roofml.calibration.means import means_runs
    from roofml.traces.read import read_all
    from roofml.validation.evaluation import check_limit_applies
    from roofml.validation.protocol import planned

    plan = planned(protocol, train_fraction, given=coeffs is not None, as_blis=target is Target.blis)
    if steps and not plan.judges_cycles:
        raise InputError(f"--steps: {JUDGED_BY}")
    if coeffs is not None:
        from roofml.calibration.coefficients import read_coefficients

        read_coefficients(coeffs)  # what is wrong with it is said before runs are read
    with working(quiet or as_json, "reading"):
        reading = read_all(runs, overrides)
        read, means = reading.runs, means_runs(reading.aggregates)
        o.check_something(reading)
        if reading.steps and not plan.judges_cycles:
            raise InputError(f"{reading.steps[0]}: a table of steps: {JUDGED_BY}")
        sampled = step_data([*(steps or ()), *reading.steps], read)
        given = plan.check(read, coeffs, means)
    if fail_above is not None:
        check_limit_applies(reading.judged)
    warn_of(reading.judged)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("evaluating", total=max(1, plan.folds(read) + len(means)))

        def on_fold(name: str) -> None:
            shown.update(task, description=name, advance=1)

        evaluation = plan.evaluate(read, given, sampled, on_fold, means)
    failed = fail_above is not None and evaluation.exceeds(fail_above)
    for text in evaluation.warnings:
        warn(text)
    if not evaluation.converged:
        note("a fit's schedule still moved in its last round")
    _say(evaluation, plot, as_json, quiet)
    if failed:
        raise typer.Exit(1)


def _check_alone(given: Mapping[str, object], overrides: ServerOverrides) -> None:
    """Raise InputError for what has no place beside --points, whose rows say it all."""
    from roofml.traces.server import FLAGS

    beside = [name for name, value in given.items() if value]
    beside += [FLAGS[name] for name, value in vars(overrides).items() if value is not None]
    if beside:
        raise InputError(f"--points: each row says what was served and measured: {beside[0]} has no place beside it")


def _say(judged: Evaluation | PointsEvaluation, plot: Path | None, as_json: bool, quiet: bool) -> None:
    """Print it, and draw it where that is wanted."""
    from roofml.planning.evaluation_picture import plot_evaluation

    if plot is not None:
        plot_evaluation(judged, plot)
    if as_json:
        print_json({**judged.to_dict(), **({} if plot is None else {"plot": str(plot)})})
        return
    show(judged)
    if plot is not None and not quiet:
        OUT.print(f"written: {plot}", markup=False)


def _judged_points(path: Path, anchor: bool, silent: bool) -> PointsEvaluation:
    """Answer and judge the points of a file."""
    from roofml.validation.points.evaluation import evaluate_points
    from roofml.validation.points.point import read_points

    points = read_points(path)
    with progress(silent) as shown:
        task = shown.add_task("answering", total=len(points))
        return evaluate_points(points, anchor=anchor, on_point=lambda: shown.update(task, advance=1))
