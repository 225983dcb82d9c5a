"""A picture of a simulated load: latencies and how many requests have them, and queue, batch and KV over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from roofml.planning.picture import AMBER, BLUE, DARK, GREEN, RED, new_figure, save_figure
from roofml.planning.simulation import Simulation
from roofml.util.outside_text import for_line

COLORS = {"ttft": BLUE, "tpot": GREEN, "e2e": DARK}


def plot_simulation(simulated: Simulation, path: Path) -> None:
    """Draw it; the suffix of `path` gives the format. Raises InputError where it cannot be drawn or written."""
    figure = new_figure(path, 9, 3.8)
    shares, over_time = figure.subplots(1, 2)
    for latency, color in COLORS.items():
        values = np.sort(simulated.served.latency_us(latency))
        if len(values):
            shares.plot(values / 1e3, 100 * np.arange(1, len(values) + 1) / len(values), color=color, label=latency)
    for slo in simulated.slos:
        color = COLORS.get(slo.latency, RED)
        shares.axvline(slo.limit_us / 1e3, color=color, linewidth=1, linestyle="--", label=str(slo))
    shares.set(xscale="log", xlabel="ms", ylabel="% of requests below", ylim=(0, 101))
    shares.grid(visible=True, alpha=0.2)
    shares.legend(fontsize=8)
    timeline = simulated.timeline
    over_time.plot(timeline.end_s, timeline.running, color=BLUE, label="running")
    over_time.plot(timeline.end_s, timeline.waiting, color=RED, label="waiting")
    over_time.set(xlabel="time, s", ylabel="requests", ylim=(0, None))
    over_time.grid(visible=True, alpha=0.2)
    beside = over_time.twinx()
    beside.plot(timeline.end_s, 100 * timeline.kv_use, color=AMBER, linewidth=1, label="KV")
    beside.set(ylabel="KV blocks in use, %", ylim=(0, 105))
    lines = [*over_time.get_lines(), *beside.get_lines()]
    over_time.legend(lines, [line.get_label() for line in lines], fontsize=8)
    figure.suptitle(for_line(simulated.workload.name)[:110], fontsize=10)
    save_figure(figure, path)
