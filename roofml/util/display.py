"""What people see: numbers in a few digits, and tables that a command prints and a notebook shows."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

WIDE = 150
"""Columns of a table that goes to a file, a pipe or a notebook, where nothing has to fit a screen."""


@dataclass(frozen=True)
class Table:
    """A table whose first column is text and whose others are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def rich(self) -> RichTable:
        """For a terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table as RichTable

        result = RichTable(
            title=escape(self.title) or None,
            caption=escape(self.caption) or None,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1),
        )
        for number, column in enumerate(self.columns):
            first = number == 0
            result.add_column(escape(column), justify="left" if first else "right", no_wrap=not first, overflow="fold")
        for row in self.rows:
            result.add_row(*map(escape, row))
        return result

    def html(self) -> str:
        """For a notebook."""

        def cells(tag: str, row: Sequence[str]) -> str:
            return "".join(
                f'<{tag} style="text-align:{"right" if number else "left"}">{html.escape(cell)}</{tag}>'
                for number, cell in enumerate(row)
            )

        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        caption = html.escape(" - ".join(text for text in (self.title, self.caption) if text))
        return (
            f"<table><caption>{caption}</caption><thead><tr>{cells('th', self.columns)}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


class Shown:
    """Something that prints as the tables that a command prints of it."""

    def tables(self) -> list[Table]:
        """What there is to see."""
        raise NotImplementedError

    def __repr__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=WIDE, highlight=False, emoji=False, color_system=None)
        for table in self.tables():
            console.print(table.rich())
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self.tables())


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
