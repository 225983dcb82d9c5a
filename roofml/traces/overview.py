"""Overview: what the file of a run says of it as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Overview:
    """What the file of a run says of it as a whole, whether its requests are in it or not."""

    format: str
    """Name of the format, as `doctor --json` has it."""
    requests: int
    """All that were sent, failed ones too."""
    completed: int
    means: Mapping[str, float] = field(default_factory=dict[str, float])
    """`ttft_mean`, `tpot_mean`, `e2e_mean`, µs, of all requests that completed."""
    unfit: str | None = None
    """Why the run can be judged and not fitted on."""
