"""Kernels of a GPU that has no measured relative: typical shares of its datasheet's rates, and launches."""

from __future__ import annotations

import numpy as np

from roofml.hardware.fabric import ALLREDUCE_SD, allreduce_tables
from roofml.hardware.gpu import Gpu
from roofml.hardware.ideal import FLOOR_US, ideal_us
from roofml.hardware.kernel_tables import STANDS_IN, GemmTable, Rows
from roofml.hardware.kernels import Efficiency

ARITHMETIC = 0.55
"""Share of the peak rate in large products: 0.8 to 0.97 of NVIDIA's GPUs, 0.45 to 0.65 reported of other makers'."""
READING = 0.75
"""Share of the bandwidth in products that read weights."""
EXPERTS = 0.5
"""Share of the roofline in fused experts."""
PREFILL_ATTENTION = 0.35
DECODE_ATTENTION = 0.65
TYPICAL_SD = 0.4
"""Relative standard deviation of a time by these shares: a guess, for no kernel was measured."""
TOKENS = np.array([1.0, 16, 64, 256, 1024, 4096])
SIZES = np.array([256.0, 1024, 4096, 16384])
SOURCE = "typical shares of the datasheet"


def typical_kernels(gpu: Gpu) -> Efficiency:
    """Kernels at these shares; all-reduces from latency and bandwidth."""
    n, k = SIZES[:, None, None], SIZES[None, :, None]
    slowdown: dict[str, np.ndarray] = {}
    dtypes = [dtype for dtype in (STANDS_IN, "fp8", "int8") if dtype in gpu.flops_per_us]
    for dtype in dtypes:
        ideal = ideal_us(gpu, dtype, TOKENS, 1.0, n * k)
        reading = ideal_us(gpu, dtype, np.zeros(1), 1.0, n * k)
        slower = np.maximum(ideal / np.where(ideal > reading, ARITHMETIC, READING), reading / READING)
        slowdown[dtype] = np.maximum.accumulate(FLOOR_US["gemm"] + slower, axis=2) / ideal
    about = {"source": SOURCE, "gpu": gpu.name, "sd": "0.1"}

    def rows(name: str, dtypes: list[str], sizes: list[float], values: list[float]) -> Rows:
        count = len(dtypes)
        return Rows(f"{SOURCE}: {name}", about, tuple(dtypes), np.tile(sizes, (count, 1)), np.tile(values, (count, 1)))

    sizes, times = allreduce_tables(gpu)
    launch = FLOOR_US["attention"]
    return Efficiency(
        gemm=GemmTable(TOKENS, SIZES, SIZES, slowdown, 0.1, SOURCE),
        moe=rows("moe", dtypes, [128.0, 8, 4096, 1536], [EXPERTS] * len(TOKENS)),
        moe_tokens=TOKENS,
        prefill_attention_rows=rows("prefill_attention", [STANDS_IN], [32.0, 8, 128], [PREFILL_ATTENTION]),
        decode_attention_rows=rows(
            "decode_attention", [STANDS_IN, "fp8"], [32.0, 8, 128], [launch, 0.0, DECODE_ATTENTION, 0.1]
        ),
        latent_prefill_rows=None,
        latent_decode_rows=None,
        allreduce_bytes=sizes,
        allreduce_us=times,
        source=SOURCE,
        variances={f"no kernel of {gpu.name} or a relative was measured: {SOURCE}": TYPICAL_SD**2},
        allreduce_sd=ALLREDUCE_SD,
    )
