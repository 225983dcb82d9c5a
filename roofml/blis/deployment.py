"""BlisDeployment: the model, GPU and parallelism that a BLIS step time is about, and what BLIS refuses of it.

Source: sim/latency/{config,latency,trained_physics_model,moe_comm_backend}.go of inference-sim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from roofml.blis.model_view import BlisModel, blis_model
from roofml.hardware.gpu import Gpu, load_gpu
from roofml.models.spec import config_path
from roofml.traces.run import Run
from roofml.util.errors import InputError

BACKENDS = ("trained-physics", "roofline")
ALL_GATHER = ("naive", "allgather_reducescatter")
ALL_TO_ALL = ("pplx", "deepep_high_throughput", "deepep_low_latency", "mori", "flashinfer_all2allv")
MIN_ALPHAS, MIN_BETAS, MAX_BETAS = 3, 7, 11


@dataclass(frozen=True)
class Hardware:
    """One entry of `hardware_config.json`. Rates in TFLOP/s and TB/s, dense; the MFUs are used by `roofline` alone."""

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
"""The entries BLIS ships: betas for these GPUs are fitted on its numbers, not on ours, for it will multiply its own."""


def hardware_of(gpu: Gpu) -> Hardware:
    """The entry BLIS ships for `gpu`, else one from its datasheet."""
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
    """What BLIS is told by `--model`, `--hardware`, `--tp`, `--dp` and `--moe-comm-backend`."""

    model: BlisModel
    hardware: Hardware
    tp: int
    dp: int = 1
    moe_comm_backend: str = "allgather_reducescatter"

    @property
    def expert_group(self) -> int:
        """GPUs that the routed experts are spread over: TP·DP of a mixture, TP of a dense model."""
        return self.tp * self.dp if self.model.is_moe else self.tp

    @property
    def flops_per_us(self) -> float:
        """Peak matrix rate BLIS divides by, FLOP/µs: FP8 for weights of exactly one byte where the GPU has it."""
        fp8 = self.model.weight_bytes == 1.0 and self.hardware.tflops_fp8 > 0
        return (self.hardware.tflops_fp8 if fp8 else self.hardware.tflops_peak) * 1e6

    @property
    def bytes_per_us(self) -> float:
        """Peak memory bandwidth, bytes/µs."""
        return self.hardware.bandwidth_tb_per_s * 1e6


def check_deployment(deployment: BlisDeployment, backend: str = "trained-physics") -> None:
    """Raise InputError for what BLIS would refuse, or panic on, naming the field of the config or the flag."""
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
    known = (*ALL_GATHER, *ALL_TO_ALL)
    if deployment.moe_comm_backend not in known:
        raise InputError(f"moe comm backend {deployment.moe_comm_backend!r}: expected one of {', '.join(known)}")


def validate_coefficients(
    alphas: Sequence[float], betas: Sequence[float], backend: str = "trained-physics", where: str = "coefficients"
) -> None:
    """Raise InputError, beginning with `where`, for a set that BLIS would refuse: too few, NaN, infinite or negative.

    More than 3 alphas or 11 betas are ignored by BLIS but must still be valid; -0 is; `roofline` has no betas.
    """
    lists = {"alpha_coeffs": (alphas, MIN_ALPHAS)}
    if backend == "trained-physics":
        lists["beta_coeffs"] = (betas, MIN_BETAS)
    for field, (values, least) in lists.items():
        if len(values) < least:
            raise InputError(f"{where}: {field}: expected at least {least} numbers, found {len(values)}")
        for index, value in enumerate(values):
            if not math.isfinite(value) or value < 0:
                raise InputError(f"{where}: {field}[{index}]: expected a finite number >= 0, found {value:g}")


@dataclass(frozen=True)
class BlisCoefficients:
    """A set in the one form we write: 3 alphas and 11 betas, all valid to BLIS. Made by `BlisCoefficients.of`."""

    alphas: tuple[float, float, float]
    """α0 arrival to queue, α1 at completion, α2 per output token; µs. BLIS truncates each to an integer."""
    betas: tuple[float, ...]
    """β1 .. β11 in the order of `steptime.BETA_NAMES`."""

    def __post_init__(self) -> None:
        """Refuse what BLIS would not take."""
        validate_coefficients(self.alphas, self.betas)
        counts = (len(self.alphas), len(self.betas))
        if counts != (MIN_ALPHAS, MAX_BETAS):
            raise InputError(f"coefficients: expected 3 alphas and 11 betas, found {counts[0]} and {counts[1]}")

    @classmethod
    def of(cls, alphas: Sequence[float], betas: Sequence[float], where: str = "coefficients") -> BlisCoefficients:
        """From a set as BLIS accepts it. With fewer than 10 betas it is another formula, which 11 cannot say."""
        validate_coefficients(alphas, betas, where=where)
        if len(betas) < 10:
            raise InputError(f"{where}: beta_coeffs: expected 10 or 11 numbers, found {len(betas)}")
        eleven = [*betas, betas[3]] if len(betas) == 10 else betas
        first, second, third = (abs(float(value)) for value in alphas[:3])
        return cls((first, second, third), tuple(abs(float(value)) for value in eleven[:MAX_BETAS]))


def blis_deployment_of(run: Run) -> BlisDeployment:
    """The run's model, GPU and tensor parallel size as BLIS sees them. Raises InputError without a GPU."""
    server = run.server
    if server.gpu is None:
        raise InputError(f"{run.name}: the run does not say its GPU: give --gpu")
    path = config_path(server.model)
    model = blis_model(json.loads(path.read_text("utf-8")), path.parent.name)
    return BlisDeployment(model, hardware_of(load_gpu(server.gpu)), server.tensor_parallel)
