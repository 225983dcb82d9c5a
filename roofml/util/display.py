"""What people see: numbers in a few digits, and tables that a command prints and a notebook shows.

Names in tables come from outside: what a terminal would obey is written out. A table that is wider than its screen is
shown with its names above their values, or value below value, so that no name and no digit is lost.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from roofml.util.outside_text import for_terminal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable
    from rich.text import Text

WIDE = 150
"""Columns of a table that goes to a file, a pipe or a notebook, where nothing has to fit a screen."""
LEAST_NAME = 16
"""Columns that a table of WIDE ones leaves to its names at least. On a screen no word of a name is broken."""


@dataclass(frozen=True)
class Table:
    """A table whose first column is text and whose others are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def rich(self, screen: bool = False) -> Fitting:
        """For a terminal. On a `screen`, title and caption are as wide as it is, not as the table."""
        return Fitting(self, screen)

    def html(self) -> str:
        """For a notebook."""

        def cells(tag: str, row: Sequence[str]) -> str:
            return "".join(
                f'<{tag} style="text-align:{"right" if number else "left"}">{html.escape(for_terminal(cell))}</{tag}>'
                for number, cell in enumerate(row)
            )

        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        caption = html.escape(" - ".join(for_terminal(text) for text in (self.title, self.caption) if text))
        return (
            f"<table><caption>{caption}</caption><thead><tr>{cells('th', self.columns)}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


@dataclass(frozen=True)
class Fitting:
    """A table as rich prints it: beside each other what fits the width that there is, else below each other."""

    table: Table
    screen: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich."""
        from rich.text import Text

        if not self.screen and self._least_width(console, options, self._grid()) <= options.max_width:
            grid = self._grid()
            grid.title = self._annotation("title") if self.table.title else None
            grid.caption = self._annotation("caption") if self.table.caption else None
            yield grid
            return
        if self.table.title:
            yield self._annotation("title")
        grid, tight = self._grid(), self._grid(tight=True)
        if self._least_width(console, options, grid) <= options.max_width:
            yield grid
        else:
            yield Text()
            if self._least_width(console, options, tight) <= options.max_width:
                yield tight
            else:
                yield from self._below(options.max_width) or self._blocks()
            yield Text()
        if self.table.caption:
            yield self._annotation("caption")

    def _annotation(self, which: Literal["title", "caption"]) -> Text:
        from rich.text import Text

        return Text(_one_line(self.table.title if which == "title" else self.table.caption), style=f"table.{which}")

    def _grid(self, tight: bool = False) -> RichTable:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        grid = RichTable(
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1),
            collapse_padding=tight,
            show_edge=not tight,
        )
        for number, column in enumerate(self.table.columns):
            first = number == 0
            header = Text(_one_line(column))
            grid.add_column(header, justify="left" if first else "right", no_wrap=not first, overflow="fold")
        for name, *values in self.table.rows:
            grid.add_row(Text(_one_line(name)), *(Text(for_terminal(value)) for value in values))
        return grid

    def _least_width(self, console: Console, options: ConsoleOptions, grid: RichTable) -> int:
        """Columns that it takes to show every value on its line, with names broken as far as they may be."""
        from rich.cells import cell_len
        from rich.measure import Measurement

        natural = Measurement.get(console, options.update(max_width=100_000), grid).maximum
        names = [_one_line(text) for text in (self.table.columns[0], *(row[0] for row in self.table.rows))]
        longest = max(map(cell_len, names))
        word = max((cell_len(word) for name in names for word in name.split()), default=0)
        return natural - longest + (word if self.screen else min(LEAST_NAME, longest))

    def _below(self, width: int) -> list[Text]:
        """Each row's values in their columns, below its name; nothing if they do not fit `width`."""
        from rich.cells import cell_len
        from rich.text import Text

        header, *rows = (list(map(_one_line, row[1:])) for row in (self.table.columns, *self.table.rows))
        widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
        gap = 3 if sum(widths) + 3 * len(widths) <= width else 2
        if any("\n" in value for _, *values in self.table.rows for value in values):
            return []
        if sum(widths) + gap * len(widths) > width:
            return []

        def line(values: Sequence[str]) -> str:
            return "".join(
                " " * (gap + width - cell_len(value)) + value for width, value in zip(widths, values, strict=True)
            )

        lines = [
            Text(line(header), style="table.header"),
            Text(" " * gap + "─" * (sum(widths) + gap * (len(widths) - 1))),
        ]
        for (name, *_), values in zip(self.table.rows, rows, strict=True):
            lines += [Text(_one_line(name), style="bold", overflow="fold"), Text(line(values))]
        return lines

    def _blocks(self) -> RenderResult:
        """Each row as its name and, below it, a line for each value."""
        from rich.table import Table as RichTable
        from rich.text import Text

        for name, *values in self.table.rows:
            yield Text(_one_line(name), style="bold", overflow="fold")
            block = RichTable.grid(padding=(0, 2))
            block.add_column()
            block.add_column(overflow="fold")
            for column, value in zip(self.table.columns[1:], values, strict=True):
                if value:
                    block.add_row(Text(f"  {_one_line(column)}"), Text(for_terminal(value)))
            yield block


def _one_line(text: str) -> str:
    """A name or a sentence; a line break in it would look like another row."""
    return for_terminal(text).replace("\n", "\\n").replace("\t", "\\t")


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
