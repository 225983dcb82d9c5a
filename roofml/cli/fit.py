"""roofml fit: coefficients of one model, GPU and tensor parallel size from its runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, digits, note, pct, print_json, progress, table, warn
from roofml.cli.steps import Contexts, step_data, step_rows, step_table
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.calibration.coefficients import Coefficients
    from roofml.calibration.fit import Fit
    from roofml.validation.cross_validation import RunReport


class Target(str, Enum):  # noqa: UP042 (typer shows the values of a str Enum)
    """Whose step-time formula is fitted."""

    native = "native"
    blis = "blis"


class Believed(str, Enum):  # noqa: UP042 (typer shows the values of a str Enum)
    """What a fit starts from."""

    pooled = "pooled"
    package = "package"


def fit(
    runs: o.Runs,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Coefficients file (YAML) to write.")] = None,
    train_fraction: Annotated[float, typer.Option(help="Share of each run's requests to fit, from its start.")] = 1.0,
    target: Annotated[Target, typer.Option(help="blis: also what makes BLIS itself most accurate.")] = Target.native,
    prior: Annotated[
        Believed, typer.Option(help="What is believed before: other models' fits too, or kernel measurements alone.")
    ] = Believed.pooled,
    steps: Annotated[
        list[Path] | None, typer.Option(help="Sampled steps of a run (parquet, or OTLP JSON lines), to fit as well.")
    ] = None,
    steps_only: Annotated[bool, typer.Option("--steps-only", help="Fit --steps and no latency of a request.")] = False,
    contexts: Annotated[
        Contexts, typer.Option(help="Contexts of sampled steps: of the file, the replay, KV usage, or one mean.")
    ] = Contexts.auto,
    gpu: o.Gpu = None,
    model: o.Model = None,
    tp: o.Tp = None,
    max_num_seqs: o.MaxSeqs = None,
    max_num_batched_tokens: o.MaxTokens = None,
    block_size: o.BlockSize = None,
    num_gpu_blocks: o.Blocks = None,
    max_model_len: o.MaxLen = None,
    prefix_caching: o.Prefix = None,
    async_scheduling: o.Async = None,
    fresh: o.Fresh = None,
    output_tokens: o.Output = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fit coefficients to the runs of one model, GPU and TP, and write them as YAML (to stdout without -o)."""
    from roofml.calibration.coefficients import coefficients_of, coefficients_text, write_coefficients
    from roofml.calibration.fit import fit as fit_runs
    from roofml.calibration.other_models import read_pooled
    from roofml.calibration.prior import PACKAGE
    from roofml.calibration.step_level.fit import fit_steps
    from roofml.cli.reading import diagnose, warn_of
    from roofml.latency.parameters import split
    from roofml.traces import ServerOverrides
    from roofml.util.files import check_writable
    from roofml.validation.cross_validation import in_sample_error_pct, setting_of, with_parameters
    from roofml.validation.splits import trainable

    if not 0 < train_fraction <= 1:
        raise InputError(f"--train-fraction {train_fraction:g}: expected more than 0 and at most 1")
    if steps_only and not steps:
        raise InputError("--steps-only: expected --steps FILE to fit")
    if output is not None:
        check_writable(output)
    overrides = ServerOverrides(
        model, tp, max_num_seqs, max_num_batched_tokens, block_size, num_gpu_blocks, max_model_len, gpu,
        prefix_caching, async_scheduling, fresh, output_tokens,
    )  # fmt: skip
    diagnoses = diagnose(runs, overrides)
    where = setting_of([d.run for d in diagnoses])
    used = trainable(diagnoses)
    chosen = [d.run for d in used]
    sampled = step_data(steps or [], chosen, contexts)
    warn_of(diagnoses)
    for diagnosis in diagnoses:
        if diagnosis not in used and not quiet:
            note(f"{diagnosis.run.name}: saturated, left out of the fit")
    believed = read_pooled().prior(where.model.name, where.gpu.name) if prior is Believed.pooled else PACKAGE
    with progress(quiet or as_json) as shown:
        task = shown.add_task("fitting", total=10)

        def on_round(i: int, n: int) -> None:
            shown.update(task, completed=i - 1, total=n)

        if sampled:
            found = fit_steps(
                sampled, chosen, where.tables, train_fraction, not steps_only, on_round=on_round, prior=believed
            )
        else:
            found = fit_runs(chosen, where.tables, train_fraction, on_round=on_round, prior=believed)
    cycles = step_rows(sampled, chosen, where.tables, found, train_fraction)
    reports, _ = with_parameters(used, where, *split(found.values), until=train_fraction, paces=found.paces)
    coefficients = coefficients_of(
        found, where.model, where.gpu.name, chosen, train_fraction, in_sample_error_pct(reports)
    )
    if sampled:
        tables = [one.table.name for one in sampled]
        coefficients = coefficients.model_copy(
            update={"fit": coefficients.fit.model_copy(update={"step_tables": [Path(name).name for name in tables]})}
        )
    blis_reports: list[RunReport] = []
    if target is Target.blis:
        from roofml.validation.as_blis import fit_group, judge, section_of

        fitted = fit_group(used, train_fraction)
        blis_reports = [judge(d, fitted.coefficients, until=train_fraction) for d in used]
        coefficients = coefficients.model_copy(update={"blis": section_of(fitted, chosen[0])})
    if not found.converged:
        warn("the schedule still moved in the last round: fit more requests, or a run at lower load")
    if output is not None:
        write_coefficients(output, coefficients)
    if as_json:
        print_json(
            _document(coefficients, found, reports, blis_reports, output) | ({"steps": cycles} if cycles else {})
        )
        return
    if output is None:
        typer.echo(coefficients_text(coefficients), nl=False)
    elif not quiet:
        _print_tables(coefficients, found, reports, blis_reports)
        if cycles:
            OUT.print(step_table(cycles))
        OUT.print(f"written: {output}", markup=False)


