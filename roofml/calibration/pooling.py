"""Pooling: fits of several models, and what they say together of any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roofml.calibration.calibrate import calibrated
from roofml.calibration.fit import fit_parameters
from roofml.calibration.other_models import SavedPosterior, saved, write_other_models
from roofml.calibration.prior import Prior, pool
from roofml.hardware.gpu import Gpu
from roofml.latency.deployment import Deployment, deployment_of
from roofml.latency.parameters import NAMES, PARAMETERS, from_coordinates
from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups, trainable
from roofml.util.display import Shown, Table, digits
from roofml.util.errors import InputError, JobFailedError


@dataclass(frozen=True, eq=False, repr=False)
class PooledModels(Shown):
    """Fits of models on one GPU, each with the package's own prior."""

    gpu: Gpu
    members: Sequence[SavedPosterior]

    @property
    def centre(self) -> Prior:
        """What they say of a model that is not among them."""
        return pool([member.evidence(NAMES) for member in self.members])

    def save(self, path: Path) -> None:
        """Write them as `coeffs/global.yaml` has them."""
        write_other_models(path, self.gpu, self.members)

    def tables(self) -> list[Table]:
        """Parameter by parameter: every model's value, and the pooled one."""
        centre = self.centre
        values = from_coordinates(centre.mean)
        rows = [
            [p.name, *(digits(m.values[i], 4) for m in self.members), digits(values[i], 4), digits(centre.sd[i])]
            for i, p in enumerate(PARAMETERS)
        ]
        columns = ["parameter", *(member.model for member in self.members), "pooled", "sd"]
        return [Table("fits, and what they say of another model", columns, rows)]

    def to_dict(self) -> dict[str, Any]:
        """As `roofml pool --json` prints it."""
        centre = self.centre
        values = from_coordinates(centre.mean)
        return {
            "models": [member.model for member in self.members],
            "parameters": {
                p.name: {"value": float(value), "sd": float(sd)}
                for p, value, sd in zip(PARAMETERS, values, centre.sd, strict=True)
            },
        }


def deployments_to_pool(runs: Sequence[Run]) -> list[tuple[Deployment, list[Run]]]:
    """Every deployment with its runs to learn from. Raises InputError for runs of several GPUs."""
    pairs = [(deployment_of(group), trainable(group)) for group in groups(runs)]
    if len({deployment.gpu.sheet_sha256 for deployment, _ in pairs}) != 1:
        raise InputError("the runs are of several GPUs: expected one, to which the pooled fits belong")
    return pairs


def fit_models(
    deployments: Sequence[tuple[Deployment, Sequence[Run]]], on_model: Callable[[int, str], None]
) -> PooledModels:
    """Fit each deployment by itself. `on_model(done, name)` is called before each.

    Raises JobFailedError for a fit that does not describe its runs: what others believe would be made of it.
    """
    members: list[SavedPosterior] = []
    for done, (deployment, runs) in enumerate(deployments):
        on_model(done, deployment.model.name)
        fitted = fit_parameters([Selection.between(run) for run in runs], deployment.tables, for_others=True)
        misfit = calibrated(deployment, fitted, runs).misfit
        if misfit:
            raise JobFailedError(f"{deployment.title}: its fit does not describe its runs: {'; '.join(misfit)}")
        members.append(saved(fitted, deployment, [run.name for run in runs]))
    return PooledModels(deployments[0][0].gpu, members)
