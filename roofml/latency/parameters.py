"""Every fitted parameter once: name, unit, bound, prior, meaning. Transforms, YAML, reports and docs derive from it.

A correction's prior is log-normal (its `sd` is relative), any other parameter's is normal within its bounds. Priors say
what is known before a trace: kernel measurements, and how vLLM is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roofml.engine.replay import RequestParameters
from roofml.latency.formula import StepParameters

Group = Literal["corrections", "overheads_us", "blend", "gemm_growth", "request"]


@dataclass(frozen=True)
class Parameter:
    """One number that physics leaves open."""

    name: str
    group: Group
    unit: str
    lower: float
    upper: float
    prior: float
    """Median of the prior."""
    sd: float
    """Its standard deviation: relative for corrections, in `unit` for the others."""
    meaning: str
    between_sd: float
    """How much models differ, in the unit of `sd`: what another model's fit does not tell of this one."""

    @property
    def logarithmic(self) -> bool:
        """Whether the fit moves the parameter's logarithm."""
        return self.group == "corrections"


def _correction(name: str, prior: float, sd: float, between_sd: float, meaning: str) -> Parameter:
    return Parameter(name, "corrections", "", 0.05, 20.0, prior, sd, meaning, between_sd)


def _overhead(name: str, upper: float, prior: float, sd: float, between_sd: float, meaning: str) -> Parameter:
    return Parameter(name, "overheads_us", "µs", 0.0, upper, prior, sd, meaning, between_sd)


def _growth(tokens: int, sd: float) -> Parameter:
    meaning = f"weights take this much longer than measured, relatively, once a step has {tokens} new tokens"
    return Parameter(f"growth_{tokens}", "gemm_growth", "", 0.0, 1.0, 0.0, sd, meaning, 0.02)


def _request(name: str, upper: float, prior: float, sd: float, between_sd: float, meaning: str) -> Parameter:
    return Parameter(name, "request", "µs", 0.0, upper, prior, sd, meaning, between_sd)


PARAMETERS: tuple[Parameter, ...] = (
    _correction("prefill_gemm", 1.0, 0.5, 0.3, "GEMM time that prefill tokens add"),
    _correction("decode_gemm", 1.0, 0.3, 0.1, "GEMM time of decode tokens"),
    _correction("prefill_attention", 1.0, 0.5, 0.2, "arithmetic of prefill attention"),
    _correction("decode_attention", 1.0, 0.5, 0.2, "arithmetic of decode attention"),
    _correction("weights", 1.0, 0.06, 0.05, "reading the weights"),
    _correction("expert_weights", 0.95, 0.1, 0.07, "reading the experts' weights; routing that is not even hits fewer"),
    _correction("kv_cache", 1.0, 0.04, 0.03, "reading and writing keys and values"),
    _correction("attention_items", 0.8, 0.5, 0.25, "launching attention, and requests besides their keys and values"),
    _correction("long_context", 1.1, 0.3, 0.2, "what grouped heads' keys past 1,024 tokens of a request cost besides"),
    _correction(
        "communication", 0.78, 0.2, 0.15, "all-reduces; vLLM fuses them with the norm, they were measured apart"
    ),
    _overhead("per_layer_us", 500.0, 10.0, 4.0, 2.0, "norms, rotary, activation and launch gaps, per layer"),
    _overhead("per_step_us", 20_000.0, 400.0, 200.0, 100.0, "sampler and CPU work that is not hidden"),
    _overhead("mixed_step_us", 20_000.0, 200.0, 200.0, 100.0, "a step with prefill runs outside the full CUDA graph"),
    _overhead("per_request_us", 1000.0, 0.7, 0.7, 0.3, "input preparation and bookkeeping, per request in the step"),
    _overhead("cpu_floor_us", 100_000.0, 1000.0, 500.0, 200.0, "the CPU's own loop: no step is shorter"),
    Parameter(
        "max_weight", "blend", "", 0.0, 1.0, 0.98, 0.02, "1: the longer of compute and memory; 0: their sum", 0.01
    ),
    _growth(16, 0.02),
    _growth(32, 0.03),
    _growth(48, 0.03),
    _growth(64, 0.03),
    _growth(128, 0.03),
    _growth(256, 0.03),
    _request("queueing_us", 1e6, 7000.0, 3000.0, 600.0, "from the client's send to the scheduler's queue"),
    _request("queueing_per_running_us", 1e4, 30.0, 20.0, 8.0, "added to it for every running request: a shared CPU"),
    _request("pipeline_delay_us", 1e6, 1000.0, 500.0, 150.0, "from the end of a step to the client's chunk"),
    _request("cold_step_us", 1e7, 3e5, 2e5, 1e5, "once, on a server that has just started: its first mixed step"),
    _request("cold_kernel_us", 1e7, 1e6, 4e5, 1e5, "there too: compiling a kernel for experts, one for each variant"),
)

NAMES = tuple(parameter.name for parameter in PARAMETERS)
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}
LOGARITHMIC = np.array([parameter.logarithmic for parameter in PARAMETERS])
if StepParameters._fields + RequestParameters._fields != NAMES:
    raise TypeError("params.PARAMETERS must be in the order of StepParameters, then RequestParameters")

Floats = NDArray[np.float64]


def to_coordinates(values: Floats) -> Floats:
    """Parameter values (parameters,) -> the coordinates the fit moves in: logarithms of corrections."""
    return np.where(LOGARITHMIC, np.log(np.where(LOGARITHMIC, values, 1.0)), values)


def from_coordinates(x: Floats) -> Floats:
    """The inverse of `to_coordinates`."""
    return np.where(LOGARITHMIC, np.exp(np.where(LOGARITHMIC, x, 0.0)), x)


def split(values: Floats) -> tuple[StepParameters, RequestParameters]:
    """Values (parameters,) in the order of PARAMETERS -> the two named tuples the replay takes."""
    steps = len(StepParameters._fields)
    return StepParameters(*map(float, values[:steps])), RequestParameters(*map(float, values[steps:]))


PRIOR_VALUES = np.array([parameter.prior for parameter in PARAMETERS])
PRIOR_SD = np.array([parameter.sd for parameter in PARAMETERS])
BETWEEN_SD = np.array([parameter.between_sd for parameter in PARAMETERS])
LOWER = to_coordinates(np.array([parameter.lower for parameter in PARAMETERS]))
UPPER = to_coordinates(np.array([parameter.upper for parameter in PARAMETERS]))
