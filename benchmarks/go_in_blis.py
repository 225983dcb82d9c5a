"""What our formula is worth as a backend of BLIS: public runs served by BLIS's loop in Go, with our adapter's times.

    python benchmarks/go_in_blis.py FOLDER RUN...

BLIS's loop is written from its description (benchmarks/go/served_test.go), without preemptions. It stands beside our
Python of BLIS, which is BLIS's to the microsecond: with the coefficients that `--target blis` fits, both give the same.
The same loop asks our adapter, beside our own replay: as it is, and of a server that is warm and not known to be faster
or slower than others, as BLIS has it; and once more at the pace of the run's own server. Errors of means against what
was measured, in per cent, over the requests to measure, with the coefficients that the package ships (fitted on these
runs).
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from go_compiler import go_passes
from go_step import numbers_of

from roofml.blis.deployment import blis_deployment_of
from roofml.blis.replay import for_blis
from roofml.blis.replay import replay as blis_replay
from roofml.calibration.calibrate import load_for_runs
from roofml.export.deployment import read_export
from roofml.export.go.artifact import read_artifact
from roofml.export.go.package import GoPackage
from roofml.export.go.places import in_checkout, in_folder
from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.util.arrays import Floats

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("our replay", "any warm server", "ours in BLIS", "at its pace", "trained-physics", "that in Python")


def main() -> None:
    """Export, serve and print."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1]) / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "data" / "blis_stub", folder)
    coeffs = {read_export(path).model.hf_repo: path for path in sorted((ROOT / "coeffs").glob("*-tp*.yaml"))}
    GoPackage([read_artifact(path) for path in coeffs.values()], in_checkout(folder)).write()
    for name in ("trained_physics.go", "served_test.go"):
        shutil.copy(ROOT / "benchmarks" / "go" / name, folder / "sim" / "latency" / name)
    print(f"{'':34}" + "".join(f"|{kind:^15}" for kind in KINDS))
    print(f"{'error of means, %':34}" + f"|{'TTFT':>8}{'E2E':>7}" * len(KINDS))
    rows: list[list[float]] = []
    for path in sys.argv[2:]:
        run = read_run(path, gpu="H100")
        row = errors(folder, run, coeffs[run.server.model])
        rows.append(row)
        print(f"{run.name[-34:]:34}{shown(row)}", flush=True)
    print(f"{'mean |error|':34}{shown([float(np.mean(np.abs(column))) for column in zip(*rows, strict=True)])}")


def shown(row: list[float]) -> str:
    """The columns of one row."""
    return "".join(f"|{ttft:8.2f}{e2e:7.2f}" for ttft, e2e in zip(row[::2], row[1::2], strict=True))


def errors(folder: Path, run: Run, coeffs: Path) -> list[float]:
    """Signed errors of mean TTFT and E2E, %, for each of KINDS."""
    calibration, (run,) = load_for_runs(coeffs, [run])
    ours = calibration.replay(run)
    any_server = replace(run, identity="any", server=replace(run.server, fresh=False))
    warm = calibration.replay(any_server)
    load: dict[str, object] = {
        "Model": calibration.deployment.model.name,
        "Gpu": calibration.deployment.gpu.name,
        "Tp": calibration.deployment.tp,
        "Seats": run.server.max_num_seqs,
        "Budget": run.server.max_num_batched_tokens,
        "Arrival": np.rint(run.arrival_us).astype(int).tolist(),
        "Prompt": run.prompt_tokens.tolist(),
        "Output": run.output_tokens.tolist(),
        "Cached": warm.schedule.cached_tokens.tolist(),
        "Blocks": run.server.num_gpu_blocks,
    }
    export, blis = read_export(coeffs), blis_deployment_of(run)
    alphas, betas = export.coefficients.alphas, export.coefficients.betas
    numbers = folder / "trained_physics.json"
    numbers.write_text(json.dumps({**numbers_of(blis), "Alphas": alphas, "Betas": [*betas, betas[3]][:11]}))
    trained = blis_replay(for_blis(run), blis, alphas, betas)
    return [
        *error(run, ours.ttft_us, ours.e2e_us),
        *error(run, warm.ttft_us, warm.e2e_us),
        *error(run, *served(folder, load)),
        *error(run, *served(folder, load, ROOFML_ARTIFACTS=str(paced(folder.parent / "paced", coeffs, run)))),
        *error(run, *served(folder, load, ROOFML_TRAINED_PHYSICS=str(numbers))),
        *error(run, trained.ttft_us, trained.e2e_us),
    ]


def paced(folder: Path, coeffs: Path, run: Run) -> Path:
    """A folder with the artifact of the run's own server (`--pace-of`)."""
    shutil.rmtree(folder, ignore_errors=True)
    GoPackage([read_artifact(coeffs, run.name)], in_folder(folder)).write()
    return folder.resolve() / "artifacts"


def error(run: Run, ttft: Floats, e2e: Floats) -> tuple[float, float]:
    """Of the requests to measure."""
    return (
        100 * (float(np.mean(ttft[run.ok])) / float(np.mean(run.ttft_us[run.ok])) - 1),
        100 * (float(np.mean(e2e[run.ok])) / float(np.mean(run.e2e_us[run.ok])) - 1),
    )


def served(folder: Path, load: dict[str, object], **environment: str) -> tuple[Floats, Floats]:
    """TTFT and E2E of a load in BLIS's loop, (requests,) each, µs."""
    place = folder / "load.json"
    place.write_text(json.dumps(load))
    go_passes(folder, "test", "-count=1", "-run", "TestServe", "./sim/latency", ROOFML_LOAD=str(place), **environment)
    answer = json.loads(place.read_text())
    if answer["MostBlocks"] > answer["Blocks"]:
        print(f"  (holds up to {answer['MostBlocks']} KV blocks of {answer['Blocks']}: BLIS would preempt)")
    return np.array(answer["TtftUs"], np.float64), np.array(answer["E2eUs"], np.float64)


if __name__ == "__main__":
    main()
