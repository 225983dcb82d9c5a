"""Other models: what fits of measured models say of any other, a hierarchical prior in `coeffs/global.yaml`.

The file holds the fits themselves, each a normal distribution of the parameters' coordinates under the package's prior.
So the prior for a model leaves out that model's own fit: nothing of a model's trace comes back as a prediction of it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from roofml.calibration.coefficients import MOST_GPUS, MOST_SDS
from roofml.calibration.covariance import check_triangle
from roofml.calibration.posterior import Posterior
from roofml.calibration.prior import PACKAGE, ModelEvidence, Prior, pool
from roofml.hardware.gpu import Gpu
from roofml.hardware.read_kernels import tables_folder, tables_sha256
from roofml.latency.deployment import Deployment
from roofml.latency.parameters import BY_NAME, NAMES, from_coordinates, to_coordinates
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line
from roofml.util.package_data import data_folder
from roofml.util.schema import Count, Finite, Name, Sha256, Strict, check_version, validated
from roofml.util.writing import write_file
from roofml.util.yaml_io import read_mapping

SCHEMA = "roofml-global/1"
OTHER_GPU = 2.0
"""Factor by which standard deviations grow on a GPU that no fit was made on."""


class SavedPosterior(Strict):
    """One fit: values of parameters, and the lower triangle of the covariance of their coordinates."""

    model: Name
    config_sha256: Sha256 | None = None
    """Which model that is, whatever it is called. Files of 0.1.0 have none."""
    tensor_parallel: int = Field(ge=1, le=MOST_GPUS)
    runs: list[Name] = Field(min_length=1)
    requests: Count
    values: list[Finite]
    covariance: list[list[Finite]]

    def evidence(self, names: Sequence[str]) -> ModelEvidence:
        """As arrays. `names` are the parameters it has; of any other it says what the package's prior does."""
        places = np.array([NAMES.index(name) for name in names])
        mean, covariance = PACKAGE.mean.copy(), PACKAGE.covariance.copy()
        values = from_coordinates(mean)
        values[places] = self.values
        for i, row in zip(places, self.covariance, strict=True):
            covariance[i, places[: len(row)]] = row
            covariance[places[: len(row)], i] = row
        return ModelEvidence(self.model, to_coordinates(values), covariance)


class OtherModels(Strict):
    """The fits of `coeffs/global.yaml`."""

    schema_: Literal["roofml-global/1"] = Field(alias="schema")
    gpu: Name
    gpu_sheet_sha256: Sha256 | None = None
    """Which GPU that is, whatever it is called. Files of 0.1.0 have none."""
    kernel_tables_sha256: Sha256 | None = None
    """Digest of that GPU's kernel tables, which the fits correct. Files of 0.1.0 have none."""
    parameters: list[str]
    members: list[SavedPosterior]

    def prior(self, deployment: Deployment) -> Prior:
        """What is believed of a deployment before any trace of its model.

        Raises InputError where the fits are of the deployment's GPU but correct other kernel tables than it has.
        """
        base, gpu = self.without(deployment.model.name, deployment.model.config_sha256), deployment.gpu
        if gpu.name == self.gpu and self.gpu_sheet_sha256 in (None, gpu.sheet_sha256):
            ours, theirs = tables_sha256(tables_folder(gpu)), self.kernel_tables_sha256
            if theirs not in (None, ours):
                raise InputError(
                    f"the fits of other models on {gpu.name} are over other kernel tables ({str(theirs)[:12]}, not "
                    f"{ours[:12]}): `roofml pool RUN... --gpu {gpu.name} -o coeffs/global.yaml` makes them anew"
                )
            return base
        return Prior(base.mean, base.covariance * OTHER_GPU**2, f"{base.source} (on {self.gpu})")

    def without(self, name: str, config_sha256: str) -> Prior:
        """What all fits say together but those of one model, by its name or its config, on this GPU."""
        others = [m for m in self.members if m.model.lower() != name.lower() and m.config_sha256 != config_sha256]
        return pool([member.evidence(self.parameters) for member in others])


