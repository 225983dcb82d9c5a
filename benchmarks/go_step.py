"""How long our formula takes in Go for a step of 128 requests, beside BLIS's own form, and how near it is to Python.

    python benchmarks/go_step.py FOLDER

Writes into FOLDER a stand-in for a BLIS checkout (tests/data/blis_stub) with our package and BLIS's `trained-physics`
form, written from its description. Its step times are first held against our Python of BLIS, so that what is timed is
BLIS's arithmetic. Then 20 random runs, five of each model, are replayed in Go and held against ours.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from go_compiler import go_passes

from roofml.blis.deployment import BlisDeployment, hardware_of
from roofml.blis.latency import BlisSteps, step_times_us
from roofml.blis.model_view import blis_model
from roofml.export.go.artifact import Artifact, read_artifact
from roofml.export.go.golden import golden_text
from roofml.export.go.package import GoPackage
from roofml.export.go.places import in_checkout
from roofml.models.spec import config_path

ROOT = Path(__file__).resolve().parents[1]
ALPHAS = (9315.3, 1849.6, 1.7)
BETAS = (0.77, 1.13, 1.06, 0.5, 43.5, 48.8, 100.0, 0.0, 0.9, 1.2, 0.5)
"""Any coefficients: they change no operation."""
DECODES = [(700, 228, 700 + i, 1) for i in range(128)]
MIXED = [*((700, 227, 700 + i, 1) for i in range(127)), (576, 10, 64, 512)]
"""Prompt, output, context, new tokens: the batches of bench_test.go."""
RUNS = 5


def main() -> None:
    """Export, check, measure and print."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1]) / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "data" / "blis_stub", folder)
    artifacts = [read_artifact(path) for path in sorted((ROOT / "coeffs").glob("*-tp*.yaml"))]
    GoPackage(artifacts, in_checkout(folder)).write()
    for name in ("trained_physics.go", "bench_test.go"):
        shutil.copy(ROOT / "benchmarks" / "go" / name, folder / "sim" / "latency" / name)
    print(
        f"{'model':32} {'batch':8} {'roofml':>8} {'trained-physics':>16}   ns of the processor, a step of 128 requests"
    )
    for artifact in artifacts:
        for kind, (ours, trained) in measured(folder, artifact).items():
            print(f"{artifact.name:32} {kind:8} {ours:8.0f} {trained:16.0f}")
    for number, artifact in enumerate(artifacts):
        path = folder / "sim" / "roofml" / "testdata" / f"golden-{artifact.name}.json"
        path.write_text(golden_text(artifact.name, artifact.calibration, runs=RUNS, seed=100 + number))
    go_passes(folder, "test", "-count=1", "-run", "AreThoseOfRoofml", "./sim/roofml")
    print(f"step times of golden batches, and all latencies of {RUNS * len(artifacts)} random runs: ours to 1e-9")


def measured(folder: Path, artifact: Artifact) -> dict[str, tuple[float, float]]:
    """Kind of batch -> nanoseconds of the processor, ours and BLIS's form, each the best of three."""
    deployment = artifact.calibration.deployment
    blis = BlisDeployment(
        blis_model(json.loads(config_path(deployment.model.name).read_text()), deployment.model.name),
        hardware_of(deployment.gpu),
        deployment.tp,
    )
    numbers = folder / "trained_physics.json"
    numbers.write_text(json.dumps(numbers_of(blis)))
    shown = go_passes(
        folder, "test", "-run", "^$", "-bench", "StepTime", "-benchtime", "200ms", "-count", "3", "./sim/latency",
        ROOFML_TRAINED_PHYSICS=str(numbers), ROOFML_MODEL=deployment.model.name, ROOFML_GPU=deployment.gpu.name,
        ROOFML_TP=str(deployment.tp),
    )  # fmt: skip
    rows = re.findall(
        r"BenchmarkStepTime/([\w-]+)/(\w+?)(?:-\d+)?\s+\d+\s+[\d.e+]+ ns/op\s+([\d.e+]+) cpu_ns\s+([\d.]+) step_us",
        shown,
    )
    times: dict[tuple[str, str], float] = {}
    for model, kind, nanoseconds, us in rows:
        times[model, kind] = min(float(nanoseconds), times.get((model, kind), float("inf")))
        if model == "trained-physics":
            expected = step_times_us(blis, BlisSteps.from_batches([DECODES if kind == "decodes" else MIXED]), BETAS)[0]
            assert abs(float(us) - expected) <= 1, f"{artifact.name} {kind}: {us} µs, our Python of BLIS: {expected}"
    return {kind: (times["roofml", kind], times["trained-physics", kind]) for kind in ("decodes", "mixed")}


def numbers_of(blis: BlisDeployment) -> dict[str, object]:
    """What trained_physics.go reads."""
    model = blis.model
    return {
        "Layers": model.layers, "Hidden": model.hidden_size, "Heads": model.heads, "KvHeads": model.kv_heads,
        "Intermediate": model.expert_width or model.intermediate_size, "Experts": model.experts,
        "TopK": model.experts_per_token, "WeightBytes": model.weight_bytes, "DtypeBytes": model.dtype_bytes,
        "Tp": blis.tp, "FlopsPerUs": blis.flops_per_us, "BytesPerUs": blis.bytes_per_us,
        "Alphas": ALPHAS, "Betas": BETAS,
    }  # fmt: skip


if __name__ == "__main__":
    main()
