"""Parameters: every number that physics leaves open, declared once. Transforms, YAML, reports and docs derive from it.

Each field of `StepParameters` and `RequestParameters` declares its unit, bounds and prior beside its name. Its default
is the value that changes nothing: a coefficients file that lacks a parameter was made without its effect.

A correction's prior is log-normal (its `sd` is relative), any other parameter's is normal within its bounds. Priors say
what is known before a trace: kernel measurements, and how vLLM is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, cast, get_type_hints

import numpy as np

from roofml.latency.pauses import NO_PAUSES, Pauses
from roofml.util.arrays import Floats

Group = Literal["corrections", "overheads_us", "blend", "gemm_growth", "request"]

GROWN_SD = {16: 0.02, 32: 0.03, 48: 0.03, 64: 0.03, 128: 0.03, 256: 0.03}
"""Standard deviation of the prior of `growth_<M>`, by M."""


@dataclass(frozen=True)
class Declaration:
    """What a field says about its parameter."""

    group: Group
    unit: str
    lower: float
    upper: float
    prior: float
    """Median of the prior."""
    sd: float
    """Its standard deviation: relative for corrections, in `unit` for the others."""
    between_sd: float
    """How much models differ, in the unit of `sd`: what another model's fit does not tell of this one."""
    meaning: str


def _correction(prior: float, sd: float, between_sd: float, meaning: str) -> Declaration:
    return Declaration("corrections", "", 0.05, 20.0, prior, sd, between_sd, meaning)


def _overhead(upper: float, prior: float, sd: float, between_sd: float, meaning: str) -> Declaration:
    return Declaration("overheads_us", "µs", 0.0, upper, prior, sd, between_sd, meaning)


def _growth(tokens: int) -> Declaration:
    meaning = f"weights take this much longer than measured, relatively, once a step has {tokens} new tokens"
    return Declaration("gemm_growth", "", 0.0, 1.0, 0.0, GROWN_SD[tokens], 0.02, meaning)


def _blend(prior: float, sd: float, between_sd: float, meaning: str) -> Declaration:
    return Declaration("blend", "", 0.0, 1.0, prior, sd, between_sd, meaning)


def _request(upper: float, prior: float, sd: float, between_sd: float, meaning: str) -> Declaration:
    return Declaration("request", "µs", 0.0, upper, prior, sd, between_sd, meaning)


class StepParameters(NamedTuple):
    """What physics leaves open in a step's time."""

    prefill_gemm: Annotated[float, _correction(1.0, 0.5, 0.3, "GEMM time that prefill tokens add")] = 1.0
    decode_gemm: Annotated[float, _correction(1.0, 0.3, 0.1, "GEMM time of decode tokens")] = 1.0
    prefill_attention: Annotated[float, _correction(1.0, 0.5, 0.2, "arithmetic of prefill attention")] = 1.0
    decode_attention: Annotated[float, _correction(1.0, 0.5, 0.2, "arithmetic of decode attention")] = 1.0
    weights: Annotated[float, _correction(1.0, 0.06, 0.05, "reading the weights")] = 1.0
    expert_weights: Annotated[
        float,
        _correction(1.0, 0.1, 0.07, "reading the experts' weights; routing that is not even hits fewer"),
    ] = 1.0
    kv_cache: Annotated[float, _correction(1.0, 0.04, 0.03, "reading and writing keys and values")] = 1.0
    attention_items: Annotated[
        float, _correction(0.7, 0.5, 0.25, "launching attention, and requests besides their keys and values")
    ] = 1.0
    long_context: Annotated[
        float,
        _correction(1.1, 0.3, 0.2, "what grouped heads' keys past 1,024 tokens of a request cost besides"),
    ] = 0.0
    communication: Annotated[
        float,
        _correction(1.05, 0.2, 0.15, "all-reduces; vLLM fuses them with the norm, they were measured apart"),
    ] = 1.0
    per_layer_us: Annotated[
        float, _overhead(500.0, 10.0, 4.0, 2.0, "norms, rotary, activation and launch gaps, per layer")
    ] = 0.0
    per_step_us: Annotated[
        float, _overhead(20_000.0, 400.0, 200.0, 100.0, "sampler and CPU work that is not hidden")
    ] = 0.0
    mixed_step_us: Annotated[
        float, _overhead(20_000.0, 200.0, 200.0, 100.0, "a step with prefill runs outside the full CUDA graph")
    ] = 0.0
    per_request_us: Annotated[
        float, _overhead(1000.0, 0.7, 0.7, 0.3, "input preparation and bookkeeping, per request in the step")
    ] = 0.0
    cpu_floor_us: Annotated[
        float, _overhead(100_000.0, 1000.0, 500.0, 200.0, "the CPU's own loop: no step is shorter")
    ] = 0.0
    max_weight: Annotated[float, _blend(0.98, 0.02, 0.01, "1: the longer of compute and memory; 0: their sum")] = 1.0
    growth_16: Annotated[float, _growth(16)] = 0.0
    growth_32: Annotated[float, _growth(32)] = 0.0
    growth_48: Annotated[float, _growth(48)] = 0.0
    growth_64: Annotated[float, _growth(64)] = 0.0
    growth_128: Annotated[float, _growth(128)] = 0.0
    growth_256: Annotated[float, _growth(256)] = 0.0

    @classmethod
    def of_draws(cls, values: Floats) -> StepParameters:
        """Of many draws (draws, parameters) at once: each field is (draws, 1), to go with (steps,)."""
        return cls(*values.T[: len(cls._fields), :, None])

    def scaled(self, factor: float) -> StepParameters:
        """Parameters whose step times are `factor` times as long: all but the blend, which has no scale."""
        return StepParameters(
            *(value if name == "max_weight" else value * factor for name, value in zip(self._fields, self, strict=True))
        )


