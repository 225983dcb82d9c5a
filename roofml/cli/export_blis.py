"""roofml export blis: coefficients into BLIS's files, into a folder with all it needs, or as its flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import note, warn
from roofml.util.errors import InputError

LONGEST_TIMEOUT_S = 1e6

Derive = Annotated[
    str | None, typer.Option(metavar="MODEL", help="No trace: match BLIS's form to our step times of this model.")
]
Defaults = Annotated[
    Path | None,
    typer.Option(help="Your defaults.yaml: edited in place; with several COEFFS, the base of each file."),
]
HardwareConfig = Annotated[
    Path | None, typer.Option("--hardware-config", help="Your hardware_config.json: the GPU is added if missing.")
]
Into = Annotated[
    Path | None, typer.Option("--into", metavar="FOLDER", help="All that BLIS needs into one folder, with a run.sh.")
]
Verify = Annotated[
    Path | None, typer.Option("--verify", metavar="RUN", help="Run the blis binary on this run, before and after.")
]


def blis(
    coeffs: Annotated[
        list[Path] | None,
        typer.Argument(help="Coefficients files with a `blis` section; with --catalog names in it, or all."),
    ] = None,
    catalog: o.CatalogOption = None,
    derive: Derive = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="With --derive: name in hardware/ or a YAML file.")] = None,
    tp: Annotated[int, typer.Option("--tp", help="With --derive: tensor parallel size (GPUs).")] = 1,
    max_num_seqs: Annotated[
        int | None, typer.Option(help="With --derive: most requests in a step. Default: vLLM's for this GPU.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="With --derive: most new tokens in a step. Default: vLLM's for this GPU.")
    ] = None,
    load: Annotated[
        str | None,
        typer.Option(
            "--load", metavar="LOAD", help="A run or workload file to simulate: TTFT right there; --derive matches it."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-6, help="With --load: as many requests a second.")
    ] = None,
    accept_error: Annotated[
        bool, typer.Option("--accept-error", help="With --derive: write also a form that is far from our times.")
    ] = False,
    defaults: Defaults = None,
    hardware_config: HardwareConfig = None,
    into: Into = None,
    config: Annotated[Path | None, typer.Option("--config", help="With --into: the model's config.json.")] = None,
    hf_repo: Annotated[
        str | None, typer.Option("--hf-repo", metavar="ORG/NAME", help="The model's repository on the Hub.")
    ] = None,
    flags: Annotated[bool, typer.Option("--flags", help="Print the command line and write no defaults file.")] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for new defaults files; one that is not there: as --into.")
    ] = Path(),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes and write nothing.")] = False,
    backup: Annotated[bool, typer.Option("--backup/--no-backup", help="Keep what was there as FILE.bak.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Also where another deployment's are given up.")] = False,
    verify: Verify = None,
    blis_binary: Annotated[Path | None, typer.Option("--blis", help="The blis binary, if it is not on PATH.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one call of blis.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Put coefficients into a BLIS defaults.yaml, keeping everything else in it, or print them as flags.

    BLIS has one set of coefficients a file: several COEFFS make a file each, and blis-flags.sh over them.
    """
    from roofml.catalog.using import coefficients_files
    from roofml.export.a_load import load_named
    from roofml.export.deployment import read_export
    from roofml.export.derive import derived_export
    from roofml.export.edit import carry_out, check_edits
    from roofml.export.outcome import ExportOutcome
    from roofml.export.plan import Places
    from roofml.export.queueing import for_load
    from roofml.export.verify import find_blis, verify_export

    if (derive is None) == (not coeffs and catalog is None):
        raise InputError("expected COEFFS files, or --derive MODEL for a model without one")
    derived = None
    if coeffs or catalog is not None:
        if accept_error:
            raise InputError("--accept-error: expected --derive MODEL")
        with coefficients_files(catalog, coeffs or []) as files:
            exports = [read_export(path) for path in files]
            if load is not None:
                asked = load_named(load, rate)
                exports = [for_load(export, path, asked) for export, path in zip(exports, files, strict=True)]
    elif derive is None or gpu is None:
        raise InputError("--derive: expected --gpu as well")
    else:
        asked = None if load is None else load_named(load, rate)
        export, derived = derived_export(
            derive, gpu, tp, max_num_seqs, max_num_batched_tokens, asked, accept_error=accept_error
        )
        exports = [export]
    if verify is not None and len(exports) > 1:
        raise InputError("--verify: expected one COEFFS file, for a run is of one model")
    if not 1 <= timeout <= LONGEST_TIMEOUT_S:
        raise InputError(f"--timeout {timeout:g}: expected between 1 and {LONGEST_TIMEOUT_S:g} s")
    exports = exports if hf_repo is None else [export.of_repository(hf_repo) for export in exports]
    places = Places(output, defaults, hardware_config, flags, replace, into, config).for_these(exports)
    edits = places.edits(exports)
    for remark in places.planned(exports):
        (warn if remark.is_problem else note if not quiet else str)(remark.text)
    backups: list[Path | None] = [None] * len(edits)
    if not dry_run:
        check_edits(edits)
    verification = None
    if verify is not None:
        binary, fitted = find_blis(blis_binary), coeffs[0] if coeffs else None
        verification = verify_export(exports[0], verify, binary, places.edited, timeout, fitted)
    if not dry_run:
        edits, backups = carry_out(lambda: places.edits(exports), edits, backup=backup)
    outcome = ExportOutcome(exports, edits, backups, dry_run, verification, derived)
    for export in exports:
        for text in export.warnings:
            warn(text)
    if as_json:
        typer.echo(json.dumps(outcome.to_dict(), indent=2))
    elif not quiet:
        typer.echo("\n".join(outcome.lines(flags)))
        for line in derived.lines() if derived is not None else ():
            note(line)
