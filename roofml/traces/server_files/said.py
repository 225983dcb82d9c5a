"""Said: what one file says of a server, and what it makes impossible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from roofml.traces.finding import Finding
from roofml.traces.recording import Facts


@dataclass(frozen=True)
class Said:
    """What one file says of a server. What it does not say is not there: nothing is guessed."""

    facts: Facts
    """Field of `Server` or of its settings -> value; also `dtype`, `kv_cache_tokens` and others that derive fields."""
    findings: tuple[Finding, ...] = ()
    refused: str | None = None
    """Why no run of this server can be used."""
    observed: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """What the server counted and measured, not how it was set: requests, mean times in µs."""
