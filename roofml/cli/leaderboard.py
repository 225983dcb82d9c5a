"""roofml leaderboard: every method, every protocol, one table each."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from roofml.cli import options as o
from roofml.cli.console import OUT, note, print_json, progress, show


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
    scheduler: o.Scheduler = None,
    workers: Annotated[
        int, typer.Option("--workers", "--jobs", min=1, help="Processes on this machine; one without Dask.")
    ] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Judge our model, its variants and the baselines on held-out requests, and test who is better."""
    from roofml.jobs.cluster import Wanted
    from roofml.validation.leaderboard.making import Request, make, written_files
    from roofml.validation.leaderboard.page import summary_tables

    request = Request(
        runs=tuple(runs),
        gpu=gpu,
        steps=tuple(steps or ()),
        protocols=tuple(chosen.value for chosen in protocol or Protocol),
        predictors=tuple(method or ()),
        seed=seed,
        all_protocols=not protocol,
    )
    files = written_files(output)
    with progress(quiet or as_json) as shown:
        task = shown.add_task("reading runs", total=None)

        def on_cell(done: int, total: int, what: str) -> None:
            shown.update(task, description=what, completed=done, total=total)

        def on_cluster(dashboard: str) -> None:
            if dashboard and not quiet and not as_json:
                note(f"Dask's dashboard: {dashboard}")

        board = make(request, output, cells, Wanted(scheduler, workers), on_cell, on_cluster)
    if as_json:
        print_json(board)
        return
    if output is None or not quiet:
        show(summary_tables(board))
    if output is not None and not quiet:
        OUT.print(f"written: {', '.join(map(str, files))}", markup=False)
