"""Coefficients: the YAML that carries a fit. Written whole, read strictly, the same bytes from the same fit.

Layout, in the order it is written (schema `roofml/1`):

    schema, model {name, hf_repo, config_sha256}, gpu, tensor_parallel, engine {name, version, dtype, kv_dtype},
    step {corrections, overheads_us, blend, gemm_growth}, request,
    fit {runs, requests, step_tables (optional), train_fraction, prior, rounds, converged, error_pct, sd,
        not_identified, paces, valid, covariance, roofml},
    blis (optional: what BLIS's own form needs)
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from roofml import __version__
from roofml.calibration.fit import Fit
from roofml.engine.replay import RequestParameters
from roofml.latency.batch import StepTable
from roofml.latency.formula import StepParameters
from roofml.latency.parameters import BY_NAME, NAMES, PARAMETERS, Floats, Group, split
from roofml.models.spec import ModelSpec
from roofml.traces.run import Run
from roofml.util.errors import InputError
from roofml.util.files import write_atomically
from roofml.util.yaml_io import read_mapping

Finite = Annotated[float, Field(allow_inf_nan=False)]
Range = tuple[int, int]


RARELY_PCT = 0.1
"""A prediction may leave the fitted range in so many of its steps before it warns: the fit's own run does, replayed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Strict):
    """Which model the coefficients are for."""

    name: str
    hf_repo: str
    config_sha256: str


class EngineSection(_Strict):
    """Which engine served the runs. The version is null where no run says it."""

    name: str
    version: str | None
    dtype: str
    kv_dtype: str


class StepSection(_Strict):
    """Step parameters by group."""

    corrections: dict[str, Finite]
    overheads_us: dict[str, Finite]
    blend: dict[str, Finite]
    gemm_growth: dict[str, Finite]


class ErrorSection(_Strict):
    """Signed errors of means on the requests that were fitted, %. In sample: `roofml evaluate` holds data out."""

    e2e_mean: Finite
    ttft_mean: Finite
    tpot_mean: Finite


class FitSection(_Strict):
    """Where the numbers come from, and how far they reach."""

    runs: list[str]
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


class BlisSection(_Strict):
    """What BLIS's trained-physics form needs of the same pair; its own fit writes it."""

    alpha_coeffs: list[Finite]
    beta_coeffs: list[Finite]
    total_kv_blocks: int
    block_size: int = 16
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None


class Coefficients(_Strict):
    """A fitted model/GPU/TP: what `predict`, `replay`, `evaluate` and exports need besides config and datasheet."""

    schema_: Literal["roofml/1"] = Field(alias="schema")
    model: ModelSection
    gpu: str
    tensor_parallel: int = Field(ge=1)
    engine: EngineSection
    step: StepSection
    request: dict[str, Finite]
    fit: FitSection
    blis: BlisSection | None = None

    @property
    def values(self) -> Floats:
        """Every parameter, shape (parameters,), in the order of `params.PARAMETERS`."""
        groups: dict[Group, Mapping[str, float]] = {
            "corrections": self.step.corrections,
            "overheads_us": self.step.overheads_us,
            "blend": self.step.blend,
            "gemm_growth": self.step.gemm_growth,
            "request": self.request,
        }
        return np.array([groups[parameter.group][parameter.name] for parameter in PARAMETERS])

    def parameters(self) -> tuple[StepParameters, RequestParameters]:
        """What the replay takes."""
        return split(self.values)

    def outside(self, steps: StepTable) -> list[str]:
        """One sentence for each way in which `steps` leave the range of batches and contexts the fit has seen."""
        decodes = steps.decode_tokens > 0
        context = steps.decode_context[decodes] / steps.decode_tokens[decodes]
        asked = {"batch": steps.requests, "context": context, "new_tokens": steps.prefill_tokens + steps.decode_tokens}
        warnings: list[str] = []
        for name, values in asked.items():
            low, high = self.fit.valid[name]  # pyright: ignore[reportArgumentType]
            beyond = 100 * float(np.mean((values < low) | (values > high))) if len(values) else 0.0
            if beyond > RARELY_PCT:
                word = {"batch": "batch", "context": "mean context", "new_tokens": "new tokens"}[name]
                warnings.append(
                    f"{word} {int(values.min())} to {int(values.max())}: the fit has seen {low} to {high} "
                    f"({beyond:.3g} % of steps lie outside)"
                )
        return warnings


def coefficients_of(
    fit: Fit,
    model: ModelSpec,
    gpu: str,
    runs: Sequence[Run],
    train_fraction: float,
    error_pct: Mapping[str, Mapping[str, float]],
) -> Coefficients:
    """The coefficients of a fit of `runs`, which are of one model and tensor parallel size."""
    groups: dict[str, dict[str, float]] = {}
    for parameter, value in zip(PARAMETERS, fit.values, strict=True):
        groups.setdefault(parameter.group, {})[parameter.name] = _rounded(value)
    return Coefficients.model_validate(
        {
            "schema": "roofml/1",
            "model": {"name": model.name, "hf_repo": runs[0].server.model, "config_sha256": model.config_sha256},
            "gpu": gpu,
            "tensor_parallel": runs[0].server.tensor_parallel,
            "engine": {"name": "vllm", "version": None, "dtype": model.dtype, "kv_dtype": model.dtype},
            "step": {name: groups[name] for name in ("corrections", "overheads_us", "blend", "gemm_growth")},
            "request": groups["request"],
            "fit": {
                "runs": [run.name for run in runs],
                "requests": fit.requests,
                "train_fraction": train_fraction,
                "prior": fit.prior.source,
                "rounds": fit.rounds,
                "converged": fit.converged,
                "error_pct": {
                    run: {name: _rounded(value, 3) for name, value in errors.items()}
                    for run, errors in error_pct.items()
                },
                "sd": {name: _rounded(sd, 3) for name, sd in zip(NAMES, fit.sd, strict=True)},
                "not_identified": list(fit.not_identified),
                "paces": {run: _rounded(pace) for run, pace in fit.paces.items()},
                "valid": fit.valid,
                "covariance": [[_rounded(c, 4) for c in row[: i + 1]] for i, row in enumerate(fit.covariance)],
                "roofml": __version__,
            },
        }
    )


def _rounded(value: float, digits: int = 6) -> float:
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
    """The coefficients in `path`.

    Raises InputError naming file and field for an unknown or missing key, another schema, a value outside its
    parameter's bounds, NaN or infinity.
    """
    mapping = read_mapping(path)
    try:
        read = Coefficients.model_validate(mapping)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {field}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    given: dict[str, Mapping[str, float]] = {
        **{name: getattr(read.step, name) for name in ("corrections", "overheads_us", "blend", "gemm_growth")},
        "request": read.request,
    }
    for group, values in given.items():
        where = "request" if group == "request" else f"step.{group}"
        expected = [parameter.name for parameter in PARAMETERS if parameter.group == group]
        for name in expected:
            if name not in values:
                raise InputError(f"{path}: {where}.{name}: missing")
        for name, value in values.items():
            if name not in expected:
                raise InputError(f"{path}: {where}.{name}: unknown parameter, expected {', '.join(expected)}")
            bounds = BY_NAME[name]
            if not bounds.lower <= value <= bounds.upper:
                raise InputError(
                    f"{path}: {where}.{name}: {value}, expected between {bounds.lower:g} and {bounds.upper:g}"
                )
    for name in ("batch", "context", "new_tokens"):
        if name not in read.fit.valid:
            raise InputError(f"{path}: fit.valid.{name}: missing")
    return read