class RequestParameters(NamedTuple):
    """What a request waits for besides steps of the usual time, µs."""

    queueing_us: Annotated[
        float, _request(1e6, 7000.0, 3000.0, 600.0, "from the client's send to the scheduler's queue")
    ] = 0.0
    queueing_per_running_us: Annotated[
        float, _request(1e4, 30.0, 20.0, 8.0, "added to it for every running request: a shared CPU")
    ] = 0.0
    pipeline_delay_us: Annotated[
        float, _request(1e6, 1000.0, 500.0, 150.0, "from the end of a step to the client's chunk")
    ] = 0.0
    """The step that async scheduling adds is in the replay itself."""
    cold_step_us: Annotated[
        float, _request(1e7, 3e5, 2e5, 1e5, "once, on a server that has just started: its first mixed step")
    ] = 0.0
    cold_kernel_us: Annotated[
        float, _request(1e7, 1e6, 4e5, 1e5, "there too: compiling a kernel for experts, one for each variant")
    ] = 0.0


@dataclass(frozen=True)
class Parameter(Declaration):
    """One number that physics leaves open."""

    name: str
    neutral: float
    """The value that changes nothing."""

    @property
    def logarithmic(self) -> bool:
        """Whether the fit moves the parameter's logarithm."""
        return self.group == "corrections"


def _declared(fields: type[StepParameters] | type[RequestParameters]) -> list[Parameter]:
    hints: dict[str, Any] = get_type_hints(fields, include_extras=True)
    declarations = {name: cast("Declaration", hints[name].__metadata__[0]) for name in fields._fields}
    neutral: dict[str, float] = fields._field_defaults
    return [Parameter(**vars(of), name=name, neutral=neutral[name]) for name, of in declarations.items()]


PARAMETERS: tuple[Parameter, ...] = (*_declared(StepParameters), *_declared(RequestParameters))
NAMES = tuple(parameter.name for parameter in PARAMETERS)
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}
LOGARITHMIC = np.array([parameter.logarithmic for parameter in PARAMETERS])
STEP_COUNT = len(StepParameters._fields)
"""How many of PARAMETERS are of a step; the others are of a request."""


class Parameters(NamedTuple):
    """A value for every parameter, as the replay takes them."""

    step: StepParameters
    request: RequestParameters
    pauses: Pauses = NO_PAUSES
    """Of the server's front end; those of one server are no parameter of its kind."""

    @classmethod
    def of(cls, values: Floats) -> Parameters:
        """From values (parameters,) in the order of PARAMETERS."""
        numbers = [float(value) for value in values]
        return cls(StepParameters(*numbers[:STEP_COUNT]), RequestParameters(*numbers[STEP_COUNT:]))

    def paced(self, pace: float) -> Parameters:
        """The same on a server whose steps take `pace` times as long."""
        return Parameters(self.step.scaled(pace), self.request, self.pauses)


TINY = 1e-300
"""The logarithm of a correction of 0 is taken of this."""


def to_coordinates(values: Floats) -> Floats:
    """Parameter values (parameters,) -> the coordinates the fit moves in: logarithms of corrections."""
    return np.where(LOGARITHMIC, np.log(np.where(LOGARITHMIC, np.maximum(values, TINY), 1.0)), values)


def from_coordinates(x: Floats) -> Floats:
    """The inverse of `to_coordinates`."""
    return np.where(LOGARITHMIC, np.exp(np.where(LOGARITHMIC, x, 0.0)), x)


PRIOR_VALUES = np.array([parameter.prior for parameter in PARAMETERS])
PRIOR_SD = np.array([parameter.sd for parameter in PARAMETERS])
BETWEEN_SD = np.array([parameter.between_sd for parameter in PARAMETERS])
NEUTRAL_VALUES = np.array([parameter.neutral for parameter in PARAMETERS])
LOWER = to_coordinates(np.array([parameter.lower for parameter in PARAMETERS]))
UPPER = to_coordinates(np.array([parameter.upper for parameter in PARAMETERS]))