def _document(
    coefficients: Coefficients,
    found: Fit,
    reports: list[RunReport],
    blis_reports: list[RunReport],
    output: Path | None,
) -> dict[str, Any]:
    from roofml.validation.cross_validation import document

    document_of = {"runs": document("in-sample", 1.0, reports)["runs"]}
    if blis_reports:
        document_of["blis_runs"] = document("in-sample", 1.0, blis_reports)["runs"]
    mapping = coefficients.model_dump(by_alias=True, mode="json")
    if coefficients.blis is None:
        del mapping["blis"]
    if coefficients.fit.step_tables is None:
        del mapping["fit"]["step_tables"]
    return {
        "coefficients": mapping,
        "output": None if output is None else str(output),
        "parameters": parameter_rows(found),
        "converged": found.converged,
        **document_of,
    }


def parameter_rows(found: Fit) -> list[dict[str, Any]]:
    """Each parameter with its 95 % interval, prior, and whether the data identified it."""
    from roofml.latency.parameters import PARAMETERS

    low, high = found.interval()
    return [
        {
            "name": parameter.name,
            "group": parameter.group,
            "unit": parameter.unit,
            "value": float(found.values[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "prior": parameter.prior,
            "identified": parameter.name not in found.not_identified,
        }
        for i, parameter in enumerate(PARAMETERS)
    ]


def _print_tables(
    coefficients: Coefficients,
    found: Fit,
    reports: list[RunReport],
    blis_reports: list[RunReport],
) -> None:
    rows = [
        [
            row["name"],
            f"{digits(row['value'], 4)} {row['unit']}".strip(),
            f"{digits(row['low'])} to {digits(row['high'])}",
            digits(row["prior"]),
            "data" if row["identified"] else "prior",
        ]
        for row in parameter_rows(found)
    ]
    name = f"{coefficients.model.name} on {coefficients.gpu}, TP {coefficients.tensor_parallel}"
    OUT.print(table(name, ["parameter", "value", "95 % interval", "prior", "decided by"], rows))
    columns = ["run", "requests", "E2E %", "TTFT %", "TPOT %"]
    rows = [[*row, pct(100 * (found.paces.get(row[0], 1.0) - 1))] for row in _error_rows(reports)]
    text = "pace: how much longer this server takes for a step than others of its kind; the errors are at its pace"
    OUT.print(table("errors of means, in sample", [*columns, "pace %"], rows, text))
    if blis_reports:
        OUT.print(table("the same requests as BLIS with its own coefficients", columns, _error_rows(blis_reports)))
        OUT.print(
            "BLIS runs a step after the one before ended and has one queueing constant, so what async scheduling and a "
            "busy front end add to TTFT it can only meet on average."
        )


def _error_rows(reports: list[RunReport]) -> list[list[str]]:
    return [
        [
            r.run,
            str(r.requests),
            *(pct(r.metrics[m].error_pct) if m in r.metrics else "-" for m in ("e2e_mean", "ttft_mean", "tpot_mean")),
        ]
        for r in reports
    ]
