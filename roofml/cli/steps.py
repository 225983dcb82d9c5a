"""What commands have in common about tables of sampled steps."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roofml.calibration.step_level.fit import StepData
    from roofml.traces.run import Run


class Contexts(str, Enum):  # noqa: UP042 (typer shows the values of a str Enum)
    """Where the contexts of sampled steps come from."""

    auto = "auto"
    snapshot = "snapshot"
    replay = "replay"
    kv = "kv"
    mean = "mean"


def step_data(paths: Sequence[Path] | None, runs: Sequence[Run], contexts: Contexts = Contexts.auto) -> list[StepData]:
    """The tables at `paths`, each with the run of its name; nothing is imported where there is none."""
    if not paths:
        return []
    from roofml.calibration.step_level.fit import read_step_data

    return read_step_data(paths, runs, contexts.value)
