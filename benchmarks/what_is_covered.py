"""What is covered, and how well: model class x GPU x precision, with the accuracy on measured points of each: Markdown.

python benchmarks/what_is_covered.py POINTS.csv > docs/coverage.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from roofml.calibration.calibrate import uncalibrated
from roofml.hardware.gpu import TYPICAL, load_gpu
from roofml.hardware.load_kernels import load_kernels
from roofml.latency.batch import Batch
from roofml.latency.deployment import deploy
from roofml.latency.feasibility import check_step
from roofml.models.load import load_model
from roofml.models.operations import StateOp
from roofml.models.spec import ModelSpec
from roofml.util.errors import InputError
from roofml.validation.points.evaluation import evaluate_points
from roofml.validation.points.judge import JudgedPoint, figures_of
from roofml.validation.points.point import read_points

GPUS = (
    *("A100-SXM", "H100", "H200", "B200", "GB200", "L40S", "RTX-PRO-6000-Server"),
    *("H20", "RTX-4090", "MI300X"),
)
MODELS = (
    *("llama-3.1-8b-instruct", "gemma-3-27b-it", "qwen3-235b-a22b", "gpt-oss-120b", "llama-4-scout-17b-16e-instruct"),
    *("deepseek-r1", "deepseek-v3.2", "deepseek-v4-flash", "qwen3-next-80b-a3b-instruct"),
    *("nvidia-nemotron-3-nano-30b-a3b-bf16", "kimi-linear-48b-a3b-instruct"),
)
"""One of each class."""
PRECISIONS = (None, "bf16", "fp8", "fp8_block", "nvfp4", "int4")
STEP = Batch(decode=[(2048, 32)])
"""The step whose interval is shown: 32 decodes at 2,048 tokens."""
SIZES = (1, 2, 4, 8)
INTRODUCTION = """Made by `python benchmarks/what_is_covered.py POINTS.csv > docs/coverage.md`. Each cell says whose
kernels price a deployment without a trace, and half the 90 % interval of a decode step (32 requests at 2,048 tokens) at
the smallest tensor parallel size that holds the model: **measured** (the GPU's own tables), **other format** (its own
tables, of another format of weights), **neighbour** (another GPU's, [how](gpus.md)), **physics** (typical shares of the
datasheet), **refused** (cannot be spread so), **too big** (for eight GPUs). *own*: as the config has it.
"""
ACCURACY = """
## Accuracy on measured points

`roofml evaluate --points` on operating points that others published ([how](points.md)); those of old engines and of
doubtful quality stand apart. Errors of TPOT and E2E are the mean, of TTFT the median; bias is the median signed error
of TPOT, or of E2E; inside: the share inside the 90 % interval.

| class | GPU | precision | quality | points | answered | TPOT | inside | TTFT | inside | E2E | inside | bias |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""
OWN = "own"
"""The precision that the config itself has."""


def class_of(model: ModelSpec) -> str:
    """What kind of layers a model has, in a few words."""
    kinds: list[str] = []
    for op in model.mixers(1):
        if isinstance(op, StateOp):
            kinds.append({"gdn": "gated delta rule", "kda": "Kimi delta", "mamba2": "Mamba 2"}.get(op.scan, op.scan))
        elif op.compression > 1:
            kinds.append("merged entries")
        elif op.top_k:
            kinds.append("indexer")
        elif op.name == "latent_attention":
            kinds.append("latent attention")
        elif op.chunk:
            kinds.append("chunks")
        elif op.window:
            kinds.append("windows")
        else:
            kinds.append("attention")
    mixture = any(gemm.experts for gemm in model.gemms(1))
    return ", ".join(dict.fromkeys(kinds)) + (", experts" if mixture else "")


def kernels_of(gpu_name: str, kernel: str) -> str:
    """Whose kernels price a format on a GPU: its own, those of another format or GPU, or typical shares."""
    gpu = load_gpu(gpu_name)
    kernels = load_kernels(gpu)[0]
    if gpu.kernels_of == TYPICAL:
        return "physics"
    if kernels.variances:
        return "neighbour"
    return "measured" if kernel in kernels.gemm.slowdown else "other format"


def cell(model: str, gpu: str, precision: str | None) -> str:
    """The state of one deployment, at the smallest tensor parallel size that holds it."""
    reason = ""
    for tp in SIZES:
        try:
            check_step(load_model(model, precision), load_gpu(gpu), tp, STEP)
            deployment = deploy(model, gpu, tp, precision=precision)
        except InputError as error:
            reason = str(error)
            continue
        ends = uncalibrated(deployment).step_time(STEP).total.interval_90
        kernel = max(deployment.model.gemms(tp), key=lambda gemm: gemm.resident_bytes).kernel
        assert ends is not None
        half = 100 * ((ends[1] / ends[0]) ** 0.5 - 1)
        return f"{kernels_of(gpu, kernel)} ±{half:.0f} % (TP {tp})"
    return "too big" if "not fit" in reason else "refused"


def main() -> None:
    """Print the page."""
    print("# What is covered\n")
    print(INTRODUCTION)
    for model in MODELS:
        spec = load_model(model)
        print(f"\n## {class_of(spec)}: {model}\n")
        print("| precision | " + " | ".join(GPUS) + " |\n|---|" + "---|" * len(GPUS))
        for precision in PRECISIONS:
            cells: list[str] = []
            for gpu in GPUS:
                cells.append(cell(model, gpu, precision))
            if set(cells) != {"refused"}:
                print(f"| {precision or OWN} | " + " | ".join(cells) + " |")
    if len(sys.argv) > 1:
        print_accuracy(Path(sys.argv[1]))


def print_accuracy(path: Path) -> None:
    """The accuracy on measured points by class, GPU and precision."""
    judged = evaluate_points(read_points(path)).points
    groups: dict[tuple[str, str, str, str], list[JudgedPoint]] = {}
    for point in judged:
        one = point.answer.point
        try:
            kind = class_of(load_model(one.model, one.precision if "+" not in (one.precision or "") else None))
        except InputError:
            kind = "not known"
        quality = "good" if point.good else "apart"
        groups.setdefault((kind, one.gpu, one.precision or OWN, quality), []).append(point)
    print(ACCURACY)
    for cell_of, points in sorted(groups.items()):
        print("| " + " | ".join((*cell_of, *row(points))) + " |")


def row(points: Sequence[JudgedPoint]) -> list[str]:
    """Figures of some points, as cells."""
    figures = figures_of(points)

    def shown(value: float) -> str:
        return f"{value:.0f} %" if value == value else ""

    def inside(kind: str) -> str:
        return shown(100 * figures.covered.get(kind, float("nan")))

    return [
        *(str(figures.points), str(figures.answered)),
        *(shown(figures.tpot), inside("tpot")),
        *(shown(figures.ttft_median), inside("ttft")),
        *(shown(figures.e2e), inside("e2e")),
        shown(figures.bias),
    ]


if __name__ == "__main__":
    main()
