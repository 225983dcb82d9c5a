"""AggregateRun: a run of which means and percentiles are known, and no request's times. RefusedRun: one of no use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.overview import Overview
from roofml.traces.recording import LoadSaid
from roofml.traces.run import missing_of, served_by, server_said
from roofml.traces.server import Server
from roofml.util.arrays import Ints
from roofml.util.digest import digest

MEANS = ("ttft_mean", "tpot_mean", "e2e_mean")
BINDING = 0.9
"""Share of the places under a limit of the client's that must be taken for the limit to be what makes the load."""


@dataclass(frozen=True, eq=False)
class AggregateRun:
    """A run of which means and percentiles are known: it can be judged, and says little to a fit."""

    name: str
    server: Server
    overview: Overview
    load: LoadSaid
    """What the client says of the load it made."""
    prompt_tokens: Ints
    """(requests that completed,) Their own, or of the mean that the file has."""
    output_tokens: Ints
    """The same of their outputs; both are empty where the file has no lengths."""
    measured: Mapping[str, float]
    """As in `Recording.aggregates`."""
    prompt: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(requests that completed,) Number of the prompt: equal numbers were equal prompts. Empty: all were different."""
    findings: tuple[Finding, ...] = ()
    saturated: bool = False
    """The server was slower than the load that it was asked to take."""
    source: str = ""

    @property
    def identity(self) -> str:
        """A digest of what was measured."""
        figures = [f"{name}={value!r}" for name, value in sorted(self.measured.items())]
        return digest(*figures, self.prompt_tokens, self.output_tokens)

    @property
    def headline(self) -> str:
        """What ran, and how many requests, in a line."""
        told = self.overview
        counted = f"{told.requests} requests, {told.completed} completed, means alone"
        return f"{served_by(self.server)}; {counted}"

    @property
    def reservations(self) -> list[str]:
        """What stands in the way of using it: what nobody says, and why no fit may see it."""
        unfit = self.overview.unfit
        return [*(missing_of(self.server)), *([f"cannot be fitted on: {unfit}"] if unfit else [])]

    def on(self, gpu: str) -> Self:
        """The run on `gpu`, unless its files or the user named a GPU."""
        return self if self.server.gpu is not None else replace(self, server=replace(self.server, gpu=gpu))

    def to_dict(self) -> dict[str, Any]:
        """The run as `roofml doctor --json` prints it. Times in µs."""
        return {
            "run": self.name,
            "format": self.overview.format,
            **server_said(self.server),
            "requests": self.overview.requests,
            "completed": self.overview.completed,
            "measured": 0,
            **{f"mean_{name.removesuffix('_mean')}_us": self.measured.get(name) for name in MEANS},
            "aggregates": dict(self.measured),
            "saturated": self.saturated,
            "unfit": self.overview.unfit,
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True, eq=False)
class RefusedRun:
    """A run that cannot be used, and why."""

    name: str
    overview: Overview
    reason: str
    findings: tuple[Finding, ...] = ()
    source: str = ""
    server: Server | None = None
    """None: nobody asked for it."""

    @property
    def headline(self) -> str:
        """How many requests, in a line."""
        told = self.overview
        return f"{told.format}; {told.requests} requests, {told.completed} completed"

    @property
    def reservations(self) -> list[str]:
        """Why it cannot be used."""
        return [f"refused: {self.reason}"]

    def to_dict(self) -> dict[str, Any]:
        """The run as `roofml doctor --json` prints it. Times in µs."""
        served: dict[str, Any] = {"model": None, "gpu": None, "tp": None, "server": None, "said_by": {}, "missing": []}
        return {
            "run": self.name,
            "format": self.overview.format,
            **(served if self.server is None else server_said(self.server)),
            "requests": self.overview.requests,
            "completed": self.overview.completed,
            "measured": 0,
            **{f"mean_{name.removesuffix('_mean')}_us": self.overview.means.get(name) for name in MEANS},
            "refused": self.reason,
            "findings": [asdict(finding) for finding in self.findings],
        }


def limited(load: LoadSaid, measured: Mapping[str, float]) -> bool:
    """Whether the client's own limit made the load: by Little's law, as many were under way as it allowed."""
    limit = load.max_concurrency
    if limit is None:
        return False
    if load.requests_per_s is None or math.isinf(load.requests_per_s):
        return True
    served, took = measured.get("requests_per_s"), measured.get("e2e_mean")
    return served is not None and took is not None and served * took / 1e6 >= BINDING * limit
