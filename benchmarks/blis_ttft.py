"""What α0 of a load buys: BLIS's TTFT with the constant of the fit, and with that of the load which is simulated.

    python benchmarks/blis_ttft.py GROUNDTRUTH [NAME...]

Each run's first 60 % is fitted, its rest is predicted: by BLIS's form as fitted, with α0 for the load of the rest (its
arrivals and lengths, and our fit's TTFT of them: no measured latency of the rest), and by our own form. Signed errors
of means, %. Overloaded runs are left out; NAMEs choose among the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from roofml.blis.deployment import blis_deployment_of
from roofml.blis.fit import errors_of
from roofml.blis.replay import for_blis, replay
from roofml.calibration.calibrate import fit
from roofml.export.queueing import ROUNDS
from roofml.traces.read import read_run
from roofml.traces.selection import Selection
from roofml.validation.as_blis import fit_group

FITTED = 0.6
OVERLOADED = ("codellama-34b-tp2-reasoning", "llama-2-7b-tp1-reasoning")


def judged(path: Path) -> list[float]:
    """TTFT of the rest: as fitted, with α0 of its load, ours; then E2E in the same order."""
    run = read_run(path, gpu="H100")
    native, coefficients = fit([run], until=FITTED), fit_group([run], FITTED).coefficients
    deployment, as_read, ours = blis_deployment_of(run), for_blis(run), native.replay(run)
    rest = Selection.between(run, FITTED, 1.0).requests
    alphas, betas = list(coefficients.alphas), coefficients.betas
    found = [errors_of(run, served.ttft_us, served.e2e_us, rest) for served in (ours,)]
    for times in range(ROUNDS + 1):
        served = replay(as_read, deployment, alphas, betas)
        if times in (0, ROUNDS):
            found.insert(-1, errors_of(run, served.ttft_us, served.e2e_us, rest))
        alphas[0] = max(0.0, alphas[0] + float(np.nanmean((ours.ttft_us - served.ttft_us)[rest])))
    return [error.ttft_pct for error in found] + [error.e2e_pct for error in found]


def main(folder: Path, names: list[str]) -> None:
    """Print a row for each run, and the mean of the absolute errors."""
    print("| run | TTFT: as fitted | α0 of the load | ours | E2E: as fitted | α0 of the load | ours |")
    print("|---|---|---|---|---|---|---|")
    every: list[list[float]] = []
    for path in sorted(folder.iterdir()):
        if any(name in path.name for name in OVERLOADED) or not any(name in path.name for name in names or [""]):
            continue
        every.append(judged(path))
        print(f"| {path.name} | {' | '.join(f'{value:+.2f}' for value in every[-1])} |", flush=True)
    means = np.abs(np.array(every)).mean(axis=0)
    print(f"| mean of absolute errors | {' | '.join(f'{value:.2f}' for value in means)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
