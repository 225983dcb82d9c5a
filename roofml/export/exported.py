"""What an export for another simulator made: its files, how to use them, and what the simulator's form loses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roofml.util.arrays import Floats
from roofml.util.display import Shown, Table
from roofml.util.errors import InputError, because
from roofml.util.writing import check_writable, write_files


@dataclass(frozen=True)
class Loss:
    """How far the simulator's form is from our own times, %, where both say something."""

    what: str
    mean_pct: float
    """Signed: what is left of it on average."""
    median_pct: float
    worst_pct: float
    points: int

    @classmethod
    def of(cls, what: str, theirs: Floats, ours: Floats) -> Loss:
        """Of two arrays of times of one shape."""
        error = 100 * (np.asarray(theirs, np.float64) / np.asarray(ours, np.float64) - 1)
        absolute = np.abs(error)
        return cls(what, float(error.mean()), float(np.median(absolute)), float(absolute.max()), len(error))

    @property
    def sentence(self) -> str:
        """For comments and people."""
        return (
            f"{self.what}: {self.median_pct:.1f} % off at the median of {self.points} points, at most "
            f"{self.worst_pct:.1f} %, {self.mean_pct:+.1f} % on average"
        )


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """Files for another simulator, not written yet."""

    target: str
    """The simulator, and the version of it whose source was read."""
    files: Mapping[Path, str | bytes]
    losses: Sequence[Loss]
    provenance: Sequence[str]
    remarks: Sequence[str] = ()
    """What its form has no place for."""
    use: str = ""
    """The command line that uses the files, quoted for a shell."""
    against: str = "our times"
    """What its form is compared with."""

    def write(self) -> None:
        """Write the files, all or none. Raises InputError where one cannot be, or its folder's folder is not there."""
        folders = {path.parent for path in self.files}
        root = Path(os.path.commonpath(folders))
        below = {each for folder in folders for each in (folder, *folder.parents) if root in (each, *each.parents)}
        for folder in sorted(below, key=lambda path: len(path.parts)):
            make_folder(folder)
        write_files(self.files)

    def tables(self) -> list[Table]:
        """What the form loses."""
        rows = [
            [loss.what, str(loss.points), f"{loss.median_pct:.1f}", f"{loss.worst_pct:.1f}", f"{loss.mean_pct:+.1f}"]
            for loss in self.losses
        ]
        title = f"{self.target}: how far its form is from {self.against}"
        return [Table(title, ["of", "points", "median |%|", "worst |%|", "mean %"], rows)] if rows else []

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of an export."""
        return {
            "target": self.target,
            "files": [str(path) for path in self.files],
            "losses": [asdict(loss) for loss in self.losses],
            "provenance": list(self.provenance),
            "remarks": list(self.remarks),
            "use": self.use or None,
            "against": self.against,
        }


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there. Raises InputError where it cannot be."""
    if folder.is_dir():
        return
    try:
        check_writable(folder)
    except InputError:
        if folder.is_dir():  # another command has made it since
            return
        raise
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {because(error)}") from None
