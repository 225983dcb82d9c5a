"""Times of bare forwards, and their derivatives by parameters and offsets, through the one formula of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from roofml.calibration.forwards.offsets import ABSENT, OFFSET_NAMES, OFFSETS
from roofml.calibration.objective import step_columns, times_and_gradients
from roofml.hardware.expert_routing import experts_hit
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables, StepComponents
from roofml.latency.formula import growth
from roofml.latency.parameters import LOGARITHMIC, NAMES, STEP_COUNT, StepParameters
from roofml.util.arrays import Floats, Ints

STEP_NAMES = StepParameters._fields
PLACE = {name: place for place, name in enumerate(STEP_NAMES)}
EXPERTS = StepComponents._fields.index("expert_weights")
FACTORS = {
    "unfused_prefill": "prefill_gemm",
    "unfused_communication": "communication",
}
"""Offset -> the correction that it multiplies by its exponential."""
ADDENDS = {"fixed_us": "per_step_us", "unfused_us": "per_layer_us"}
"""Offset -> the overhead that it adds to."""


@dataclass(frozen=True, eq=False)
class Timed:
    """Steps whose times are asked for: of a server, or bare forwards."""

    columns: tuple[Floats, ...]
    """As `objective.step_columns` makes them."""
    tables: ComponentTables
    count: int
    bare: bool
    """Whether they are bare forwards: then offsets apply, and what such a forward lacks is left out."""
    uneven: Floats
    """(padded steps,) how much routing that is not even matters, 0 to 1: 4·h·(1 - h) for a share h of experts hit."""

    @classmethod
    def of(cls, sums: StepSums, tables: ComponentTables, *, bare: bool) -> Self:
        """From the sums of steps, and tables for them."""
        columns = step_columns(sums, tables)
        uneven = np.zeros(len(columns[0]))
        if tables.experts:
            hit = experts_hit(tables.experts, tables.experts_per_token, columns[-3]) / tables.experts
            uneven = 4 * hit * (1 - hit) * (columns[-3] > 1)
        return cls(columns, tables, sums.length, bare, uneven)

    def at(self, places: Ints) -> Timed:
        """Some of the steps, padded as before."""
        size = len(self.columns[0])
        *columns, uneven = (np.pad(column[places], (0, size - len(places))) for column in (*self.columns, self.uneven))
        return replace(self, columns=tuple(columns), count=len(places), uneven=uneven)

    def times_and_slopes(self, values: Floats, offsets: Floats) -> tuple[Floats, Floats]:
        """(steps,) times, µs, and (steps, parameters + offsets) derivatives of their logarithms.

        By the coordinates of all parameters, those of requests too (0), and by the offsets.
        """
        step = np.array(values[:STEP_COUNT], np.float64)
        scale = np.ones(STEP_COUNT)
        pace = 1.0
        if self.bare:
            found = dict(zip(OFFSET_NAMES, offsets, strict=True))
            pace = float(np.exp(found["pace"]))
            for name in ABSENT:
                step[PLACE[name]], scale[PLACE[name]] = 0.0, 0.0
            for offset, name in FACTORS.items():
                scale[PLACE[name]] = float(np.exp(found[offset]))
                step[PLACE[name]] *= scale[PLACE[name]]
            for offset, name in ADDENDS.items():
                step[PLACE[name]] += found[offset]
        times, gradients = times_and_gradients(step, self.routed(offsets), self.tables)
        times, gradients = times[: self.count], gradients[:, : self.count]
        relative = gradients / times
        slopes = np.zeros((self.count, len(NAMES) + len(OFFSETS)))
        by_coordinate = np.where(LOGARITHMIC[:STEP_COUNT], values[:STEP_COUNT], 1.0)
        slopes[:, :STEP_COUNT] = (relative.T * scale) * by_coordinate
        if self.bare:
            for number, name in enumerate(OFFSET_NAMES, start=len(NAMES)):
                if name == "pace":
                    slopes[:, number] = 1.0
                elif name in ADDENDS:
                    slopes[:, number] = relative[PLACE[ADDENDS[name]]]
                elif name in FACTORS:
                    slopes[:, number] = relative[PLACE[FACTORS[name]]] * step[PLACE[FACTORS[name]]]
                else:
                    slower = growth(self.columns[-3][: self.count], StepParameters(*step))
                    read = relative[PLACE["expert_weights"]] * (step[PLACE["expert_weights"]] + slower)
                    slopes[:, number] = read * self.uneven[: self.count]
        return pace * times, slopes

    def routed(self, offsets: Floats) -> tuple[Floats, ...]:
        """The columns as the benchmark routes tokens to experts."""
        if not self.bare:
            return self.columns
        factor = np.exp(offsets[OFFSET_NAMES.index("even_routing")] * self.uneven)
        changed = list(self.columns)
        changed[EXPERTS] = changed[EXPERTS] * factor
        return tuple(changed)