def saved(fitted: Posterior, deployment: Deployment, runs: Sequence[str]) -> SavedPosterior:
    """A fit that was made with the package's own prior, for others (`fit_parameters`), as the file has it.

    Values are rounded to digits that every machine computes alike.
    """
    assert not fitted.stairs
    return SavedPosterior(
        model=deployment.model.name,
        config_sha256=deployment.model.config_sha256,
        tensor_parallel=deployment.tp,
        runs=list(runs),
        requests=fitted.requests,
        values=[float(f"{value:.6g}") for value in fitted.values],
        covariance=[[float(f"{c:.5g}") for c in row[: i + 1]] for i, row in enumerate(fitted.covariance)],
    )


def evidence_of(fitted: Posterior, model: str) -> ModelEvidence:
    """A fit, made with the package's own prior and for others (`fit_parameters`), for `prior.pool`."""
    assert not fitted.stairs
    return ModelEvidence(model, to_coordinates(fitted.values), fitted.covariance)


def pooled_text(gpu: Gpu, members: Sequence[SavedPosterior]) -> str:
    """The YAML of pooled fits, with the pooled values for people to read."""

    def on_one_line(numbers: Sequence[float]) -> CommentedSeq:
        sequence = CommentedSeq(list(numbers))
        sequence.fa.set_flow_style()
        return sequence

    entries = [
        CommentedMap(
            {
                **member.model_dump(exclude={"values", "covariance"}, exclude_none=True),
                "values": on_one_line(member.values),
                "covariance": [on_one_line(row) for row in member.covariance],
            }
        )
        for member in members
    ]
    document = CommentedMap(
        {
            "schema": SCHEMA,
            "gpu": gpu.name,
            "gpu_sheet_sha256": gpu.sheet_sha256,
            "kernel_tables_sha256": tables_sha256(tables_folder(gpu)),
            "parameters": list(NAMES),
            "members": entries,
        }
    )
    centre = pool([member.evidence(NAMES) for member in members])
    lines = [
        f"  {name:24s} {value:10.5g}  sd {sd:.3g}"
        for name, value, sd in zip(NAMES, from_coordinates(centre.mean), centre.sd, strict=True)
    ]
    document.yaml_set_start_comment(
        "Fits under the package's prior; covariances are of the parameters' coordinates (logarithms of corrections).\n"
        "Together they say of a model that is not among them:\n" + "\n".join(lines)
    )
    yaml = YAML()
    yaml.width = 100_000
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def write_other_models(path: Path, gpu: Gpu, members: Sequence[SavedPosterior]) -> None:
    """Write the fits in one piece."""
    write_file(path, pooled_text(gpu, members))


def read_other_models(path: Path | None = None) -> OtherModels:
    """The fits in `path`, or those the package ships. Raises InputError naming file and field."""
    path = data_folder("coeffs") / "global.yaml" if path is None else path
    document = read_mapping(path)
    check_version(document, SCHEMA, path)
    read = validated(OtherModels, document, path)
    unknown = [for_line(name)[:60] for name in read.parameters if name not in NAMES]
    if unknown or len(set(read.parameters)) < len(read.parameters):
        raise InputError(f"{path}: parameters: {', '.join(unknown) or 'one twice'}, expected {', '.join(NAMES)}")
    seen: set[tuple[str, int]] = set()
    for number, member in enumerate(read.members):
        where = f"{path}: members.{number}"
        _check_member(member, read.parameters, where)
        if (member.model.lower(), member.tensor_parallel) in seen:
            raise InputError(
                f"{where}: {member.model} with tensor parallel size {member.tensor_parallel} is there twice"
            )
        seen.add((member.model.lower(), member.tensor_parallel))
    return read


def _check_member(member: SavedPosterior, parameters: Sequence[str], where: str) -> None:
    """Raise InputError for values outside of their parameters' bounds, and for what is not their covariance."""
    if len(member.values) != len(parameters):
        raise InputError(f"{where}: expected {len(parameters)} values, found {len(member.values)}")
    for name, value in zip(parameters, member.values, strict=True):
        bounds = BY_NAME[name]
        if not bounds.lower <= value <= bounds.upper:
            raise InputError(
                f"{where}.values: {name} {value:g}, expected between {bounds.lower:g} and {bounds.upper:g}"
            )
    check_triangle(member.covariance, len(parameters), f"{where}.covariance", definite=True)
    for name, row in zip(parameters, member.covariance, strict=True):
        most = MOST_SDS * BY_NAME[name].sd
        if row[-1] > most**2:
            raise InputError(f"{where}.covariance: variance of {name} {row[-1]:g}, expected at most {most**2:g}")
