"""What commands print: results on stdout, everything else on stderr, progress only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from roofml.util.display import WIDE, Shown, Table

if TYPE_CHECKING:
    from roofml.traces.finding import Finding
    from roofml.traces.run import Run

OUT = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
ERR = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
STYLES = {"error": "bold red", "warning": "yellow", "corrected": "cyan", "info": "dim"}


def print_json(document: Any) -> None:
    """One document on stdout; NaN and infinity are refused rather than written."""
    print(json.dumps(document, indent=2, allow_nan=False))


def show(shown: Shown | Iterable[Table]) -> None:
    """Print tables, or those of an object."""
    for table in shown.tables() if isinstance(shown, Shown) else shown:
        OUT.print(table.rich())


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    ERR.print(escape(text), style="dim")


def warn(text: str) -> None:
    """A warning, on stderr, also with --quiet and --json."""
    ERR.print(f"[yellow]warning:[/yellow] {escape(text)}")


def warn_of(runs: Sequence[Run]) -> None:
    """Say the doctor's warnings: once the rest of the command line is known to be good, for a refusal is one line."""
    for run in runs:
        for finding in run.findings:
            if finding.severity == "warning":
                warn(f"{run.name}: {finding.summary}")


def note_left_out(runs: Sequence[Run], used: Sequence[Run], quiet: bool) -> None:
    """Say the doctor's warnings, and which runs a fit leaves out."""
    warn_of(runs)
    for run in runs:
        if run not in used and not quiet:
            note(f"{run.name}: saturated, left out of the fit")


def warn_not_converged(converged: bool) -> None:
    """Say that a fit had not settled."""
    if not converged:
        warn("the schedule still moved in the last round: fit more requests, or a run at lower load")


def print_findings(findings: Sequence[Finding], quiet: bool) -> None:
    """What the doctor found, and what can be done about it."""
    for finding in findings:
        if quiet and finding.severity == "info":
            continue
        style = STYLES[finding.severity]
        OUT.print(f"  [{style}]{finding.severity:>9}[/{style}]  {escape(finding.summary)}")
        OUT.print(f"             [dim]{escape(finding.advice)}[/dim]")
    OUT.print()


@contextmanager
def progress(quiet: bool) -> Generator[Progress]:
    """A progress display on stderr; silent when `quiet` or when stderr is no terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=quiet or not ERR.is_terminal,
    ) as shown:
        yield shown


def show_round(shown: Progress, task: TaskID, number: int, rounds: int) -> None:
    """Show that a fit begins this round."""
    shown.update(task, completed=number - 1, total=rounds)
