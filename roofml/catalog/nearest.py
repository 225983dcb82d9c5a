"""The nearest calibration for a deployment: its own, or what is carried over from one beside it, and what that costs.

In this order: the deployment itself; its model on the same GPUs by another version or another setting; its model on
another number of the same GPUs; other models on this GPU; its model on another GPU; nothing but the package's own.
What differs is a doubt with a standard deviation of its own, and predictions get an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roofml.calibration.calibrate import calibration_of, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.other_models import OTHER_GPU
from roofml.calibration.prior import Prior
from roofml.calibration.untraced import untraced
from roofml.catalog.catalog import Catalog
from roofml.catalog.index import Row
from roofml.latency.deployment import Deployment
from roofml.latency.doubts import Doubt
from roofml.latency.parameters import to_coordinates
from roofml.traces.engine_version import parse_version

OTHER_VERSION_SD = 0.03
"""Relative, of step times, beyond what kernel tables say of versions: most kernels of the same shapes differ by so much
between measurements of vLLM 0.14 to 0.31 (docs of `roofml bench drift`)."""
OTHER_TP_SD = 0.03
"""A model's own factors on another number of GPUs are taken to be as sure as other models' factors are for it, and no
surer: E2E without a trace of the model is off by 2.0 % on average and 6.9 % at worst in ten public runs (`lomo`)."""
OTHER_SETTING_SD = 0.10
"""CUDA graphs off, another engine, steps that wait for the CPU: no measurement of ours has both sides of one."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """A calibration for a deployment, and how near it is."""

    calibration: Calibration
    row: Row | None
    """The deployment of the catalogue that it is the fit of; None for what several say together."""
    distance: str
    """same, version, setting, tp, models, gpu or package."""
    sentence: str
    """What stands for what, and what it costs."""

    @property
    def exact(self) -> bool:
        """Whether it is the deployment's own fit."""
        return self.distance == "same"


def nearest(catalog: Catalog, deployment: Deployment) -> Nearest:
    """The nearest calibration of a catalogue for a deployment.

    Raises InputError for one whose coefficients cannot be used with this deployment's config, sheet or kernel tables.
    """
    model, gpu = deployment.model, deployment.gpu
    own = [row for row in catalog.rows if row.config_sha256 == model.config_sha256]
    here = [row for row in own if row.gpu == gpu.name]
    beside = [row for row in here if row.tp == deployment.tp]
    if beside:
        row = min(beside, key=lambda row: (*_differing(row, deployment), _age(row), -row.requests, row.name))
        engine, setting, version = _differing(row, deployment)
        if not (engine or setting or version):
            read, path = catalog.coefficients(row)
            found = calibration_of(read, path, deployment)
            return Nearest(found, row, "same", f"{row.name}: a fit of {row.requests:,} requests of this deployment")
        if not (engine or setting):
            theirs = f"{row.engine} {row.engine_version}"
            return _carried(catalog, row, deployment, "version", OTHER_VERSION_SD, f"of another version, {theirs}")
        kv = f"KV {row.kv_dtype}" if row.kv_dtype != deployment.engine.kv_dtype else ""
        named = row.engine if row.engine != deployment.engine.name else ""
        theirs = ", ".join(part for part in (named, kv, row.settings) if part)
        return _carried(catalog, row, deployment, "setting", OTHER_SETTING_SD, f"of another setting: {theirs}")
    if here:
        row = min(here, key=lambda row: (abs(np.log2(row.tp / deployment.tp)), *_differing(row, deployment), row.name))
        return _carried(catalog, row, deployment, "tp", OTHER_TP_SD, f"on {row.tp} GPUs instead of {deployment.tp}")
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
        row = min(own, key=lambda row: (abs(np.log2(row.tp / deployment.tp)), *_differing(row, deployment), row.name))
        why = f"on {row.gpu}: what is open of {gpu.name} is {OTHER_GPU:g} times as unsure"
        return _carried(catalog, row, deployment, "gpu", OTHER_SETTING_SD, why, OTHER_GPU)
    said = f"nothing of {model.name} or of {gpu.name} in {catalog.place.shown}: the package's own stands for it"
    return Nearest(uncalibrated(deployment), None, "package", said)


def _carried(
    catalog: Catalog, row: Row, deployment: Deployment, distance: str, sd: float, why: str, wider: float = 1.0
) -> Nearest:
    """What a fit of another deployment of the model says of this one: its values, as sure as they are, and a doubt."""
    read, _ = catalog.coefficients(row)
    sentence = f"{row.name} stands for it, a fit {why}: steps are ±{100 * sd:.0f} % (sd) less sure"
    doubted = replace(deployment, doubts=(*deployment.doubts, Doubt(f"other {distance}", sentence, sd)))
    prior = Prior(to_coordinates(read.values), read.covariance * wider**2, f"{row.name} of a catalogue")
    return Nearest(uncalibrated(doubted, prior), row, distance, sentence)


def _differing(row: Row, deployment: Deployment) -> tuple[bool, bool, bool]:
    """Whether engine, settings or KV type, and version are others; what nobody says of a version does not differ."""
    engine = deployment.engine
    other_version = (
        engine.version is not None
        and row.engine_version is not None
        and parse_version(engine.version.split(",")[0].strip(), "engine version")[:2]
        != parse_version(row.engine_version, row.name)[:2]
    )
    return row.engine != engine.name, bool(row.settings) or row.kv_dtype != engine.kv_dtype, other_version


def _age(row: Row) -> tuple[int, ...]:
    """The newest version first."""
    return tuple(-part for part in parse_version(row.engine_version, row.name)) if row.engine_version else (1,)


def _several(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other models"
