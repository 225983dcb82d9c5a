"""The nearest calibration for a deployment: its own, or what is carried over from one beside it, and what that costs.

In this order: the deployment itself; its model on the same GPUs by another version or with another setting; its model
on another number of the same GPUs; other models on this GPU; its model on another GPU; nothing but the package's own.
What is carried over is `planning.what_if`'s, with the doubts that such transfers have been found to cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roofml.calibration.calibrate import calibration_of, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.prior import Prior
from roofml.calibration.untraced import untraced
from roofml.catalog.catalog import Catalog
from roofml.catalog.index import Row
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.doubts import Doubt
from roofml.latency.parameters import to_coordinates
from roofml.planning.what_if import carried
from roofml.traces.engine_version import parse_version

OTHER_SETTING_SD = 0.10
"""Relative, of step times: CUDA graphs off, steps that wait for the CPU, a KV cache of another type. No measurement of
ours has both sides of one."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """A calibration for a deployment, and how near it is."""

    calibration: Calibration
    row: Row | None
    """The deployment of the catalogue whose fit it is; None for what several say together."""
    distance: str
    """same, setting, version, tp, models, gpu or package."""
    sentence: str
    """What stands for what, and what it costs."""

    @property
    def exact(self) -> bool:
        """Whether it is the deployment's own fit."""
        return self.distance == "same"


def nearest(catalog: Catalog, deployment: Deployment) -> Nearest:
    """The nearest calibration of a catalogue for a deployment.

    Raises InputError for one whose coefficients are not those of its index, or were fitted over another config, sheet
    or kernel tables than are here.
    """
    model, gpu = deployment.model, deployment.gpu
    mine = (model.config_sha256, deployment.engine.name)
    own = [row for row in catalog.rows if (row.config_sha256, row.engine) == mine]
    here = [row for row in own if row.gpu == gpu.name]
    if here:
        row = min(here, key=lambda row: _distance(row, deployment))
        tp, setting, version = _distance(row, deployment)[:3]
        if not (tp or setting or version):
            read, path = catalog.coefficients(row)
            said = f"{row.name}: a fit of {row.requests:,} requests of this deployment"
            return Nearest(calibration_of(read, path, deployment), row, "same", said)
        if not (tp or version):
            return _with_another_setting(catalog, row, deployment)
        return _carried(catalog, row, deployment, "tp" if tp else "version")
    others = catalog.others(gpu.name)
    if others is not None:
        names = sorted({member.model for member in others.members})
        measured = [row.untraced_e2e_pct for row in catalog.rows if row.gpu == gpu.name]
        off = [error for error in measured if error is not None]
        cost = f"; deployments here were {float(np.mean(off)):.1f} % off in E2E by what the others say" if off else ""
        said = f"no fit of {model.name} on {gpu.name}: what {_several(names)} say together stands for it{cost}"
        prior = untraced(others.prior(deployment), deployment)
        return Nearest(uncalibrated(deployment, prior), None, "models", said)
    if own:
        row = min(own, key=lambda row: _distance(row, deployment))
        return _carried(catalog, row, deployment, "gpu")
    said = f"nothing of {model.name} or of {gpu.name} in {catalog.place.shown}: the package's own stands for it"
    return Nearest(uncalibrated(deployment), None, "package", said)


def _carried(catalog: Catalog, row: Row, deployment: Deployment, distance: str) -> Nearest:
    """A fit of another deployment of the model, carried to this one."""
    read, path = catalog.coefficients(row)
    kv_dtype = row.kv_dtype if read.engine.kv_dtype != read.engine.dtype else None
    theirs = deploy(
        deployment.hf_repo,
        row.gpu,
        row.tp,
        engine=row.engine,
        engine_version=row.engine_version,
        kv_dtype=kv_dtype,
    )
    moved = carried(calibration_of(read, path, theirs), deployment, catalog.others(deployment.gpu.name))
    found, said = moved.calibration, f"{row.name} stands for it: {'; '.join(moved.said)}"
    if _distance(row, deployment)[1]:
        doubt = _setting_doubt(row, deployment)
        found = replace(found, deployment=replace(found.deployment, doubts=(*found.deployment.doubts, doubt)))
        said = f"{said}; {doubt.sentence}"
    return Nearest(found, row, distance, said)


def _with_another_setting(catalog: Catalog, row: Row, deployment: Deployment) -> Nearest:
    """The fit of this deployment with another setting: its values, as sure as they are, and a doubt."""
    read, _ = catalog.coefficients(row)
    doubt = _setting_doubt(row, deployment)
    doubted = replace(deployment, doubts=(*deployment.doubts, doubt))
    prior = Prior(to_coordinates(read.values), read.covariance, f"{row.name} of a catalogue")
    return Nearest(uncalibrated(doubted, prior), row, "setting", f"{row.name} stands for it: {doubt.sentence}")


def _setting_doubt(row: Row, deployment: Deployment) -> Doubt:
    kv = f"KV {row.kv_dtype}" if row.kv_dtype != deployment.engine.kv_dtype else ""
    theirs = ", ".join(part for part in (kv, row.settings) if part)
    return Doubt(
        "other setting",
        f"it is of another setting ({theirs}): steps are unsure by {100 * OTHER_SETTING_SD:.0f} % more",
        OTHER_SETTING_SD,
    )


def _distance(row: Row, deployment: Deployment) -> tuple[float, bool, bool, tuple[int, ...], int, str]:
    """How far a fit of the model is: doublings of GPUs, settings, version; the newest and largest before others.

    What nobody says of a version does not differ.
    """
    engine = deployment.engine
    other_version = (
        engine.version is not None
        and row.engine_version is not None
        and parse_version(engine.version.split(",")[0].strip(), "engine version")[:2]
        != parse_version(row.engine_version, row.name)[:2]
    )
    setting = bool(row.settings) or row.kv_dtype != engine.kv_dtype
    newest = tuple(-part for part in parse_version(row.engine_version, row.name)) if row.engine_version else (1,)
    return abs(math.log2(row.tp / deployment.tp)), setting, other_version, newest, -row.requests, row.name


def _several(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other models"
