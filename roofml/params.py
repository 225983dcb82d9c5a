"""Every fitted parameter once: name, unit, bound, prior, what it means. Transforms, YAML, reports and docs derive from here.

Priors come from kernel measurements and vLLM's structure, not from the traces we are judged on. A correction's prior is
log-normal (its `sd` is relative), any other parameter's is normal within its bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from roofml.replay import RequestParameters
from roofml.steptime import StepParameters

Group = Literal["corrections", "overheads_us", "blend", "request"]


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

    @property
    def logarithmic(self) -> bool:
        """Whether the fit moves the parameter's logarithm."""
        return self.group == "corrections"


def _correction(name: str, sd: float, meaning: str) -> Parameter:
    return Parameter(name, "corrections", "", 0.05, 20.0, 1.0, sd, meaning)


PARAMETERS: tuple[Parameter, ...] = (
    _correction("prefill_gemm", 0.3, "GEMM time that prefill tokens add"),
    _correction("decode_gemm", 0.3, "GEMM time of decode tokens"),
    _correction("prefill_attention", 0.5, "arithmetic of prefill attention"),
    _correction("decode_attention", 0.5, "arithmetic of decode attention"),
    _correction("weights", 0.1, "reading the weights"),
    _correction("kv_cache", 0.15, "reading and writing keys and values"),
    _correction("communication", 0.3, "all-reduces of tensor parallelism"),
    Parameter("per_layer_us", "overheads_us", "µs", 0.0, 500.0, 25.0, 10.0, "norms, rotary, activation and launch gaps"),
    Parameter("per_step_us", "overheads_us", "µs", 0.0, 20000.0, 500.0, 500.0, "sampler and CPU work that is not hidden"),
    Parameter("mixed_step_us", "overheads_us", "µs", 0.0, 20000.0, 300.0, 300.0, "a step with prefill leaves the CUDA graph"),
    Parameter("per_request_us", "overheads_us", "µs", 0.0, 1000.0, 3.0, 3.0, "input preparation and bookkeeping"),
    Parameter("cpu_floor_us", "overheads_us", "µs", 0.0, 100000.0, 1000.0, 500.0, "the CPU's own loop"),
    Parameter("max_weight", "blend", "", 0.0, 1.0, 0.9, 0.1, "1: the longer of compute and memory; 0: their sum"),
    Parameter("queueing_us", "request", "µs", 0.0, 1e6, 7000.0, 3000.0, "from send to the scheduler's queue"),
    Parameter("queueing_per_running_us", "request", "µs", 0.0, 1e4, 30.0, 20.0, "added to it per running request"),
    Parameter("output_us", "request", "µs", 0.0, 1e6, 1000.0, 500.0, "from the end of a step to the client"),
)
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}
assert tuple(p.name for p in PARAMETERS) == StepParameters._fields + RequestParameters._fields
