"""Coefficients: the YAML that carries a fit. Written whole, read strictly, the same bytes from the same fit.

Layout, in the order it is written (schema `roofml/1`):

    schema, model {name, hf_repo, config_sha256}, gpu, tensor_parallel, engine {name, version, dtype, kv_dtype},
    physics {gpu_sheet_sha256, kernel_tables_sha256},
    step {corrections, overheads_us, blend, gemm_growth, stairs (optional)}, request,
    fit {runs, run_sha256, requests, step_tables, means_alone, forwards (optional), train_fraction, prior, rounds,
        converged, misfit (optional), error_pct, sd, not_identified, paces, pauses (optional), subsets (optional),
        valid, covariance, roofml},
    blis (optional: what BLIS's own form needs)

A file lives for ever: what an older one lacks (`physics`, `run_sha256`, a parameter) is optional, and a newer schema is
refused by name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import Field
from ruamel.yaml import YAML

from roofml.calibration.covariance import check_sd, check_triangle
from roofml.latency.parameters import BY_NAME, NAMES, PARAMETERS, Group
from roofml.latency.stairs import SIZES
from roofml.models.weights import DTYPE_BYTES, KV_DTYPE_BYTES
from roofml.traces.engine_version import ENGINES, parse_version
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.util.outside_text import for_line
from roofml.util.schema import Count, Finite, Name, Sha256, Sha256OrNothing, Strict, check_version, validated
from roofml.util.writing import write_file
from roofml.util.yaml_io import read_mapping

SCHEMA = "roofml/1"
PACES = (0.2, 5.0)
"""Servers of one GPU differ by a percent or so: what lies outside of this is another GPU, or a mistake."""
MOST_SDS = 100.0
"""No standard deviation is more than so many times that of the package's prior, which a fit can only sharpen."""
MOST_GPUS = 1024
MOST_STAIR = 0.5
"""Either way: kernels of neighbouring sizes differ by some per cent."""

Range = Annotated[tuple[Count, Count], Field(strict=False)]
"""Smallest and largest: a list, in YAML."""
Whole = Annotated[int, Field(ge=1, le=1_000_000_000)]
NotNegative = Annotated[Finite, Field(ge=0, le=1e9)]


class ModelSection(Strict):
    """Which model the coefficients are for."""

    name: Name
    hf_repo: Name
    config_sha256: Sha256


class EngineSection(Strict):
    """Which engine served the runs. The version is null where no run says it."""

    name: Name
    version: Name | None
    dtype: Name
    kv_dtype: Name


class PhysicsSection(Strict):
    """Digests of what besides the config the numbers were fitted over. Files of 0.1.0 have none."""

    gpu_sheet_sha256: Sha256
    kernel_tables_sha256: Sha256


class StepSection(Strict):
    """Step parameters by group. One that is missing is neutral: the file was made before it existed."""

    corrections: dict[str, Finite] = Field(default_factory=dict)
    overheads_us: dict[str, Finite] = Field(default_factory=dict)
    blend: dict[str, Finite] = Field(default_factory=dict)
    gemm_growth: dict[str, Finite] = Field(default_factory=dict)
    stairs: dict[int, Annotated[Finite, Field(ge=-MOST_STAIR, le=MOST_STAIR)]] | None = None
    """Captured size -> how much longer it takes to read its weights, relatively (`latency.stairs`)."""


class ErrorSection(Strict):
    """Signed errors of means on the requests that were fitted, %. In sample: `roofml evaluate` holds data out."""

    e2e_mean: Finite
    ttft_mean: Finite
    tpot_mean: Finite


class PausesSection(Strict):
    """`latency.pauses.Pauses`."""

    every_us: Annotated[Finite, Field(gt=0, le=1e9)]
    pause_us: Annotated[Finite, Field(ge=0, le=1e6)]


class SubsetSection(Strict):
    """`subset.Subset`."""

    fitted: Count
    of: Count
    information: Annotated[Finite, Field(ge=0, le=1)]


class FitSection(Strict):
    """Where the numbers come from, and how far they reach."""

    runs: list[Name] = Field(min_length=1)
    run_sha256: dict[Name, Sha256OrNothing] | None = None
    """Run -> digest of what was measured; empty where nobody knows it. Files of 0.1.0 have none."""
    requests: Count
    step_tables: list[Name] | None = None
    means_alone: list[Name] | None = None
    """Those of `runs` of which means alone were learned from. None: of none."""
    forwards: list[Name] | None = None
    """Those of `runs` that are files of exact batches. None: of none."""
    train_fraction: Annotated[Finite, Field(gt=0, le=1)]
    prior: Name
    rounds: Count
    converged: bool
    misfit: list[Name] | None = None
    """What `calibration.judge` found wrong, where the fit was written all the same. None: nothing."""
    error_pct: dict[Name, ErrorSection]
    sd: dict[str, Annotated[Finite, Field(ge=0)]]
    not_identified: list[str]
    paces: dict[Name, Annotated[Finite, Field(ge=PACES[0], le=PACES[1])]] = Field(default_factory=dict)
    """Run -> how much longer its server takes for a step than these parameters say, near 1."""
    pauses: dict[Name, PausesSection] | None = None
    """Run -> the pauses of its server's front end. None: none were found."""
    subsets: dict[Name, SubsetSection] | None = None
    """Run -> what was fitted of a very long one. None: all of them whole."""
    valid: dict[Literal["batch", "context", "new_tokens"], Range]
    covariance: list[list[Finite]]
    roofml: Name


