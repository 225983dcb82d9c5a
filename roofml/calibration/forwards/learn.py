"""Learning from forwards: alone, or before the runs of the same deployment are fitted.

What forwards say becomes the prior of what requests say: both are normal distributions of the same coordinates, and
each file's offsets are its own. A fit of forwards alone leaves the front end, the sampler and the CPU as the prior has
them, and says so in its intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roofml.calibration.calibration import Calibration
from roofml.calibration.fitted_run import FittedRun
from roofml.calibration.forwards.fit import ForwardFit, fit_forwards
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import Prior
from roofml.hardware.gpu import load_gpu
from roofml.latency.deployment import BUDGET, Deployment, deploy
from roofml.latency.parameters import to_coordinates
from roofml.models.load import load_model
from roofml.traces.engine_version import parse_version
from roofml.traces.forwards import FIRST_RELEASE, Forwards
from roofml.util.display import Table, digits
from roofml.util.errors import InputError


@dataclass(frozen=True, eq=False)
class Learned:
    """What files of forwards say together."""

    prior: Prior
    """What is believed after them."""
    fits: tuple[ForwardFit, ...]
    """Each file's, in turn; the last one's posterior is that of all."""

    @property
    def misfit(self) -> tuple[str, ...]:
        """Why they do not describe their cases."""
        return tuple(text for fit in self.fits for text in fit.misfit)


def deployment_of_forwards(forwards: Sequence[Forwards]) -> Deployment:
    """The deployment that all of the files were timed on. Raises InputError where they differ."""
    first = forwards[0].server
    assert first.model is not None
    assert first.gpu is not None
    assert first.tensor_parallel is not None
    budget = max(BUDGET, *(case.new_tokens for each in forwards for case in each.cases))
    version = first.engine_version or FIRST_RELEASE
    deployment = deploy(
        first.model, first.gpu, first.tensor_parallel, budget, engine_version=version, kv_dtype=first.kv_dtype
    )
    check_same(deployment, forwards[1:])
    return deployment


def check_same(deployment: Deployment, forwards: Sequence[Forwards]) -> None:
    """Raise InputError for a file that was timed on another deployment."""
    for each in forwards:
        said = each.server
        assert said.model is not None
        assert said.gpu is not None
        pairs = (
            ("model", load_model(said.model).config_sha256, deployment.model.config_sha256, deployment.model.name),
            ("GPU", load_gpu(said.gpu).sheet_sha256, deployment.gpu.sheet_sha256, deployment.gpu.name),
            ("tensor parallel size", str(each.ranks), str(deployment.tp), str(deployment.tp)),
        )
        for what, theirs, ours, name in pairs:
            if theirs != ours:
                raise InputError(f"{each.name}: timed on another {what} than {name}: one fit is of one deployment")


def learn(deployment: Deployment, prior: Prior, forwards: Sequence[Forwards]) -> Learned:
    """What the files say of the deployment, one after the other, each over the kernels of its own release."""
    fits: list[ForwardFit] = []
    believed = prior
    for each in forwards:
        timed_on = deployment.fitted_on(deployment.engine.name, _release_of(each, deployment))
        found = fit_forwards(timed_on, believed, each)
        fits.append(found)
        source = f"{believed.source}, and {len(each.cases)} exact batches"
        believed = Prior(to_coordinates(found.posterior.values), found.posterior.covariance, source)
    return Learned(believed, tuple(fits))


def _release_of(forwards: Forwards, deployment: Deployment) -> str:
    """The version that a file was timed with: as it is said, or the first that has the benchmark."""
    said = forwards.server.engine_version
    if said is not None and parse_version(said, forwards.name) >= parse_version(FIRST_RELEASE, "vLLM"):
        return said
    first = (deployment.engine.version or "").split(",")[0].strip()
    newer = first and parse_version(first, forwards.name) >= parse_version(FIRST_RELEASE, "vLLM")
    return first if newer else FIRST_RELEASE


def fitted_runs(forwards: Sequence[Forwards]) -> tuple[FittedRun, ...]:
    """The files as what a calibration was learned from."""
    return tuple(FittedRun(each.name, each.identity, None, {}, 0, forwards=True) for each in forwards)


def calibrated_by_forwards(
    deployment: Deployment, prior: Prior, learned: Learned, forwards: Sequence[Forwards]
) -> Calibration:
    """The calibration that forwards alone give, with what they leave uncertain."""
    last = learned.fits[-1].posterior
    posterior = replace(last, prior=prior, valid=ranges_with(last, learned))
    return Calibration(deployment, posterior, fitted_runs(forwards), misfit=learned.misfit)


def with_forwards(
    calibration: Calibration, prior: Prior, learned: Learned, forwards: Sequence[Forwards]
) -> Calibration:
    """A calibration of runs that started from what forwards say: what was believed before both is its prior."""
    posterior = replace(calibration.posterior, prior=prior, valid=ranges_with(calibration.posterior, learned))
    runs = (*calibration.runs, *fitted_runs(forwards))
    return replace(calibration, posterior=posterior, runs=runs, misfit=(*learned.misfit, *calibration.misfit))


def ranges_with(posterior: Posterior, learned: Learned) -> dict[str, tuple[int, int]]:
    """The ranges of a posterior, and those of all cases."""
    ranges = [posterior.valid, *(fit.posterior.valid for fit in learned.fits)]
    return {name: (min(each[name][0] for each in ranges), max(each[name][1] for each in ranges)) for name in ranges[0]}


def case_table(fits: Sequence[ForwardFit], forwards: Sequence[Forwards], worst: int = 5) -> Table:
    """How far each file's cases are off after the fit, and which most."""
    rows: list[list[str]] = []
    for fit, each in zip(fits, forwards, strict=True):
        off = np.abs(fit.error_pct)
        most = np.argsort(-off, kind="stable")[:worst]
        named = ", ".join(f"{fit.names[place]} {fit.error_pct[place]:+.1f}" for place in most)
        rows.append(
            [each.name, str(len(off)), digits(float(np.median(off))), digits(float(np.quantile(off, 0.9))), named]
        )
    return Table("exact batches, after the fit", ["file", "cases", "median |%|", "p90 |%|", "farthest, %"], rows)
