"""What making a catalogue came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from roofml.catalog.index import Failure, Row
from roofml.util.display import Shown, Table

MOST_SHOWN = 20
"""Rows of a table on a terminal: the page has all."""


@dataclass(frozen=True, eq=False, repr=False)
class Made(Shown):
    """A catalogue that was written."""

    place: str
    rows: Sequence[Row]
    failures: Sequence[Failure]
    computed: int
    """Tasks that were done now; the others were known."""

    def tables(self) -> list[Table]:
        """The deployments, the least accurate first, and what could not be used."""
        worst = sorted(self.rows, key=lambda row: (-(row.held_out_e2e_pct or 0.0), row.name))
        rows = [
            [
                row.name,
                f"{row.runs}",
                f"{row.requests:,}",
                *(_pct(error) for error in (row.held_out_e2e_pct, row.held_out_ttft_pct, row.held_out_tpot_pct)),
                _pct(row.untraced_e2e_pct),
                "" if row.drift_pct is None else f"{row.drift_pct:+.2f}",
            ]
            for row in worst[:MOST_SHOWN]
        ]
        columns = ["deployment", "runs", "requests", "E2E %", "TTFT %", "TPOT %", "no trace", "drift %"]
        caption = "|errors| of means on requests that were held out; no trace: E2E, by what other models say"
        if len(worst) > MOST_SHOWN:
            caption += f"; the worst {MOST_SHOWN} of {len(worst)}, {self.place}/index.html has all"
        judged = [row.held_out_e2e_pct for row in self.rows if row.held_out_e2e_pct is not None]
        if judged:
            caption += f"; mean E2E error of {len(judged)}: {float(np.mean(judged)):.2f} %"
        shown = [Table("", columns, rows, caption)] if rows else []
        if self.failures:
            listed = [[f.stage, f"{f.folder} {f.run}".strip(), f.reason] for f in self.failures[:MOST_SHOWN]]
            stages = Counter(failure.stage for failure in self.failures)
            counts = ", ".join(f"{count} at {stage}" for stage, count in sorted(stages.items()))
            more = f"; the first {MOST_SHOWN}, {self.place}/failures.json has all" * (len(self.failures) > MOST_SHOWN)
            shown.append(Table("not used, and why", ["stage", "what", "reason"], listed, f"{counts}{more}"))
        return shown

    def to_dict(self) -> dict[str, Any]:
        """As `roofml catalog fit --json` prints it."""
        return {
            "output": self.place,
            "deployments": [row.to_dict() for row in self.rows],
            "failures": [asdict(failure) for failure in self.failures],
            "computed": self.computed,
        }


def _pct(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
