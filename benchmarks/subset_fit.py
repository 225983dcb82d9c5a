"""What a subset loses: public runs fitted on some of their requests, chosen by information, and on all.

    python benchmarks/subset_fit.py FOLDER [--requests 2000] [--share 0.6]

FOLDER holds the run folders. Very long runs are fitted on a subset; here ordinary ones are, of as many as said:
none of the public runs is very long. Both fits see the first share of a run and are judged on the rest: signed
errors of means and of the 99th percentile, per cent, subset / all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import roofml.calibration.subset as subset
import roofml.calibration.thinning as thinning
from roofml.calibration.calibrate import fit
from roofml.calibration.calibration import Calibration
from roofml.engine.latency_model import Kind, judged_us
from roofml.traces.read import read_all
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.traces.server import ServerOverrides

KINDS: tuple[Kind, ...] = ("e2e", "ttft", "tpot")
NEVER = 10**9


def fitted(run: Run, share: float, requests: int | None) -> Calibration:
    """A fit of the first share of the run: of all its requests, or of a subset of at least so many."""
    subset.LONG_RUN = thinning.LONG_RUN = subset.LONG_FIT = NEVER
    if requests is not None:
        subset.LONG_RUN, subset.SUBSET = 2 * requests, requests
    return fit([run], until=share)


def errors(calibration: Calibration, run: Run, share: float) -> list[float]:
    """Of means of E2E, TTFT and TPOT, and of the 99th percentiles of the first two, on what was not fitted; %."""
    judged, served = Selection.between(run, share), calibration.replay(run)
    found: list[float] = []
    tails: list[float] = []
    for kind in KINDS:
        measured, predicted = judged_us(judged, run, kind), judged_us(judged, served, kind)
        found.append(100 * (float(predicted.mean()) / float(measured.mean()) - 1))
        tails.append(100 * (float(np.quantile(predicted, 0.99)) / float(np.quantile(measured, 0.99)) - 1))
    return [*found, *tails[:2]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.6)
    options = parser.parse_args()
    folders = sorted(each for each in options.folder.iterdir() if each.is_dir())
    runs = read_all(folders, ServerOverrides(gpu="H100")).runs
    print(f"{'run':42}{'fitted':>8}{'of':>8}{'says':>7}   E2E, TTFT, TPOT, p99 E2E, p99 TTFT: subset / all")
    table: list[tuple[list[float], list[float]]] = []
    for run in runs:
        if run.saturated:
            continue
        some, whole = fitted(run, options.share, options.requests), fitted(run, options.share, None)
        said = some.posterior.subsets.get(run.identity)
        if said is None:
            print(f"{run.name:42} fitted whole")
            continue
        both = errors(some, run, options.share), errors(whole, run, options.share)
        table.append(both)
        shown = "  ".join(f"{one:+.2f}/{other:+.2f}" for one, other in zip(*both, strict=True))
        print(f"{run.name:42}{said.fitted:8}{said.of:8}{100 * said.information:6.1f}%   {shown}", flush=True)
    means = np.abs(np.array(table)).mean(axis=0)
    shown = "  ".join(f"{one:.2f}/{other:.2f}" for one, other in zip(*means, strict=True))
    print(f"{'mean of absolute errors':66}  {shown}")


if __name__ == "__main__":
    main()
