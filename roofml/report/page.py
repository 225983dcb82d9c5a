"""A report as one HTML file: styles, pictures and the library that draws them are in it; nothing is fetched.

Texts from outside are escaped for HTML, and what is drawn goes as JSON in which no tag can begin. A policy in the page
forbids the browser to load anything, whatever the texts say.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from importlib import import_module, resources
from itertools import count

from roofml.report.blocks import Block, Figure, Page, Paragraph, Remarks
from roofml.util.display import Table
from roofml.util.errors import InputError
from roofml.util.outside_text import for_terminal

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
PROSE = 60
"""Characters from which a cell's text may be broken into lines."""


def to_html(page: Page) -> str:
    """The file's text. Raises InputError where plotly (extra `report`), which brings the library, is missing."""
    figures = [block for section in page.sections for block in section.blocks if isinstance(block, Figure)]
    numbers = count()
    links = "".join(f'<a href="#part-{n}">{escaped(part.title)}</a>' for n, part in enumerate(page.sections))
    body = [f"<h1>{escaped(page.title)}</h1>", f'<p class="lead">{escaped(page.lead)}</p>', f"<nav>{links}</nav>"]
    for number, section in enumerate(page.sections):
        body.append(f'<h2 id="part-{number}">{escaped(section.title)}</h2>')
        body += [_block(block, numbers) for block in section.blocks]
    drawn = [{"traces": list(figure.traces), "layout": dict(figure.layout)} for figure in figures]
    scripts = ""
    if figures:
        scripts = (
            f'<script type="application/json" id="figures">{as_json(drawn)}</script>\n'
            f"<script>{_library()}</script>\n<script>{_own('page.js')}</script>\n"
        )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(page.title)}</title>\n<style>\n{_own('page.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n{scripts}</body>\n</html>\n"
    )


def escaped(text: str) -> str:
    """A text from anywhere as what HTML shows: no tag, no control character, no turned line."""
    return html.escape(for_terminal(text))


def as_json(value: object) -> str:
    """JSON that may stand in a script element: no tag or comment of HTML can begin or end in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _block(block: Block, numbers: Iterator[int]) -> str:
    if isinstance(block, Paragraph):
        kind = f' class="{escaped(block.kind)}"' if block.kind else ""
        return f"<p{kind}>{escaped(block.text)}</p>"
    if isinstance(block, Figure):
        label = escaped(block.caption)
        return (
            f"<figure><figcaption>{label}</figcaption>"
            f'<div class="plot" id="figure-{next(numbers)}" role="img" aria-label="{label}"></div></figure>'
        )
    if isinstance(block, Remarks):
        items = "".join(
            f"<li><b>{escaped(word)}</b> {escaped(text)}<br><span>{escaped(more)}</span></li>"
            for word, text, more in block.items
        )
        return f'<h3>{escaped(block.title)}</h3><ul class="remarks">{items}</ul>'
    return _table(block)


def _table(table: Table) -> str:
    prose = [any(len(row[place]) > PROSE for row in table.rows) for place in range(len(table.columns))]

    def cells(tag: str, row: Sequence[str]) -> str:
        classes = [' class="prose"' if long else "" for long in prose]
        if not prose[0] and len(row[0]) > PROSE // 3:
            classes[0] = ' class="name"'
        return "".join(f"<{tag}{kind}>{escaped(cell)}</{tag}>" for kind, cell in zip(classes, row, strict=True))

    # Above the part that scrolls: a title is read whole on a phone, however wide its table is.
    title = f'<p class="title">{escaped(table.title)}</p>' if table.title else ""
    label = f' aria-label="{escaped(table.title)}"' if table.title else ""
    head = f"<thead><tr>{cells('th', table.columns)}</tr></thead>"
    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    note = f'<p class="note">{escaped(table.caption)}</p>' if table.caption else ""
    return f'{title}<div class="wide" tabindex="0"><table{label}>{head}<tbody>{rows}</tbody></table></div>{note}'


def _own(name: str) -> str:
    return resources.files("roofml.report").joinpath(name).read_text("utf-8")


def _library() -> str:
    try:
        text: str = import_module("plotly.offline").get_plotlyjs()
    except ImportError:
        raise InputError("a report's pictures need plotly: pip install 'roofml[report]'") from None
    return text.replace("</script", "<\\/script")
