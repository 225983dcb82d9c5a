"""Fits of good runs, whole and cut to their first requests: how many the judge refuses. None should be.

    python benchmarks/judged_fits.py RUN... [--gpu H100] [--requests 50 100 200 500 2000]

Exits with 1 where one is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from roofml.calibration.calibrate import fit
from roofml.traces.read import read_runs
from roofml.traces.server import ServerOverrides


def main() -> int:
    """Print a line a fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--gpu", default="H100")
    parser.add_argument("--requests", type=int, nargs="*", default=[50, 100, 200, 500, 2000])
    arguments = parser.parse_args()
    refused = fits = 0
    for run in read_runs(arguments.runs, ServerOverrides(gpu=arguments.gpu)):
        for count in [*(count for count in arguments.requests if count < len(run)), len(run)]:
            calibration = fit([run.take(np.arange(len(run)) < count)])
            errors = ", ".join(f"{kind} {error:+.2f} %" for kind, error in calibration.runs[0].error_pct.items())
            print(f"{run.name}, {count}: {'; '.join(calibration.misfit) or 'good'} ({errors})", flush=True)
            fits, refused = fits + 1, refused + bool(calibration.misfit)
    print(f"{fits} fits, {refused} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
