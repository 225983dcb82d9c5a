"""A newcomer's way to a calibrated BLIS, in an empty folder: observe, fit, export, replay, calibrate.

    python benchmarks/newcomer.py FOLDER [RUN [FLAGS...]]

RUN is what was observed, by default the sample run that comes with roofml; FLAGS say what it does not (`--gpu H100`).
Uses the `blis` binary that ROOFML_BLIS names or that is on PATH; where there is none, `blis_stand_in.py`, our replay
of it, answers in its place. Every line that is run is printed first, as it would be typed. Ends with 1 unless BLIS
finishes every request and its mean E2E is within 5 % of what was measured.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from roofml.util.package_data import data_folder

ROOFML = [sys.executable, "-m", "roofml.cli.start"]
STAND_IN = [sys.executable, str(Path(__file__).with_name("blis_stand_in.py").resolve())]
NEAR = 0.05
"""Share by which BLIS's mean E2E may be off."""


def blis() -> list[str]:
    """The words that run BLIS."""
    found = os.environ.get("ROOFML_BLIS") or shutil.which("blis")
    return [found] if found else STAND_IN


def run(words: list[str], shown: list[str], folder: Path) -> str:
    """Print a command line, run it in the folder, and return what it printed."""
    print(f"\n$ {shlex.join(shown)}", flush=True)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    print((done.stdout + done.stderr).rstrip()[-3000:], flush=True)
    if done.returncode:
        sys.exit(f"newcomer: {shown[0]} {shown[1]} ended with {done.returncode}")
    return done.stdout


def roofml(folder: Path, *words: str) -> str:
    """Run a command of roofml."""
    return run([*ROOFML, *words], ["roofml", *words], folder)


def main(folder: Path, observed: Path, facts: list[str]) -> None:
    """Walk the way."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"newcomer: {folder}: expected an empty folder")
    print(f"BLIS is {shlex.join(blis())}")
    run_path = str(observed.resolve())
    roofml(folder, "doctor", run_path)
    roofml(folder, "fit", run_path, *facts, "--target", "blis", "--quiet", "-o", "coefficients.yaml")
    roofml(folder, "export", "blis", "coefficients.yaml", "--into", "blis", "--quiet")
    told = roofml(folder, "export", "trace", run_path, *facts, "-o", "blis", "--coeffs", "coefficients.yaml", "--json")
    document: dict[str, Any] = json.loads(told)
    for line in (document["replay"], document["calibrate"]):
        run([*blis(), *line[1:]], line, folder)
    results: list[dict[str, float]] = json.loads((folder / "blis" / "results.json").read_text())
    report: dict[str, Any] = json.loads((folder / "blis" / "report.json").read_text())
    print(f"\nfinished {len(results)} of {document['requests']} requests")
    error = float("inf")
    for name, metric in report["metrics"].items():
        requests, means = metric["request_level"], mean_error(metric["workload_level"])
        each = f"request by request {100 * requests['mape']:.1f} %, {requests['quality']}"
        print(f"{name}: mean {100 * means:+.2f} %, {each}")
        error = abs(means) if name == "e2e" else error
    if len(results) < document["requests"] or not error < NEAR:
        sys.exit("newcomer: BLIS does not predict this run")


def mean_error(level: dict[str, float]) -> float:
    """Signed relative error of a mean: the report's own has no sign."""
    return level["sim_mean"] / level["real_mean"] - 1


if __name__ == "__main__":
    given = sys.argv[1:]
    if not given:
        sys.exit(__doc__)
    main(Path(given[0]), Path(given[1]) if len(given) > 1 else data_folder("sample_run"), given[2:])
