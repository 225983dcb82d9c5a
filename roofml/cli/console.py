"""What commands print: results on stdout, everything else on stderr, progress only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

WIDE = 150
"""Columns of a table that goes to a file or a pipe, where nothing has to fit a screen."""

OUT = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
ERR = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """One document on stdout; NaN and infinity are refused rather than written."""
    print(json.dumps(document, indent=2, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
    """A table whose first column is text and whose others are right-aligned."""
    result = Table(
        title=escape(title) or None,
        caption=escape(caption) or None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    for number, column in enumerate(columns):
        first = number == 0
        result.add_column(escape(column), justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for row in rows:
        result.add_row(*map(escape, row))
    return result


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    ERR.print(escape(text), style="dim")


def warn(text: str) -> None:
    """A warning, on stderr, also with --quiet and --json."""
    ERR.print(f"[yellow]warning:[/yellow] {escape(text)}")


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


def digits(value: float, count: int = 3) -> str:
    """A number to so many digits, for people: no exponent where it is large."""
    return f"{float(f'{value:.{count}g}'):,.12g}"


def us(value: float) -> str:
    """A time in µs for people: three digits, in µs, ms or s."""
    for limit, unit, divisor in ((1e3, "µs", 1.0), (1e6, "ms", 1e3)):
        if abs(value) < limit:
            return f"{value / divisor:.3g} {unit}"
    return f"{value / 1e6:.4g} s"


def us_range(low: float, high: float) -> str:
    """Two times in µs for people, in the unit of the longer."""
    unit, divisor = ("µs", 1.0) if high < 1e3 else ("ms", 1e3) if high < 1e6 else ("s", 1e6)
    return f"{low / divisor:.3g}-{high / divisor:.3g} {unit}"


def pct(value: float) -> str:
    """A signed error in per cent."""
    return f"{value:+.2f}" if abs(value) < 100 else f"{value:+.0f}"
