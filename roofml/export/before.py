"""What BLIS read before an export: the defaults file without our coefficients, or the set that BLIS ships.

Once an export has been written, the file holds our coefficients, and BLIS with it is no "before".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from roofml.blis.deployment import BlisCoefficients
from roofml.export.defaults import SECTION, number
from roofml.export.edit import existing_text
from roofml.export.provenance import MARK
from roofml.util.reading import is_file

SHIPPED = BlisCoefficients(
    (15563.199579, 777.3455, 45.907545),
    (
        *(0.152128, 0.0, 1.36252915, 0.752037, 32.09546717, 4.41684444),
        *(126.024825, 481.8613888, 0.0, 1.94710771, 0.752037),
    ),
)
"""The coefficients of BLIS's own defaults.yaml at f90a1e3 (Aug 2026)."""


@dataclass(frozen=True)
class Before:
    """A defaults file as it was, and what it is."""

    text: str
    what: str


def before_export(defaults: Path | None) -> Before:
    """What BLIS read before any export into `defaults`: the file, its last copy without our coefficients, or BLIS's.

    A file of ours that was there before has a copy beside it (FILE.bak, FILE.bak2, ...), unless --no-backup was said.
    """
    if defaults is not None and is_file(defaults):
        for path in (defaults, *reversed(_copies(defaults))):
            text = existing_text(path) or ""
            if not _is_ours(text):
                return Before(text, str(path))
    rows = {"alpha_coeffs": SHIPPED.alphas, "beta_coeffs": SHIPPED.betas}
    lines = [f"  {key}: [{', '.join(map(number, values))}]\n" for key, values in rows.items()]
    return Before(f"{SECTION}:\n{''.join(lines)}", "the coefficients that BLIS ships")


def _is_ours(text: str) -> bool:
    return any(line.startswith(MARK) for line in text.splitlines())


def _copies(path: Path) -> list[Path]:
    """The copies that exports made of a file, in the order in which they were made."""
    names = re.compile(re.escape(path.name) + r"\.bak([0-9]*)")
    numbered = {
        int(match[1] or 1): entry
        for entry in path.parent.iterdir()
        if (match := names.fullmatch(entry.name)) is not None and entry.is_file()
    }
    return [numbered[number] for number in sorted(numbered)]
