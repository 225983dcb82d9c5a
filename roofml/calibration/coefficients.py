"""Coefficients: the YAML that carries a fit. Written whole, read strictly, the same bytes from the same fit.

Layout, in the order it is written (schema `roofml/1`):

    schema, model {name, hf_repo, config_sha256}, gpu, tensor_parallel, engine {name, version, dtype, kv_dtype},
    physics {gpu_sheet_sha256, kernel_tables_sha256},
    step {corrections, overheads_us, blend, gemm_growth}, request,
    fit {runs, run_sha256, requests, step_tables (optional), train_fraction, prior, rounds, converged, error_pct, sd,
        not_identified, paces, valid, covariance, roofml},
    blis (optional: what BLIS's own form needs)

A file lives for ever: what an older one lacks (`physics`, `run_sha256`, a parameter) is optional, and a newer schema is
refused by name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field
from ruamel.yaml import YAML

from roofml.latency.parameters import BY_NAME, NAMES, PARAMETERS, Group
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.util.files import write_atomically
from roofml.util.schema import Finite, Strict, check_version, validated
from roofml.util.yaml_io import read_mapping

SCHEMA = "roofml/1"
Range = tuple[int, int]


class ModelSection(Strict):
    """Which model the coefficients are for."""

    name: str
    hf_repo: str
    config_sha256: str


class EngineSection(Strict):
    """Which engine served the runs. The version is null where no run says it."""

    name: str
    version: str | None
    dtype: str
    kv_dtype: str


class PhysicsSection(Strict):
    """Digests of what besides the config the numbers were fitted over. Files of 0.1.0 have none."""

    gpu_sheet_sha256: str
    kernel_tables_sha256: str


class StepSection(Strict):
    """Step parameters by group. One that is missing is neutral: the file was made before it existed."""

    corrections: dict[str, Finite] = Field(default_factory=dict)
    overheads_us: dict[str, Finite] = Field(default_factory=dict)
    blend: dict[str, Finite] = Field(default_factory=dict)
    gemm_growth: dict[str, Finite] = Field(default_factory=dict)


class ErrorSection(Strict):
    """Signed errors of means on the requests that were fitted, %. In sample: `roofml evaluate` holds data out."""

    e2e_mean: Finite
    ttft_mean: Finite
    tpot_mean: Finite


class FitSection(Strict):
    """Where the numbers come from, and how far they reach."""

    runs: list[str]
    run_sha256: dict[str, str] | None = None
    """Run -> digest of what was measured. Files of 0.1.0 have none."""
    requests: int
    step_tables: list[str] | None = None
    train_fraction: Finite
    prior: str
    rounds: int
    converged: bool
    error_pct: dict[str, ErrorSection]
    sd: dict[str, Finite]
    not_identified: list[str]
    paces: dict[str, Finite] = Field(default_factory=dict)
    """Run -> how much longer its server takes for a step than these parameters say, near 1."""
    valid: dict[Literal["batch", "context", "new_tokens"], Range]
    covariance: list[list[Finite]]
    roofml: str


class BlisSection(Strict):
    """What BLIS's trained-physics form needs of the same pair; its own fit writes it."""

    alpha_coeffs: list[Finite]
    beta_coeffs: list[Finite]
    total_kv_blocks: int = Field(ge=1)
    block_size: int = Field(16, ge=1)
    max_num_seqs: int | None = Field(None, ge=1)
    max_num_batched_tokens: int | None = Field(None, ge=1)
    max_model_len: int | None = Field(None, ge=1)


