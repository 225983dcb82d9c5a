"""Pooled: what fits of measured models say of any other, in `coeffs/global.yaml`.

The file holds the fits themselves, each a normal distribution of the parameters' coordinates under the package's prior.
So the prior for a model leaves out that model's own fit: nothing of a model's trace comes back as a prediction of it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from roofml.calibration.fit import Fit
from roofml.calibration.prior import Learned, Prior, pool
from roofml.latency.parameters import NAMES, from_coordinates, to_coordinates
from roofml.util.errors import InputError
from roofml.util.files import data_folder, write_atomically
from roofml.util.yaml_io import read_mapping

Finite = Annotated[float, Field(allow_inf_nan=False)]

OTHER_GPU = 2.0
"""Standard deviations are so many times wider on a GPU that no fit was made on."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Strict):
    """One fit: values of parameters, and the lower triangle of the covariance of their coordinates."""

    model: str
    tensor_parallel: int
    runs: list[str]
    requests: int
    values: list[Finite]
    covariance: list[list[Finite]]

    def learned(self) -> Learned:
        """As arrays."""
        size = len(NAMES)
        covariance = np.zeros((size, size))
        for i, row in enumerate(self.covariance):
            covariance[i, : i + 1] = row
            covariance[: i + 1, i] = row
        return Learned(self.model, to_coordinates(np.array(self.values)), covariance)


class Pooled(_Strict):
    """The fits of `coeffs/global.yaml`."""

    schema_: Literal["roofml-global/1"] = Field(alias="schema")
    gpu: str
    parameters: list[str]
    members: list[Member]

    def prior(self, model: str, gpu: str) -> Prior:
        """What is believed of `model` (its name) on `gpu` before any trace of its own."""
        base = pool([member.learned() for member in self.members if member.model.lower() != model.lower()])
        if gpu == self.gpu:
            return base
        return Prior(base.mean, base.covariance * OTHER_GPU**2, f"{base.source} (on {self.gpu})")


def member_of(fit: Fit, model: str, tensor_parallel: int, runs: Sequence[str]) -> Member:
    """A fit, made with the package's own prior, as it is written: in so many digits as any machine finds alike."""
    return Member(
        model=model,
        tensor_parallel=tensor_parallel,
        runs=list(runs),
        requests=fit.requests,
        values=[float(f"{value:.6g}") for value in fit.values],
        covariance=[[float(f"{c:.5g}") for c in row[: i + 1]] for i, row in enumerate(fit.covariance)],
    )


def learned_of(fit: Fit, model: str) -> Learned:
    """A fit, made with the package's own prior, for `prior.pool`."""
    return Learned(model, to_coordinates(fit.values), fit.covariance)


def pooled_text(gpu: str, members: Sequence[Member]) -> str:
    """The YAML of pooled fits, with the pooled values for people to read."""

    def on_one_line(numbers: Sequence[float]) -> CommentedSeq:
        sequence = CommentedSeq(list(numbers))
        sequence.fa.set_flow_style()
        return sequence

    entries = [
        CommentedMap(
            {
                **member.model_dump(exclude={"values", "covariance"}),
                "values": on_one_line(member.values),
                "covariance": [on_one_line(row) for row in member.covariance],
            }
        )
        for member in members
    ]
    document = CommentedMap({"schema": "roofml-global/1", "gpu": gpu, "parameters": list(NAMES), "members": entries})
    centre = pool([member.learned() for member in members])
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


def write_pooled(path: Path, gpu: str, members: Sequence[Member]) -> None:
    """Write pooled fits in one piece."""
    write_atomically(path, pooled_text(gpu, members))


def read_pooled(path: Path | None = None) -> Pooled:
    """The pooled fits in `path`, or those the package ships. Raises InputError naming file and field."""
    path = data_folder("coeffs") / "global.yaml" if path is None else path
    try:
        read = Pooled.model_validate(read_mapping(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {field}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    if tuple(read.parameters) != NAMES:
        raise InputError(f"{path}: parameters: expected {', '.join(NAMES)}: fitted with another version?")
    for number, member in enumerate(read.members):
        lengths = [len(row) for row in member.covariance]
        if len(member.values) != len(NAMES) or lengths != list(range(1, len(NAMES) + 1)):
            raise InputError(f"{path}: members.{number}: expected {len(NAMES)} values and a lower triangle as large")
    return read
