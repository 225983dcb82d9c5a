"""A picture of a step: the time of each of its parts, by physics and as corrected, and the whole with its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from roofml.calibration.step_breakdown import StepBreakdown
from roofml.planning.picture import AMBER, BLUE, DARK, new_figure, save_figure
from roofml.util.outside_text import for_line

LEAST = 1e-3
"""Share of the step below which a part is not drawn."""


def plot_step(step: StepBreakdown, path: Path) -> None:
    """Draw it; the suffix of `path` gives the format. Raises InputError where it cannot be drawn or written."""
    parts = [
        (name.replace("_", " "), part.physics_us, part.corrected_us)
        for name, part in step.components.items()
        if max(part.physics_us, part.corrected_us) >= LEAST * step.total_us
    ]
    overheads = [(name, value) for name, value in step.overheads_us.items() if value >= LEAST * step.total_us]
    names = ["step", *(name for name, _, _ in parts), *(f"overhead: {name}" for name, _ in overheads)]
    figure = new_figure(path, 8, 1.4 + 0.3 * len(names))
    axes = figure.subplots()
    places = np.arange(1, 1 + len(parts))
    axes.barh(places - 0.2, [1e-3 * us for _, us, _ in parts], 0.36, color=AMBER, label="by physics")
    axes.barh(places + 0.2, [1e-3 * us for _, _, us in parts], 0.36, color=BLUE, label="corrected")
    if overheads:
        rows = np.arange(1 + len(parts), len(names))
        axes.barh(rows, [1e-3 * us for _, us in overheads], 0.36, color="grey", label="overhead")
    whole = 1e-3 * step.total_us
    axes.barh([0], [whole], 0.5, color=DARK, label="step")
    if step.interval_us is not None:
        low, high = (1e-3 * end for end in step.interval_us)
        bars = [[max(0.0, whole - low)], [max(0.0, high - whole)]]
        axes.errorbar([whole], [0], xerr=bars, fmt="none", ecolor="#d35400", capsize=4, label="90 % interval")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="ms; compute and memory of a kernel overlap, so parts sum to more than the step")
    axes.grid(visible=True, axis="x", alpha=0.2)
    axes.legend(fontsize=8, loc="lower right")
    figure.suptitle(for_line(f"one step of {step.deployment.title}")[:110], fontsize=10)
    save_figure(figure, path)
