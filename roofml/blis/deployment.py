"""The model, GPU and parallelism that BLIS computes step times for, and the inputs that BLIS refuses.

Source: sim/latency/{config,latency,trained_physics_model,moe_comm_backend}.go of inference-sim.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from roofml.blis.model_view import BlisModel, blis_model
from roofml.hardware.gpu import Gpu, load_gpu
from roofml.models.spec import config_path
from roofml.traces.run import Run
from roofml.util.errors import InputError
from roofml.util.reading import read_json_object

BACKENDS = ("trained-physics", "roofline")
ALL_GATHER = ("naive", "allgather_reducescatter")
ALL_TO_ALL = ("pplx", "deepep_high_throughput", "deepep_low_latency", "mori", "flashinfer_all2allv")
MIN_ALPHAS, MIN_BETAS, MAX_BETAS = 3, 7, 11


@dataclass(frozen=True)
class Hardware:
    """One entry of `hardware_config.json`: dense rates in TFLOP/s, bandwidth in TB/s. Only `roofline` uses the MFUs."""

    tflops_peak: float
    bandwidth_tb_per_s: float
    tflops_fp8: float = 0.0
    """0 where the GPU has no FP8 matrix units."""
    mfu_prefill: float = 0.45
    mfu_decode: float = 0.30
    memory_gib: float = 80.0


SHIPPED_HARDWARE = {
    "H100": Hardware(989.5, 3.35, 1979.0, 0.45, 0.30, 80.0),
    "A100-SXM": Hardware(312.0, 2.039, 0.0, 0.38, 0.18, 80.0),
    "L40S": Hardware(362.05, 0.864, 1466.0, 0.32, 0.08, 48.0),
}
"""The entries that BLIS ships. BLIS multiplies these numbers, so betas for these GPUs are fitted on them."""


def hardware_of(gpu: Gpu) -> Hardware:
    """Return the entry that BLIS ships for `gpu`, or one made from its datasheet."""
    shipped = SHIPPED_HARDWARE.get(gpu.name)
    if shipped is not None:
        return shipped
    fp8 = max((rate for dtype, rate in gpu.flops_per_us.items() if "fp8" in dtype or "float8" in dtype), default=0.0)
    return Hardware(
        tflops_peak=gpu.flops_per_us["bfloat16"] / 1e6,
        bandwidth_tb_per_s=gpu.bandwidth_bytes_per_us / 1e6,
        tflops_fp8=fp8 / 1e6,
        memory_gib=gpu.memory_bytes / 2**30,
    )


@dataclass(frozen=True)
class BlisDeployment:
    """A deployment as `--model`, `--hardware`, `--tp`, `--dp` and `--moe-comm-backend` describe it to BLIS."""

    model: BlisModel
    hardware: Hardware
    tp: int
    dp: int = 1
    moe_comm_backend: str = "allgather_reducescatter"

    @property
    def expert_group(self) -> int:
        """GPUs that share the routed experts: TP·DP for a mixture of experts, TP for a dense model."""
        return self.tp * self.dp if self.model.is_moe else self.tp

    @property
    def flops_per_us(self) -> float:
        """Peak matrix rate that BLIS divides by, FLOP/µs: FP8 if a weight has exactly one byte and the GPU has FP8."""
        fp8 = self.model.weight_bytes == 1.0 and self.hardware.tflops_fp8 > 0
        return (self.hardware.tflops_fp8 if fp8 else self.hardware.tflops_peak) * 1e6

    @property
    def bytes_per_us(self) -> float:
        """Peak memory bandwidth, bytes/µs."""
        return self.hardware.bandwidth_tb_per_s * 1e6


def check_deployment(deployment: BlisDeployment, backend: str = "trained-physics") -> None:
    """Raise InputError for a deployment that BLIS would refuse or panic on. The message names the field or the flag."""
    model, tp, name = deployment.model, deployment.tp, deployment.model.name
    if backend not in BACKENDS:
        raise InputError(f"latency model {backend!r}: expected one of {', '.join(BACKENDS)}")
    if tp < 1:
        raise InputError(f"{name}: tensor parallel size {tp}: expected at least 1")
    if deployment.dp < 1:
        raise InputError(f"{name}: data parallel size {deployment.dp}: expected at least 1")
    if deployment.dp > 1 and not model.is_moe:
        raise InputError(f"{name}: data parallel size {deployment.dp}: BLIS accepts more than 1 for MoE models only")
    positive: dict[str, float] = {
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "hidden_size": model.hidden_size,
        "torch_dtype (bytes)": model.dtype_bytes,
        "TFlopsPeak": deployment.hardware.tflops_peak,
        "BwPeakTBs": deployment.hardware.bandwidth_tb_per_s,
    }
    if backend == "trained-physics":
        positive["intermediate_size"] = model.intermediate_size
    else:
        positive["mfuPrefill"] = deployment.hardware.mfu_prefill
        positive["mfuDecode"] = deployment.hardware.mfu_decode
    for field, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}: {field}: BLIS expects a positive number, found {value:g}")
    if model.is_moe and model.experts_per_token < 1:
        raise InputError(f"{name}: num_experts_per_tok: BLIS expects at least 1 of {model.experts} experts")
    if backend == "roofline":
        return
    sizes = {"num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads or model.heads}
    for field, size in sizes.items():
        if size % tp:
            raise InputError(f"{name}: {field} {size} does not divide by tensor parallel size {tp}, as BLIS requires")
    backends = (*ALL_GATHER, *ALL_TO_ALL)
    if deployment.moe_comm_backend not in backends:
        raise InputError(f"moe comm backend {deployment.moe_comm_backend!r}: expected one of {', '.join(backends)}")


def validate_coefficients(
    alphas: Sequence[float], betas: Sequence[float], backend: str = "trained-physics", source: str = "coefficients"
) -> None:
    """Raise InputError for coefficients that BLIS would refuse: too few, NaN, infinite or negative.

    The message begins with `source`. BLIS ignores alphas after the third and betas after the eleventh, but refuses them
    too if they are invalid. It accepts -0. `roofline` has no betas.
    """
    lists = {"alpha_coeffs": (alphas, MIN_ALPHAS)}
    if backend == "trained-physics":
        lists["beta_coeffs"] = (betas, MIN_BETAS)
    for field, (values, least) in lists.items():
        if len(values) < least:
            raise InputError(f"{source}: {field}: expected at least {least} numbers, found {len(values)}")
        for index, value in enumerate(values):
            if not 0 <= value <= sys.float_info.max:
                found = f"{value:g}" if isinstance(value, float) else str(value)[:40]
                raise InputError(f"{source}: {field}[{index}]: expected a finite number >= 0, found {found}")


@dataclass(frozen=True)
class BlisCoefficients:
    """Coefficients in the form that we write: 3 alphas and 11 betas, all valid to BLIS. `of` accepts other counts."""

    alphas: tuple[float, float, float]
    """α0 from arrival to the queue, α1 at completion, α2 per output token; µs. BLIS truncates each to an integer."""
    betas: tuple[float, ...]
    """β1 .. β11 in the order of `latency.BETA_NAMES`."""

    def __post_init__(self) -> None:
        """Raise InputError for coefficients that BLIS would refuse, and for other counts than 3 and 11."""
        validate_coefficients(self.alphas, self.betas)
        counts = (len(self.alphas), len(self.betas))
        if counts != (MIN_ALPHAS, MAX_BETAS):
            raise InputError(f"coefficients: expected 3 alphas and 11 betas, found {counts[0]} and {counts[1]}")

    @classmethod
    def of(cls, alphas: Sequence[float], betas: Sequence[float], source: str = "coefficients") -> BlisCoefficients:
        """Make 3 alphas and 11 betas from coefficients that BLIS accepts. `source` begins an error's message.

        Raises InputError for fewer than 10 betas: BLIS then computes another formula, which 11 betas cannot express.
        """
        validate_coefficients(alphas, betas, source=source)
        if len(betas) < 10:
            raise InputError(f"{source}: beta_coeffs: expected 10 or 11 numbers, found {len(betas)}")
        all_betas = [*betas, betas[3]] if len(betas) == 10 else betas
        queueing, completion, per_token = (abs(float(alpha)) for alpha in alphas[:3])
        return cls((queueing, completion, per_token), tuple(abs(float(beta)) for beta in all_betas[:MAX_BETAS]))


def blis_deployment_of(run: Run) -> BlisDeployment:
    """Return the run's model, GPU and tensor parallel size as BLIS sees them. Raises InputError without a GPU."""
    server = run.server
    if server.gpu is None:
        raise InputError(f"{run.name}: the run does not say its GPU: give --gpu")
    path = config_path(server.model)
    model = blis_model(read_json_object(path), path.parent.name)
    return BlisDeployment(model, hardware_of(load_gpu(server.gpu)), server.tensor_parallel)
