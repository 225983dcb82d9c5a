"""Overloaded runs, predicted by a fit of the same model's normal ones: completions and latencies.

    python benchmarks/overload.py RUN ... --gpu H100

For every model, GPU and tensor parallel size among the runs: a fit of those that are not saturated, and how far it is
off on those that are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from roofml.calibration.calibrate import fit
from roofml.traces.read import read_runs
from roofml.traces.selection import Selection, groups
from roofml.traces.server import ServerOverrides
from roofml.validation.evaluation import replay_run


def main() -> None:
    """Print a row for each overloaded run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--gpu", required=True)
    options = parser.parse_args()
    print("| overloaded run | completed, measured | predicted | E2E | TTFT | TPOT | p99 TTFT |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for group in groups(read_runs(options.runs, ServerOverrides(gpu=options.gpu))):
        normal = [run for run in group if not run.saturated]
        overloaded = [run for run in group if run.saturated]
        if not normal or not overloaded:
            continue
        calibration = fit(normal)
        for run in overloaded:
            report = replay_run(calibration, Selection.between(run)).report
            measured, predicted = report.completed or (len(run), len(run))
            errors = [report.metrics[name].error_pct for name in ("e2e_mean", "ttft_mean", "tpot_mean", "ttft_p99")]
            cells = " | ".join(f"{error:+.1f} %" for error in errors)
            print(f"| {run.name} | {measured} | {predicted} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