class BlisSection(Strict):
    """What BLIS's trained-physics form needs of the same pair; its own fit writes it."""

    alpha_coeffs: list[NotNegative] = Field(min_length=3, max_length=3)
    beta_coeffs: list[NotNegative] = Field(min_length=10, max_length=11)
    total_kv_blocks: Whole
    block_size: Whole = 16
    max_num_seqs: Whole | None = None
    max_num_batched_tokens: Whole | None = None
    max_model_len: Whole | None = None


class Coefficients(Strict):
    """The file of a fitted deployment. `calibration.Calibration` is what it means."""

    schema_: Literal["roofml/1"] = Field(alias="schema")
    model: ModelSection
    gpu: Name
    tensor_parallel: int = Field(ge=1, le=MOST_GPUS)
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
    write_file(path, coefficients_text(coefficients))


COMMENTS = {
    "step": "corrections multiply the physics (1: it was right); overheads are what no roofline explains, µs",
    "stairs": "by captured size: weights take this much longer, relatively",
    "request": "what a request waits for besides steps of the usual time, µs",
    "sd": "standard deviations: relative for corrections, in the parameter's unit for the others",
    "not_identified": "the prior decides these more than the data",
    "pauses": "of the servers' front ends, µs",
    "subsets": "requests fitted of very long runs, chosen by information: at least this share of what all say",
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

    Raises InputError naming file and field for an unknown key, one that is missing, another schema, and a value that no
    fit can have found.
    """
    document = read_mapping(path)
    check_version(document, SCHEMA, path)
    return coefficients_of(document, path)


def coefficients_of(document: Mapping[str, Any], source: Path | str) -> Coefficients:
    """The coefficients in a mapping, which a reader and a writer of the file hold to the same rules.

    Raises InputError beginning with `source`, and naming the field.
    """
    made = validated(Coefficients, document, source)
    _check_parameters(made, source)
    _check_stairs(made.step.stairs or {}, source)
    _check_engine(made.engine, source)
    _check_fit(made.fit, source)
    return made


def _check_parameters(made: Coefficients, source: Path | str) -> None:
    """Raise InputError for a parameter that is not known, and for a value outside of its bounds."""
    for group, values in made.groups.items():
        section = "request" if group == "request" else f"step.{group}"
        expected = [parameter.name for parameter in PARAMETERS if parameter.group == group]
        for name, value in values.items():
            if name not in expected:
                where = f"{section}.{for_line(name)[:60]}"
                raise InputError(f"{source}: {where}: unknown parameter, expected {', '.join(expected)}")
            bounds = BY_NAME[name]
            if not bounds.lower <= value <= bounds.upper and value != bounds.neutral:
                raise InputError(
                    f"{source}: {section}.{name}: {value}, expected between {bounds.lower:g} and {bounds.upper:g}"
                )


def _check_stairs(stairs: Mapping[int, float], source: Path | str) -> None:
    """Raise InputError for a size that has no factor."""
    for size in stairs:
        if size not in SIZES:
            expected = f"a multiple of {SIZES[0]} up to {SIZES[-1]}"
            raise InputError(f"{source}: step.stairs.{size}: unknown size, expected {expected}")


def _check_engine(engine: EngineSection, source: Path | str) -> None:
    if engine.name not in ENGINES:
        raise InputError(f"{source}: engine.name: {shown(engine.name)}, expected one of {', '.join(ENGINES)}")
    for version in (engine.version or "").split(", ") if engine.version is not None else ():
        parse_version(version, f"{source}: engine.version")
    for field, value, known in (("dtype", engine.dtype, DTYPE_BYTES), ("kv_dtype", engine.kv_dtype, KV_DTYPE_BYTES)):
        if value not in known:
            raise InputError(f"{source}: engine.{field}: {shown(value)}, expected one of {', '.join(known)}")


def _check_fit(fit: FitSection, source: Path | str) -> None:
    """Raise InputError where the section's fields do not agree with each other."""
    if len(set(fit.runs)) < len(fit.runs):
        raise InputError(f"{source}: fit.runs: a run is there twice")
    for field, keys in (
        ("run_sha256", fit.run_sha256 or {}),
        ("error_pct", fit.error_pct),
        ("paces", fit.paces),
        ("pauses", fit.pauses or {}),
        ("subsets", fit.subsets or {}),
        ("means_alone", fit.means_alone or ()),
        ("forwards", fit.forwards or ()),
    ):
        for name in keys:
            if name not in fit.runs:
                raise InputError(f"{source}: fit.{field}.{for_line(name)}: is not one of fit.runs")
    if fit.requests == 0 and not fit.step_tables and not fit.forwards:
        raise InputError(f"{source}: fit.requests: 0, expected at least 1 of a fit without step tables or forwards")
    for name in ("batch", "context", "new_tokens"):
        if name not in fit.valid:
            raise InputError(f"{source}: fit.valid.{name}: missing")
        smallest, largest = fit.valid[name]
        if smallest > largest:
            raise InputError(f"{source}: fit.valid.{name}: {smallest} to {largest}, expected the smaller one first")
    for field, names in (("sd", fit.sd), ("not_identified", fit.not_identified)):
        for name in names:
            if name not in NAMES:
                raise InputError(f"{source}: fit.{field}.{for_line(name)[:60]}: unknown parameter")
    if len(set(fit.not_identified)) < len(fit.not_identified):
        raise InputError(f"{source}: fit.not_identified: a parameter is there twice")
    for name, sd in fit.sd.items():
        most = MOST_SDS * BY_NAME[name].sd
        if sd > most:
            raise InputError(f"{source}: fit.sd.{name}: {sd:g}, expected at most {most:g}")
    check_triangle(fit.covariance, len(fit.sd), f"{source}: fit.covariance")
    check_sd(list(fit.sd.values()), fit.covariance, list(fit.sd), f"{source}: fit.sd")
