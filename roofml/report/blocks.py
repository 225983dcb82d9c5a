"""What a report is made of: sections of paragraphs, tables and figures. Texts are plain; the page escapes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roofml.util.display import Table


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: str
    kind: str = ""
    """`warning`, or nothing."""


@dataclass(frozen=True)
class Figure:
    """A picture as plotly.js draws it: traces and a layout of plain lists, numbers and texts."""

    caption: str
    """What is to be seen, for people."""
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Remarks:
    """Short texts that belong to one thing, each with a word before it and what follows from it."""

    title: str
    items: Sequence[tuple[str, str, str]]
    """A word (`corrected`), a sentence, and what was done or can be."""


Block = Paragraph | Remarks | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    lead: str
    """The result, in a sentence or two."""
    sections: Sequence[Section]
