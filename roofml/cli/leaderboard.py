"""roofml leaderboard: every method, every protocol, one table each."""

from __future__ import annotations

import os
import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, print_json, progress, table
from roofml.util.errors import InputError

FIRST_ELSEWHERE = ("roofml", "global-9", "extended", "per-model-9", "package-prior", "wide-prior", "no-cold-start")
"""Variants that also run by the protocols that leave out a model or a workload; the others are about the trace."""


class Protocol(str, Enum):  # noqa: UP042 (typer shows the values of a str Enum)
    """Who learns from what."""

    temporal = "temporal"
    lomo = "lomo"
    lowo = "lowo"


def leaderboard(
    runs: o.Runs,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Markdown file; .json and .png are put beside it.")
    ] = None,
    gpu: o.Gpu = None,
    steps: Annotated[
        list[Path] | None, typer.Option(help="Sampled steps (parquet, OTLP JSON lines), named as their run.")
    ] = None,
    protocol: Annotated[list[Protocol] | None, typer.Option(help="Only these; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these rows; may be repeated.")] = None,
    cells: Annotated[
        Path, typer.Option(help="Folder that keeps what was computed: a board that was stopped goes on.")
    ] = Path(".roofml-leaderboard"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Judge our model, its variants and the baselines on held-out requests, and test who is better."""
    from roofml.util.files import check_writable, write_atomically
    from roofml.validation.leaderboard.board import board
    from roofml.validation.leaderboard.cells import Inputs, folds_of, load
    from roofml.validation.leaderboard.cells import cells as compute
    from roofml.validation.leaderboard.methods import METHODS, check_installed
    from roofml.validation.leaderboard.page import markdown, picture

    chosen = [p.value for p in protocol] if protocol else [p.value for p in Protocol]
    for name in method or []:
        if name not in METHODS:
            raise InputError(f"--method {name!r}: expected one of {', '.join(METHODS)}")
    files = [] if output is None else [output, output.with_suffix(".json"), output.with_suffix(".png")]
    if len(set(files)) < len(files):
        raise InputError(f"{output}: expected a name that does not end in .json or .png, which are written beside it")
    for file in files:
        check_writable(file)
    if cells.exists() and not cells.is_dir():
        raise InputError(f"{cells}: expected a folder")
    selected = {
        p: [
            name
            for name, one in METHODS.items()
            if (name in method if method else p == "temporal" or one.kind == "baseline" or name in FIRST_ELSEWHERE)
        ]
        for p in chosen
    }
    check_installed([name for names in selected.values() for name in names], picture=output is not None)
    inputs = Inputs(tuple(path.resolve() for path in runs), gpu, tuple(path.resolve() for path in steps or []), seed)
    diagnoses = load(inputs).diagnoses
    for p in chosen:
        folds_of(p, diagnoses)
    total = sum(map(len, selected.values()))
    with progress(quiet or as_json) as shown:
        task = shown.add_task(f"{total} cells", total=total)

        def on_cell(p: str, name: str, known: bool) -> None:
            shown.update(task, description=f"{p} {name}{' (known)' if known else ''}", advance=1)

        found = board(inputs, compute(inputs, selected, cells, jobs, on_cell))
    if output is not None:
        given = [*(f"--steps {shlex.quote(str(path))}" for path in steps or [])]
        given += [f"--protocol {p}" for p in chosen] if protocol else []
        given += [f"--method {name}" for name in method or []]
        given += [f"--seed {seed}"] if seed else []
        flags = " ".join([*([f"--gpu {gpu}"] if gpu else []), *given])
        where = " ".join(dict.fromkeys(f"{path.parent}/*" if len(runs) > 1 else str(path) for path in runs))
        write_atomically(output, markdown(found, f"roofml leaderboard {where} {flags} -o {output}".replace("  ", " ")))
        write_atomically(files[1], as_text(found))
        picture(found, files[2])
    if as_json:
        print_json(found)
        return
    if output is None or not quiet:
        _print(found)
    if output is not None and not quiet:
        OUT.print(f"written: {', '.join(map(str, files))}", markup=False)


def as_text(document: object) -> str:
    """JSON with two spaces, as it is written to files."""
    import json

    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _print(found: dict[str, object]) -> None:
    from typing import Any, cast

    from roofml.validation.leaderboard.page import METRIC_TITLES, PROTOCOL_TITLES, number

    protocols = cast("dict[str, Any]", found["protocols"])
    for name, one in protocols.items():
        rows = [
            [
                row["method"],
                row["kind"],
                *(number(row[metric]["mean_abs_error_pct"]) for metric in METRIC_TITLES),
                number(row["e2e"]["p99_abs_error_pct"]),
                number(row["e2e"]["request_mape_pct"]),
            ]
            for row in one["methods"]
        ]
        columns = ["method", "kind", *METRIC_TITLES.values(), "p99 E2E", "request |E2E|"]
        tests = [
            f"{METRIC_TITLES[metric]} {number(test['ours_pct'])} against {number(test['best_other_pct'])} of "
            f"{test['best_other']} (p = {test['runs']['p_holm']:.2g} over runs, {test['blocks']['p_holm']:.2g} blocks)"
            for metric, test in one["against_best_other"].items()
        ]
        OUT.print(table(PROTOCOL_TITLES[name], columns, rows, "; ".join(["mean absolute errors, %", *tests])))
