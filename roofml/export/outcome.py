"""What an export did or would do: files changed, flags to run with, and what BLIS itself said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roofml.export.deployment import BlisExport
from roofml.export.derive import Derived
from roofml.export.edit import Edit
from roofml.export.provenance import run_with
from roofml.export.verify import Check, Verification
from roofml.util.outside_text import for_line, for_terminal

OTHER_VERSION_PCT = 0.5
"""A BLIS that differs from our replay of it by more than this may be another version."""


@dataclass(frozen=True)
class ExportOutcome:
    """An export, written or only shown."""

    exports: Sequence[BlisExport]
    edits: Sequence[Edit]
    backups: Sequence[Path | None]
    """Where each edited file was kept as it was."""
    dry_run: bool
    verification: Verification | None
    derived: Derived | None = None
    """What was measured of coefficients that no trace was taken for."""

    def lines(self, flags: bool) -> list[str]:
        """For people: the changes, what to run BLIS with (all `flags`, or those that no file holds), the verdict."""
        told = [self._told(edit, saved) for edit, saved in zip(self.edits, self.backups, strict=True)]
        for export in self.exports:
            told.append(export.command_line() if flags else run_with(export.server_flags()))
        return told if self.verification is None else [*told, *_judged(self.verification)]

    def _told(self, edit: Edit, saved: Path | None) -> str:
        if not edit.changed:
            return f"{for_line(str(edit.path))}: nothing to change"
        kept = "written" if saved is None else f"written, was saved as {for_line(str(saved))}"
        diff = for_terminal(edit.diff().replace("\r\n", "\n"))
        return f"{diff}{for_line(str(edit.path))}: {'would be written' if self.dry_run else kept}"

    def to_dict(self) -> dict[str, Any]:
        """As `roofml export blis --json` prints it."""
        return {
            "exports": [
                {
                    "model": export.model.name,
                    "gpu": export.model.gpu,
                    "tensor_parallel": export.model.tensor_parallel,
                    "total_kv_blocks": export.total_kv_blocks,
                    "alpha_coeffs": list(export.coefficients.alphas),
                    "beta_coeffs": list(export.coefficients.betas),
                    "flags": [*export.server_flags(), *export.coefficient_flags()],
                    **({} if self.derived is None else {"derived": self.derived.to_dict()}),
                }
                for export in self.exports
            ],
            "files": [
                {
                    "path": str(edit.path),
                    "changed": edit.changed,
                    "written": edit.changed and not self.dry_run,
                    "backup": None if saved is None else str(saved),
                    "diff": edit.diff(),
                }
                for edit, saved in zip(self.edits, self.backups, strict=True)
            ],
            "verification": None if self.verification is None else asdict(self.verification),
        }


def _judged(verification: Verification) -> list[str]:
    def row(name: str, check: Check) -> str:
        grades = for_line(", ".join(f"{metric} {grade.quality}" for metric, grade in check.grades.items()))
        missing = f", {check.missing} requests not finished" if check.missing else ""
        return (
            f"{name}: E2E {check.e2e_pct:+.1f} %, TTFT {check.ttft_pct:+.1f} %, TPOT {check.tpot_pct:+.1f} % "
            f"(calibrate: {grades}{missing})"
        )

    before = verification.before
    lines = [
        *([f"before is BLIS with {for_line(verification.before_what)}"] if verification.before_what else []),
        f"before: {for_line(verification.before_problem)}" if before is None else row("before", before),
        row("after ", verification.after),
        *([verification.cost.line()] if verification.cost is not None else []),
    ]
    drift = verification.drift_pct
    if drift is not None and abs(drift) > OTHER_VERSION_PCT:
        lines.append(f"warning: this blis is {drift:+.1f} % from our replay of it: is it another version?")
    return lines
