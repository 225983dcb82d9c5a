"""roofml export blis: coefficients into BLIS's files, or as its flags."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roofml.util.errors import InputError

if TYPE_CHECKING:
    from roofml.export.defaults import Edit
    from roofml.export.deployment import BlisExport
    from roofml.export.verify import Check, Verification

app = typer.Typer(no_args_is_help=True, help="Write what other simulators load.")


@app.callback()
def export() -> None:
    """Write what other simulators load."""


@app.command(epilog="Example: roofml export blis coefficients.yaml --defaults defaults.yaml")
def blis(
    coeffs: Annotated[list[Path] | None, typer.Argument(help="Coefficients files with a `blis` section.")] = None,
    derive: Annotated[
        str | None, typer.Option(metavar="MODEL", help="No trace: match BLIS's form to our step times of this model.")
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="With --derive: name in hardware/ or a YAML file.")] = None,
    tp: Annotated[int, typer.Option("--tp", help="With --derive: tensor parallel size (GPUs).")] = 1,
    max_num_seqs: Annotated[int, typer.Option(help="With --derive: most requests in a step.")] = 128,
    max_num_batched_tokens: Annotated[int, typer.Option(help="With --derive: most new tokens in a step.")] = 2048,
    defaults: Annotated[
        Path | None,
        typer.Option(help="Your defaults.yaml: edited in place; with several COEFFS, the base of each file."),
    ] = None,
    hardware_config: Annotated[
        Path | None, typer.Option("--hardware-config", help="Your hardware_config.json: the GPU is added if missing.")
    ] = None,
    flags: Annotated[bool, typer.Option("--flags", help="Print the command line and write no defaults file.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for new defaults files.")] = Path(),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes and write nothing.")] = False,
    backup: Annotated[bool, typer.Option("--backup/--no-backup", help="Keep what was there as FILE.bak.")] = True,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="RUN", help="Run the blis binary on this run, before and after.")
    ] = None,
    blis_binary: Annotated[Path | None, typer.Option("--blis", help="The blis binary, if it is not on PATH.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one call of blis.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Put coefficients into a BLIS defaults.yaml, keeping everything else in it, or print them as flags.

    BLIS has one set of coefficients a file: several COEFFS make a file each, and blis-flags.sh over them.
    """
    from roofml.export.deployment import defaults_edits, hardware_edits, read_export
    from roofml.export.derive import derived_export
    from roofml.export.verify import BlisFailedError, find_blis, verify_export

    if (derive is None) == (not coeffs):
        raise InputError("expected COEFFS files, or --derive MODEL for a model without one")
    exports = [read_export(path) for path in coeffs or []]
    if derive is not None:
        if gpu is None:
            raise InputError("--derive: expected --gpu as well")
        exports = [derived_export(derive, gpu, tp, max_num_seqs, max_num_batched_tokens)]
    if verify is not None and len(exports) > 1:
        raise InputError("--verify: expected one COEFFS file, for a run is of one model")
    edits = [] if flags else defaults_edits(exports, defaults, output)
    if hardware_config is not None:
        edits += hardware_edits(exports, hardware_config)
    verification = None
    if verify is not None:
        try:
            verification = verify_export(exports[0], verify, find_blis(blis_binary), defaults, timeout)
        except BlisFailedError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
    backups = [None if dry_run else edit.write(backup) for edit in edits]

    if as_json:
        typer.echo(json.dumps(_document(exports, edits, backups, dry_run, verification), indent=2))
    elif not quiet:
        for edit, saved in zip(edits, backups, strict=True):
            typer.echo(_told(edit, saved, dry_run), nl=False)
        for export in exports:
            typer.echo(export.command_line() if flags else f"run BLIS with: {' '.join(export.server_flags())}")
            if derive is not None:
                typer.echo("; ".join(export.provenance), err=True)
        if verification is not None:
            typer.echo(_judged(verification))


def _told(edit: Edit, saved: Path | None, dry_run: bool) -> str:
    if not edit.changed:
        return f"{edit.path}: nothing to change\n"
    done = "would be written" if dry_run else "written" if saved is None else f"written, was saved as {saved}"
    return f"{edit.diff()}{edit.path}: {done}\n"


def _judged(found: Verification) -> str:
    def row(name: str, check: Check) -> str:
        grades = ", ".join(f"{metric} {grade.quality}" for metric, grade in check.grades.items())
        missing = f", {check.missing} requests not finished" if check.missing else ""
        return (
            f"{name}: E2E {check.e2e_pct:+.1f} %, TTFT {check.ttft_pct:+.1f} %, TPOT {check.tpot_pct:+.1f} % "
            f"(calibrate: {grades}{missing})"
        )

    before = f"before: {found.before_problem}" if found.before is None else row("before", found.before)
    lines = [before, row("after ", found.after)]
    if abs(found.drift_pct) > 0.5:
        lines.append(f"warning: this blis is {found.drift_pct:+.1f} % from our replay of it: is it another version?")
    return "\n".join(lines)


def _document(
    exports: list[BlisExport],
    edits: list[Edit],
    backups: list[Path | None],
    dry_run: bool,
    verification: Verification | None,
) -> dict[str, Any]:
    return {
        "exports": [
            {
                "model": export.model.name,
                "gpu": export.model.gpu,
                "tensor_parallel": export.model.tensor_parallel,
                "total_kv_blocks": export.total_kv_blocks,
                "alpha_coeffs": list(export.coefficients.alphas),
                "beta_coeffs": list(export.coefficients.betas),
                "flags": [*export.server_flags(), *export.coefficient_flags()],
            }
            for export in exports
        ],
        "files": [
            {
                "path": str(edit.path),
                "changed": edit.changed,
                "written": edit.changed and not dry_run,
                "backup": None if saved is None else str(saved),
                "diff": edit.diff(),
            }
            for edit, saved in zip(edits, backups, strict=True)
        ],
        "verification": None if verification is None else asdict(verification),
    }