class Coefficients(Strict):
    """The file of a fitted deployment. `calibration.Calibration` is what it means."""

    schema_: Literal["roofml/1"] = Field(alias="schema")
    model: ModelSection
    gpu: str
    tensor_parallel: int = Field(ge=1)
    engine: EngineSection
    physics: PhysicsSection | None = None
    step: StepSection
    request: dict[str, Finite]
    fit: FitSection
    blis: BlisSection | None = None

    @property
    def groups(self) -> dict[Group, Mapping[str, float]]:
        """The parameters by group."""
        return {
            "corrections": self.step.corrections,
            "overheads_us": self.step.overheads_us,
            "blend": self.step.blend,
            "gemm_growth": self.step.gemm_growth,
            "request": self.request,
        }

    @property
    def values(self) -> Floats:
        """Every parameter, shape (parameters,), in the order of `parameters.PARAMETERS`; what is missing is neutral."""
        return np.array([self.groups[p.group].get(p.name, p.neutral) for p in PARAMETERS])

    @property
    def covariance(self) -> Floats:
        """(parameters, parameters) in that order; nothing of a parameter that is missing."""
        full = np.zeros((len(NAMES), len(NAMES)))
        places = [NAMES.index(name) for name in self.fit.sd]
        for i, row in zip(places, self.fit.covariance, strict=True):
            for j, value in zip(places, row, strict=False):
                full[i, j] = full[j, i] = value
        return full


def rounded(value: float, digits: int = 6) -> float:
    """To significant digits: enough to predict the same microseconds, few enough to be the same on any machine."""
    return float(f"{float(value):.{digits}g}")


def write_coefficients(path: Path, coefficients: Coefficients) -> None:
    """Write the YAML in one piece. Raises InputError where the folder does not exist."""
    write_atomically(path, coefficients_text(coefficients))


COMMENTS = {
    "step": "corrections multiply the physics (1: it was right); overheads are what no roofline explains, µs",
    "request": "what a request waits for besides steps of the usual time, µs",
    "sd": "standard deviations: relative for corrections, in the parameter's unit for the others",
    "not_identified": "the prior decides these more than the data",
    "valid": "smallest and largest seen in a step; predictions outside warn",
    "covariance": "lower triangle, parameters in the order of sd; of the logarithm for corrections",
}


def coefficients_text(coefficients: Coefficients) -> str:
    """The YAML of `coefficients`."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 10_000
    document = coefficients.model_dump(by_alias=True, exclude_none=True)
    document["engine"]["version"] = coefficients.engine.version
    commented = _commented(document)
    stream = io.StringIO()
    yaml.dump(commented, stream)
    return stream.getvalue()


def _commented(value: Any) -> Any:
    """Nested dicts as ruamel's, with our comments, and lists of numbers on one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        mapping = CommentedMap()
        for key, item in cast("dict[str, Any]", value).items():
            mapping[key] = _commented(item)
            if key in COMMENTS:
                mapping.yaml_add_eol_comment(COMMENTS[key], key=key)
        return mapping
    if isinstance(value, list | tuple):
        sequence = CommentedSeq([_commented(item) for item in cast("list[Any]", value)])
        if all(isinstance(item, int | float) for item in cast("list[Any]", value)):
            sequence.fa.set_flow_style()
        return sequence
    return value


def read_coefficients(path: Path) -> Coefficients:
    """The coefficients in `path`: the one reader of the schema.

    Raises InputError naming file and field for an unknown key, one that is missing, another schema, a value outside its
    parameter's bounds, NaN or infinity.
    """
    document = read_mapping(path)
    check_version(document, SCHEMA, path)
    read = validated(Coefficients, document, path)
    for group, values in read.groups.items():
        section = "request" if group == "request" else f"step.{group}"
        expected = [parameter.name for parameter in PARAMETERS if parameter.group == group]
        for name, value in values.items():
            if name not in expected:
                raise InputError(f"{path}: {section}.{name}: unknown parameter, expected {', '.join(expected)}")
            bounds = BY_NAME[name]
            if not bounds.lower <= value <= bounds.upper and value != bounds.neutral:
                raise InputError(
                    f"{path}: {section}.{name}: {value}, expected between {bounds.lower:g} and {bounds.upper:g}"
                )
    for name in ("batch", "context", "new_tokens"):
        if name not in read.fit.valid:
            raise InputError(f"{path}: fit.valid.{name}: missing")
    for name in read.fit.sd:
        if name not in NAMES:
            raise InputError(f"{path}: fit.sd.{name}: unknown parameter")
    if [len(row) for row in read.fit.covariance] != list(range(1, len(read.fit.sd) + 1)):
        raise InputError(f"{path}: fit.covariance: expected a lower triangle of {len(read.fit.sd)} rows, as fit.sd has")
    return read
