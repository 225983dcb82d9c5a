"""One step's time, component by component: what physics says, what the parameters make of it, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roofml.calibration.prediction import Prediction
from roofml.latency.batch import Batch, StepSums
from roofml.latency.components import components
from roofml.latency.deployment import Deployment
from roofml.latency.doubts import Doubt, by_size
from roofml.latency.formula import corrected, overheads, step_times
from roofml.latency.launches import drawn_launches_us, said_of_launches
from roofml.latency.parameters import Parameters, StepParameters
from roofml.traces.engine_version import wider_for
from roofml.util.arrays import Floats
from roofml.util.display import Shown, Table, us


@dataclass(frozen=True)
class ComponentTime:
    """The time of one physical resource, µs."""

    physics_us: float
    """By datasheet and measured kernels."""
    corrected_us: float
    """Times the parameters' correction."""


@dataclass(frozen=True, eq=False, repr=False)
class StepBreakdown(Shown):
    """The time of one step. Compute and memory of a kernel overlap, so the parts sum to more than the step."""

    deployment: Deployment
    source: str
    """Where the parameters come from; empty where no trace of the model was used."""
    total: Prediction
    """µs"""
    components: Mapping[str, ComponentTime]
    overheads_us: Mapping[str, float]
    outside: tuple[str, ...] = ()
    """Ways in which the step leaves what the fit has seen."""
    doubts: tuple[Doubt, ...] = ()
    """Why it is less sure than a step of a measured deployment; nothing where it was fitted."""

    @property
    def total_us(self) -> float:
        """The step's time, µs."""
        return self.total.value

    @property
    def interval_us(self) -> tuple[float, float] | None:
        """Where it lies with 90 % probability, µs."""
        return self.total.interval_90

    def tables(self) -> list[Table]:
        """Component by component."""
        rows = [[name, us(part.physics_us), us(part.corrected_us)] for name, part in self.components.items()]
        rows += [[f"overhead: {name}", "", us(value)] for name, value in self.overheads_us.items()]
        rows.append(["step", "", us(self.total_us)])
        if self.interval_us is not None:
            rows.append(["90 % interval", *map(us, self.interval_us)])
        how = f"with {self.source}" if self.source else "not calibrated to any trace of this model"
        caption = f"{how}. Compute and memory of a kernel overlap, so parts sum to more than the step."
        if self.interval_us is not None:
            caption += f" {why_unsure(self.total, self.doubts)}"
        return [Table(self.deployment.title, ["component", "physics", "corrected"], rows, caption)]

    def to_dict(self) -> dict[str, Any]:
        """What `roofml predict --json` prints."""
        return {
            "model": self.deployment.model.name,
            "gpu": self.deployment.gpu.name,
            "tp": self.deployment.tp,
            "calibrated": bool(self.source),
            "step_time_us": self.total_us,
            "interval_90_us": None if self.interval_us is None else list(self.interval_us),
            "interval_made_of_pct": {name: 100 * variance**0.5 for name, variance in self.total.variances.items()},
            "components_us": {
                name: {"physics": part.physics_us, "corrected": part.corrected_us}
                for name, part in self.components.items()
            },
            "overheads_us": dict(self.overheads_us),
            **({"reasons": [doubt.to_dict() for doubt in by_size(self.doubts)]} if self.doubts else {}),
        }


def why_unsure(total: Prediction, doubts: Sequence[Doubt]) -> str:
    """One line on what the interval is made of, the largest part first, and why there are doubts."""
    parts = sorted(total.variances.items(), key=lambda item: -item[1])
    sizes = ", ".join(f"{name} {100 * variance**0.5:.2g} %" for name, variance in parts)
    made_of = f"The interval is made of: {sizes}."
    return f"{made_of} {'; '.join(doubt.sentence for doubt in by_size(doubts))}." if doubts else made_of


def time_us(deployment: Deployment, batch: Batch, parameters: Parameters) -> float:
    """The time of a step that computes `batch`, µs, as `break_down` has it, without the draws of an interval."""
    deployment, sums = _summed(deployment, batch)
    return float(step_times(deployment.tables, sums, parameters.step)[0])


def _summed(deployment: Deployment, batch: Batch) -> tuple[Deployment, StepSums]:
    """The deployment with tables that reach as far as a step does, and the step's sums."""
    verified = int(deployment.tables.verified)
    deployment = deployment.reaching(batch.new_tokens + (verified - 1) * sum(count for _, count in batch.decode))
    return deployment, batch.sums(deployment.tables.reaches, verified)


def break_down(
    deployment: Deployment,
    batch: Batch,
    parameters: Parameters,
    draws: Floats,
    source: str,
    outside: tuple[str, ...],
    doubts: tuple[Doubt, ...] = (),
    *,
    sources: Mapping[str, float] | None = None,
    stretch: float = 1.0,
) -> StepBreakdown:
    """The step that computes `batch`. `draws` (draws, parameters) of the parameters give it an interval.

    The `sources`, variances of its logarithm by what they come from, and doubts widen it, and it is stretched by what
    `stretch` says.
    """
    deployment, sums = _summed(deployment, batch)
    tables, step = deployment.tables, parameters.step
    launches: Any = drawn_launches_us(tables, len(draws))[:, None]
    drawn = step_times(tables._replace(launches_us=launches), sums, StepParameters.of_draws(draws))[:, 0]
    total_us = step_times(tables, sums, step)
    ideal = components(tables, sums)
    real = corrected(ideal, sums.new_tokens, step)
    launched = said_of_launches(total_us, sums.new_tokens, tables)
    if launched:
        stretch = max(stretch, 1.0)  # it was learned of steps that take longer than their launches
    total = Prediction.of_draws(float(total_us[0]), drawn)
    for name, variance in (sources or {}).items():
        total = total.wider(name, variance)
    return StepBreakdown(
        deployment=deployment,
        source=source,
        total=total.stretched(stretch * wider_for(deployment.engine.name)).doubted(doubts),
        components={
            name: ComponentTime(float(physics[0]), float(fitted[0]))
            for name, physics, fitted in zip(ideal._fields, ideal, real, strict=True)
        },
        overheads_us={
            name: float(value[0])
            for name, value in overheads(sums.requests, sums.mixed, tables.layers, step)._asdict().items()
        },
        outside=(*outside, *launched),
        doubts=doubts,
    )
