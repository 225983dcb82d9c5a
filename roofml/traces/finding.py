"""Finding: something in a trace that its reader should know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "corrected", "warning", "error"]
Number = float | int | bool | str | None
Evidence = Mapping[str, Number | Sequence[Number]]


@dataclass(frozen=True)
class Finding:
    """Something in a trace that its reader should know."""

    code: str
    """Short and stable; scripts may depend on it."""
    severity: Severity
    """info: good to know; corrected: the run was changed; warning: could not be settled; error: do not fit on this."""
    summary: str
    """One sentence with the numbers."""
    evidence: Evidence
    """The numbers, ready for JSON. Times in µs."""
    advice: str
    """What was changed, or what the user can do."""
