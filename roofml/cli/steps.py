"""What `doctor` and `fit` say about tables of sampled steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roofml.cli.console import OUT, escape, pct, table, us
from roofml.util.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from roofml.calibration.fit import Fit
    from roofml.calibration.step_level.fit import StepData
    from roofml.latency.components import ComponentTables
    from roofml.traces.run import Floats, Run
    from roofml.validation.cross_validation import Setting

    Given = tuple[str, Floats, float]


class Contexts(str, Enum):  # noqa: UP042 (typer shows the values of a str Enum)
    """Where the contexts of sampled steps come from."""

    auto = "auto"
    snapshot = "snapshot"
    replay = "replay"
    kv = "kv"
    mean = "mean"


def step_data(paths: Sequence[Path], runs: Sequence[Run], contexts: Contexts) -> list[StepData]:
    """The tables at `paths`, each with the run of its name, or with the only run.

    Raises InputError for a table that cannot be read, is given twice, or whose run is not among those fitted.
    """
    from roofml.calibration.step_level.contexts import SOURCES
    from roofml.calibration.step_level.fit import StepData
    from roofml.traces.steps import read_steps

    names = [run.name for run in runs]
    found: list[StepData] = []
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise InputError(f"{path}: given twice")
        seen.add(path.resolve())
        steps = read_steps(path)
        if path.stem not in names and len(names) > 1:
            raise InputError(f"{path}: expected the name of a run that is fitted, one of {', '.join(names)}")
        listed = steps.snapshot is not None and steps.snapshot.known.mean() > 0.5
        source = ("snapshot" if listed else "replay") if contexts is Contexts.auto else contexts.value
        found.append(StepData(steps, names.index(path.stem) if path.stem in names else 0, SOURCES[source]))
    return found


def step_rows(
    data: Sequence[StepData], runs: Sequence[Run], tables: ComponentTables, found: Fit, train_fraction: float
) -> list[dict[str, Any]]:
    """Errors of cycle times by table: of the fit on what it has not seen (all, where it has seen all), and of its
    prior, which has seen none."""
    from roofml.validation.step_report import judge

    after = train_fraction if train_fraction < 1 else 0.0
    rows: list[dict[str, Any]] = []
    for one in data:
        pace = found.paces.get(runs[one.run].name, 1.0)
        for name, values, paced in (("prior", found.prior.values, 1.0), ("fit", found.values, pace)):
            report = judge(one, runs[one.run], tables, values, after, paced)
            rows.append({"parameters": name, "held_out": after > 0, "after": after, **asdict(report)})
    return rows


def judged_rows(
    data: Sequence[StepData], runs: Sequence[Run], after: float, given: Callable[[Setting, Run], Given]
) -> list[dict[str, Any]]:
    """Errors of cycle times by table, after the first share `after` of each, with what is `given` for its run: name,
    values and pace. Contexts of a table come from itself or the replay."""
    from roofml.validation.cross_validation import setting_of
    from roofml.validation.step_report import judge

    rows: list[dict[str, Any]] = []
    for one in data:
        run = runs[one.run]
        where = setting_of([run])
        name, values, pace = given(where, run)
        report = judge(one, run, where.tables, values, after, pace)
        rows.append({"parameters": name, "held_out": after > 0, "after": after, **asdict(report)})
    return rows


def step_table(rows: Sequence[dict[str, Any]], title: str = "") -> Table:
    """The same for people."""
    title = title or "cycle times of steps " + ("that the fit has not seen" if rows[0]["held_out"] else "in sample")
    columns = ["table", "with", "contexts", "cycles", "measured", "|error| %", "p90 %", "median %", "sum %", "r"]
    cells = [
        [
            Path(row["table"]).stem,
            row["parameters"],
            row["source"],
            str(row["cycles"]),
            us(row["measured_us"]),
            f"{row['median_abs_error_pct']:.2f}",
            f"{row['p90_abs_error_pct']:.2f}",
            pct(row["median_error_pct"]),
            pct(row["bias_pct"]),
            f"{row['pearson_r']:.3f}",
        ]
        for row in rows
    ]
    return table(title, columns, cells, "medians over single cycles; + is too slow")


def sampling_reports(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The sampling report of each table, ready for JSON."""
    from roofml.traces.steps import read_steps
    from roofml.traces.steps.sampling import sampling, sampling_document, sampling_findings

    documents: list[dict[str, Any]] = []
    for path in paths:
        steps = read_steps(path)
        found = sampling(steps)
        documents.append(sampling_document(found, sampling_findings(steps, found)))
    return documents


def print_sampling(documents: Sequence[dict[str, Any]], styles: dict[str, str], quiet: bool) -> None:
    """The findings on each table, as those on runs are printed."""
    for document in documents:
        OUT.print(f"[bold]{escape(Path(document['table']).name)}[/bold]")
        OUT.print(f"  {document['samples']} sampled steps of {document['steps']}")
        for finding in document["findings"]:
            if quiet and finding["severity"] == "info":
                continue
            style = styles[finding["severity"]]
            OUT.print(f"  [{style}]{finding['severity']:>9}[/{style}]  {escape(finding['summary'])}")
            OUT.print(f"             [dim]{escape(finding['advice'])}[/dim]")
        OUT.print()
