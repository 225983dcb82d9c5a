"""The page of GPUs: what each sheet says, and whose kernels it goes by. A Markdown page.

python benchmarks/gpu_pages.py > docs/gpus.md
"""

from __future__ import annotations

from roofml.hardware.gpu import Gpu, load_gpu
from roofml.hardware.load_kernels import load_efficiency
from roofml.util.package_data import data_folder

HEAD = """# GPUs

Made by `python benchmarks/gpu_pages.py`. Sheets lie in `hardware/`, one file a GPU; [provenance](provenance.md) has
the source of each, and says where a number was not confirmed. `--gpu` takes a name in any spelling that drivers,
clouds and benchmarks use: `H100-SXM5-80GB`, `h100_sxm` and `NVIDIA H100 80GB HBM3` are one. An unknown name is
refused with the nearest ones.

`RTX PRO 6000` is the Server Edition, as in tables and benchmarks. `MI250` is the whole card; engines see its two dies
as two devices (`MI250-GCD`), and benchmarks that count cards serve Llama-2-70B on two. `Max-1550` is the whole card
too. V100 and T4 have no bfloat16, on which every table stands, and are not here.

**Kernels.** A GPU without measured kernels goes by those of a relative (`kernels_of` in its sheet): t_B = f + (t_A -
f)·ideal_B/ideal_A, where the launch's floor f stays (products 3 µs, experts 10, attention 8). This adds a standard
deviation of 10 % within a generation and of 30 % to another one or from HBM to GDDR; steps add up. AMD's and Intel's
GPUs have no measured relative: typical shares of the datasheet stand in, at ±40 %. `roofml bench measure` replaces
both. The uncertainty is common to all kernels of a deployment, widens every interval and is said in a line.

**All-reduces** never cross fabrics: they are the relative's only within a kind, over links of the same speed that are
not PCIe. Else they take a latency and a ring's bytes at 70 % of the links' bandwidth (PCIe: 50 %), ±40 %.

**Types that a GPU lacks.** NVFP4 before Blackwell and FP8 on Ampere run weight-only, as vLLM serves them (Marlin): the
weights' bytes, and products in bfloat16. `predict` and `inspect` say so in a line. The same is assumed of other makers'
GPUs, whether their engine has such a kernel or not.

| GPU | bf16, fp8, fp4 TFLOP/s | TB/s | GiB | link GB/s | kernels | sd |
|---|---|---|---|---|---|---|"""


def row(gpu: Gpu) -> str:
    """One GPU."""
    rates = ", ".join(
        f"{gpu.flops_per_us[dtype] / 1e6:g}" if dtype in gpu.flops_per_us else "-"
        for dtype in ("bfloat16", "fp8", "fp4")
    )
    variance = sum(load_efficiency(gpu).variances.values())
    sd = f"{100 * variance**0.5:.0f} %" if variance else ""
    kernels = (gpu.kernels_of if variance else "") or "measured"
    return (
        f"| {gpu.name} | {rates} | {gpu.bandwidth_bytes_per_us / 1e6:g} | {gpu.memory_bytes / 2**30:g} "
        f"| {gpu.interconnect_bytes_per_us / 1e3:g} | {kernels} | {sd} |"
    )


def main() -> None:
    """Print the page."""
    print(HEAD)
    for sheet in sorted(data_folder("hardware").glob("*.yaml")):
        print(row(load_gpu(sheet.stem)))


if __name__ == "__main__":
    main()
