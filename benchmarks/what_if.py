"""How far calibrations are off that are carried to another deployment: what `roofml.planning.what_if.STEP_SD` rests on.

    roofml evaluate --points points.csv --json > points.json
    python benchmarks/what_if.py FOLDER points.json

Of the runs in FOLDER, those that are not saturated: every model's calibration, as the package ships it, is carried to
every other model's deployment, whose runs are served; how far mean TPOT is off, beside what physics says of it
without a trace. Half of the pairs have another tensor parallel size as well.

Of points: the median error of each model on each GPU of the same maker, and by how much two GPUs of one model differ
in it.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from roofml.calibration.calibrate import load, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.other_models import read_other_models
from roofml.engine.latency_model import judged_us
from roofml.planning.what_if import carried
from roofml.traces.read import read_runs
from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups
from roofml.traces.server import ServerOverrides
from roofml.util.package_data import data_folder

NVIDIA = ("H100", "H200", "B200", "GH200", "A100", "RTX", "L40S")
FEWEST = 8
"""Points of a cell that counts."""


def main(folder: Path, points: Path) -> None:
    """Print both tables."""
    paths = sorted(path for path in folder.iterdir() if path.is_dir())
    runs = [run for run in read_runs(paths, ServerOverrides(gpu="H100")) if not run.saturated]
    shipped = [load(path) for path in sorted(data_folder("coeffs").glob("*-h100-tp*.yaml"))]
    others = read_other_models()
    print("| to | from | TP | mean TPOT, carried | without a trace |")
    print("|---|---|---|---:|---:|", flush=True)
    off: dict[bool, list[float]] = {True: [], False: []}
    plain: list[float] = []
    for group in groups(runs):
        ours = next(each for each in shipped if each.deployment.hf_repo == group[0].server.model)
        physics = uncalibrated(ours.deployment)
        without = float(np.mean([_error(physics, run) for run in group]))
        plain.append(without)
        for other in shipped:
            if other is ours:
                continue
            moved = carried(other, ours.deployment, others)
            error = float(np.mean([_error(moved.calibration, run) for run in group]))
            same = other.deployment.tp == ours.deployment.tp
            off[same].append(error)
            names = f"{ours.deployment.model.name} | {other.deployment.model.name}"
            print(f"| {names} | {other.deployment.tp} to {ours.deployment.tp} | {error:+.1f} % | {without:+.1f} % |")
    for same, name in ((True, "the same"), (False, "another")):
        print(f"root mean square, {name} tensor parallel size: {_rms(off[same]):.1f} %")
    print(f"root mean square without a trace: {_rms(plain):.1f} %")
    _points(json.loads(points.read_text()))


def _error(calibration: Calibration, run: Run) -> float:
    judged = Selection.between(run)
    served = calibration.replay(run)
    return 100 * (
        float(np.mean(judged_us(judged, served, "tpot"))) / float(np.mean(judged_us(judged, run, "tpot"))) - 1
    )


def _points(document: dict[str, Any]) -> None:
    cells: list[dict[str, Any]] = [
        cell
        for cell in document["summary"]["cells"]
        if cell["answered"] >= FEWEST and cell["gpu"].startswith(NVIDIA) and "median_error_pct" in cell
    ]
    print("| model | GPU, source | GPU, source | error | error | difference |")
    print("|---|---|---|---:|---:|---:|")
    differences: list[float] = []
    for one, other in combinations(cells, 2):
        if one["model"] != other["model"] or one["gpu"] == other["gpu"]:
            continue
        a, b = one["median_error_pct"], other["median_error_pct"]
        differences.append(100 * float(np.log((100 + a) / (100 + b))))
        places = " | ".join(f"{cell['gpu']}, {cell['source']}" for cell in (one, other))
        print(f"| {one['model']} | {places} | {a:+.1f} % | {b:+.1f} % | {differences[-1]:+.1f} % |")
    print(f"of {len(differences)} pairs of GPUs: median |difference| {np.median(np.abs(differences)):.1f} %, root mean "
          f"square {_rms(differences):.1f} %")  # fmt: skip


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
