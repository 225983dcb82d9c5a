"""What commands print: results on stdout, everything else on stderr, progress only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TimeElapsedColumn
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from roofml.util.display import WIDE, Shown, Table
from roofml.util.outside_text import for_line, for_terminal

if TYPE_CHECKING:
    from roofml.traces.aggregate_run import AggregateRun
    from roofml.traces.finding import Finding
    from roofml.traces.forwards import Forwards
    from roofml.traces.run import Run

NARROWEST = 40
"""Columns that we fill at least, whatever COLUMNS says."""
STYLES = {"error": "bold red", "warning": "yellow", "corrected": "cyan", "info": "dim"}


class _Stream(Console):
    """A console for texts that hold names from outside: what a terminal would obey is written out.

    A terminal gets lines that break between words, of its own width or of COLUMNS. Anything else gets plain text: lines
    as long as they are and tables of WIDE columns, or both of COLUMNS if that is set.
    """

    def __init__(self, stream: TextIO | None, **how: Any) -> None:
        terminal = stream is not None and stream.isatty()
        given = os.environ.get("COLUMNS", "")
        width = max(NARROWEST, int(given)) if given.isdecimal() and 0 < int(given) < 10_000 else None
        # A remark on stderr is one line for whoever reads it from a file.
        self.breaks_lines = terminal or (width is not None and not how.get("stderr"))
        super().__init__(
            highlight=False,
            emoji=False,
            force_terminal=terminal,
            force_jupyter=False,
            soft_wrap=not self.breaks_lines,
            width=width or (None if terminal else WIDE),
            **how,
        )

    def print(self, *objects: Any, **how: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Print texts, with markup, and what rich can print."""
        safe = [for_terminal(thing) if isinstance(thing, str) else thing for thing in objects]
        words = [word for thing in safe if isinstance(thing, str) for word in thing.split()]
        if any(cell_len(word) > self.width for word in words):
            how = {"soft_wrap": True, **how}  # a path that is too long stays whole, to be copied
        super().print(*safe, **how)


OUT = _Stream(sys.stdout)
ERR = _Stream(sys.stderr, stderr=True)


def print_json(document: Any) -> None:
    """One document on stdout; NaN and infinity are refused rather than written."""
    print(json.dumps(document, indent=2, allow_nan=False))


def show(shown: Shown | Iterable[Table]) -> None:
    """Print tables, or those of an object."""
    for table in shown.tables() if isinstance(shown, Shown) else shown:
        OUT.print(table.rich(screen=OUT.breaks_lines))


def say_why(text: str) -> None:
    """Why a command ends, on stderr, in as many lines as it has."""
    ERR.print(text, markup=False)


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    ERR.print(escape(for_line(text)), style="dim")


def warn(text: str) -> None:
    """A warning, on stderr, also with --quiet and --json."""
    ERR.print(f"[yellow]warning:[/yellow] {escape(for_line(text))}")


def warn_of(runs: Sequence[Run | AggregateRun | Forwards]) -> None:
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
        _print_beside(f"  [{style}]{finding.severity:>9}[/{style}]  ", escape(for_line(finding.summary)))
        _print_beside(" " * 13, f"[dim]{escape(for_line(finding.advice))}[/dim]")
    OUT.print()


def _print_beside(label: str, text: str) -> None:
    """A text whose later lines begin below its first, not below its label."""
    if not OUT.breaks_lines:
        OUT.print(label + text)
        return
    beside = RichTable.grid()
    beside.add_column(no_wrap=True)
    beside.add_column(overflow="fold")
    beside.add_row(Text.from_markup(label), Text.from_markup(for_terminal(text)))
    OUT.print(beside)


class _What(ProgressColumn):
    """What is being done: a name in it is shown as it is, on one line."""

    def render(self, task: Task) -> Text:
        return Text(for_line(task.description), no_wrap=True, overflow="crop")


class _Count(ProgressColumn):
    """How much of it is done, if that is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


@contextmanager
def progress(quiet: bool) -> Generator[Progress]:
    """A progress display on stderr; silent when `quiet` or when stderr is no terminal."""
    with Progress(
        SpinnerColumn(),
        _What(table_column=Column(no_wrap=True, overflow="crop")),
        BarColumn(bar_width=40 if ERR.width > 100 else 12),
        _Count(),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=quiet or not ERR.is_terminal,
    ) as shown:
        yield shown


@contextmanager
def working(quiet: bool, what: str) -> Generator[None]:
    """A progress display, as `progress`, of something whose length is not known."""
    with progress(quiet) as shown:
        shown.add_task(what, total=None)
        yield


def show_round(shown: Progress, task: TaskID, number: int, rounds: int) -> None:
    """Show that a fit begins this round."""
    shown.update(task, completed=number - 1, total=rounds)
