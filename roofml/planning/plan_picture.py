"""A picture of a plan: what a GPU makes against how fast each user gets it, and how far the SLOs let it go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from roofml.planning.picture import DARK, new_figure, save_figure
from roofml.planning.plan import Plan
from roofml.util.outside_text import for_line

MOST_NAMED = 12
"""Curves that the legend names."""


def plot_plan(plan: Plan, path: Path) -> None:
    """Draw it; the suffix of `path` gives the format. Raises InputError where it cannot be drawn or written."""
    figure = new_figure(path, 8, 5)
    axes = figure.subplots()
    held = [option for option in plan.options if option.capacity is not None]
    for place, option in enumerate(held):
        assert option.capacity is not None
        trials = [trial for trial in option.capacity.trials if trial.tpot_us > 0]
        speed = np.array([1e6 / trial.tpot_us for trial in trials])
        made = np.array([trial.output_tokens_per_s / option.candidate.tp for trial in trials])
        label = for_line(str(option.candidate)) if place < MOST_NAMED else None
        (line,) = axes.plot(speed, made, marker=".", linewidth=1, markersize=4, label=label)
        at_knee = option.capacity.at_knee
        axes.plot(
            1e6 / at_knee.tpot_us,
            at_knee.output_tokens_per_s / option.candidate.tp,
            marker="o",
            markersize=9,
            color=line.get_color(),
            markeredgecolor=DARK,
        )
    axes.set(
        xlabel="output tokens/s of a user (1 / mean TPOT)",
        ylabel="output tokens/s of a GPU",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.grid(visible=True, alpha=0.2)
    axes.legend(fontsize=8, title="circles: the most that the SLOs allow", title_fontsize=8)
    figure.suptitle(for_line(f"{plan.workload.name}: {', '.join(map(str, plan.targets))}")[:110], fontsize=10)
    save_figure(figure, path)
