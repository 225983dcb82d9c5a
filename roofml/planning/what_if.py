"""What if: a calibration carried to another deployment, with what belongs to the model and to the host, and its doubts.

A fit says three kinds of things. What the host does (the front end's queue, the CPU's work of a step) is true on every
deployment of it. How far kernels are from their measurement in this model (corrections, growth, the blend) is true as
long as the kernels are the same ones: on another GPU they are not, all-reduces are others at another tensor parallel
size, products of weights in another format. What is not carried is believed of the new deployment as if no trace of the
model were known: its own kernel tables, and what fits of other models say.

The carried values are taken for a measurement on the new deployment, as uncertain as the fit left them and as such
values have been found to differ (`CARRIED_SHARE`). How far off steps have been all the same is a doubt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.other_models import OtherModels, read_other_models
from roofml.calibration.prior import Prior
from roofml.calibration.untraced import untraced
from roofml.latency.deployment import Deployment
from roofml.latency.doubts import Doubt
from roofml.latency.experience import FORMAT_SD, RELEASE_SD
from roofml.latency.parameters import BETWEEN_SD, NAMES, PARAMETERS, to_coordinates
from roofml.util.errors import InputError

HOST = (
    *(parameter.name for parameter in PARAMETERS if parameter.group == "request"),
    "per_step_us",
    "mixed_step_us",
    "per_request_us",
    "cpu_floor_us",
)
"""What the front end and the CPU do."""
PRODUCTS = ("prefill_gemm", "decode_gemm", "weights", "expert_weights", *(n for n in NAMES if n.startswith("growth_")))
"""Of weights: others in another format."""
ALL_REDUCES = ("communication",)

CARRIED_SHARE = {"model": 1.0, "GPU": 1.0, "precision": 0.5, "tensor parallel size": 0.5, "version": 0.3}
"""What differs -> by how much carried values may differ, over what models differ by (`BETWEEN_SD`)."""
STEP_SD = {
    "model": 0.03,
    "GPU": 0.14,
    "precision": FORMAT_SD,
    "tensor parallel size": 0.03,
    "version": RELEASE_SD,
}
"""What differs -> relative standard deviation of step times beside that, from what such transfers have been off by
(`benchmarks/what_if.py`, docs/plan.md). Of runs carried between models, TPOT was off by 0.8 % at the same tensor
parallel size and 2.7 % at another (root mean square, 2 and 10 pairs). Of measured points of one model on two GPUs the
errors differ by 9.4 % in the median of 16 pairs, which is that of a standard deviation of 14 %."""


@dataclass(frozen=True, eq=False)
class Carried:
    """A calibration on another deployment, and what was done to it."""

    calibration: Calibration
    changed: tuple[str, ...]
    """What differs: model, GPU, precision, tensor parallel size, version; nothing where it is the same deployment."""
    kept: tuple[str, ...]
    """Parameters that were carried over."""

    @property
    def said(self) -> list[str]:
        """In a sentence, for people; nothing where nothing was carried."""
        if not self.changed:
            return []
        host = "what the host does"
        kernels = [name for name in self.kept if name not in HOST]
        what = f"{host}, and corrections of {len(kernels)} kernels" if kernels else host
        deployment = self.calibration.deployment
        wider = 100 * sum(STEP_SD[name] ** 2 for name in self.changed) ** 0.5
        return [
            f"{deployment.title}: carried from a calibration of another {', '.join(self.changed)}: {what}; the rest by "
            f"its own kernel tables and other models; steps are unsure by {wider:.0f} % more"
        ]


def changes_between(ours: Deployment, other: Deployment) -> tuple[str, ...]:
    """What differs between two deployments, by what they are and not by their names."""
    found: list[str] = []
    if ours.model.name.lower() != other.model.name.lower() and ours.model.config_sha256 != other.model.config_sha256:
        found.append("model")
    elif _formats(ours) != _formats(other):
        found.append("precision")
    if ours.gpu.sheet_sha256 != other.gpu.sheet_sha256 or ours.gpu.name != other.gpu.name:
        found.append("GPU")
    if ours.tp != other.tp:
        found.append("tensor parallel size")
    if ours.engine.release[:2] != other.engine.release[:2]:
        found.append("version")
    return tuple(found)


def _formats(deployment: Deployment) -> frozenset[str]:
    return frozenset(gemm.kernel for gemm in deployment.model.gemms(1))


def kept_through(changed: Sequence[str]) -> tuple[str, ...]:
    """The parameters that are still true where so much differs."""
    if "model" in changed or "GPU" in changed:
        return HOST
    dropped = (
        *(PRODUCTS if "precision" in changed else ()),
        *(ALL_REDUCES if "tensor parallel size" in changed else ()),
    )
    return tuple(name for name in NAMES if name not in dropped)


def carried(calibration: Calibration, deployment: Deployment, others: OtherModels | None = None) -> Carried:
    """A calibration on another deployment. The same one where nothing differs that it was fitted over.

    `others` are the fits of other models, where they were read before. Raises InputError for another engine, of whose
    host no calibration of vLLM tells.
    """
    ours = calibration.deployment
    if ours.engine.name != deployment.engine.name:
        raise InputError(
            f"{calibration.source} is of {ours.engine.name}: it says nothing of {deployment.engine.name}, expected the "
            "same engine"
        )
    changed = changes_between(ours, deployment)
    if not changed:
        return Carried(calibration, (), NAMES)
    others = read_other_models() if others is None else others
    prior = untraced(others.prior(deployment), deployment)
    kept = kept_through(changed)
    found = learned(prior, calibration, kept, max(CARRIED_SHARE[name] for name in changed), deployment)
    sd = sum(STEP_SD[name] ** 2 for name in changed) ** 0.5
    doubt = Doubt("what if", f"{calibration.source} is of another {', '.join(changed)}", sd)
    doubted = replace(deployment, doubts=(*deployment.doubts, doubt))
    return Carried(uncalibrated(doubted, found), changed, kept)


def learned(prior: Prior, calibration: Calibration, kept: Sequence[str], share: float, deployment: Deployment) -> Prior:
    """The prior of a deployment after the values that another's calibration has for the parameters `kept`."""
    places = [NAMES.index(name) for name in kept]
    values = to_coordinates(calibration.values)[places]
    noise = calibration.posterior.covariance[np.ix_(places, places)] + np.diag((share * BETWEEN_SD[places]) ** 2)
    spread = prior.covariance[np.ix_(places, places)] + noise
    gain = np.linalg.solve(spread, prior.covariance[places]).T
    mean = prior.mean + gain @ (values - prior.mean[places])
    covariance = prior.covariance - gain @ prior.covariance[places]
    source = f"{calibration.source}, carried to {deployment.title}"
    return Prior(mean, 0.5 * (covariance + covariance.T), source)
