"""Is an SLO met at a rate that was not fitted, yes or no: predicted from each run's lowest rate, beside the measured
one.

    python benchmarks/capacity.py FOLDER

Every run of FOLDER with stages of different rates is fitted on the lowest alone, one fit a model, GPU and tensor
parallel size, and its higher stages are served. At 0.8, 0.9, 0.95, 1.05, 1.1 and 1.25 times the measured p50, p95 and
p99 of TTFT, TPOT and E2E the answer is known; it is compared with the predicted one, over all questions and over
those whose limit the 90 % interval does not straddle. Runs at overload stand apart.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import numpy as np

from roofml.calibration.other_models import read_other_models
from roofml.calibration.prediction import REQUESTS
from roofml.calibration.scatter import scatter
from roofml.engine.latency_model import Kind, judged_us
from roofml.latency.deployment import deployment_of
from roofml.planning.served_load import statistic_of
from roofml.traces.read import read_runs
from roofml.traces.server import ServerOverrides
from roofml.validation import splits
from roofml.validation.cross_validation import fit_selections, of_selections

FACTORS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25)
KINDS: tuple[Kind, ...] = ("ttft", "tpot", "e2e")


def main(folder: Path) -> None:
    """Print a row for each run, and the sums."""
    runs = read_runs(sorted(path for path in folder.iterdir() if path.is_dir()), ServerOverrides(gpu="H100"))
    others = read_other_models()
    print("| run | questions | right | of those not straddled | right |")
    print("|---|---:|---:|---:|---:|", flush=True)
    of_all: dict[bool, list[tuple[bool, bool]]] = {False: [], True: []}
    for fold in splits.load(runs):
        deployment = deployment_of([judged.run for judged in fold.test])
        fitted = fit_selections(fold.train, deployment, others.prior(deployment))
        calibration = of_selections(deployment, fitted, fold.train)
        for judged in fold.test:
            run = judged.run
            served = calibration.replay(run)
            spread = calibration.replays(run, served=served)
            answers: list[tuple[bool, bool]] = []
            for kind in KINDS:
                for statistic in ("p50", "p95", "p99"):
                    metric = f"{kind}_{statistic}"
                    measured = statistic_of(judged_us(judged, run, kind), statistic)
                    own = judged_us(judged, served, kind)
                    value = statistic_of(own, statistic)
                    if not measured or value is None:
                        continue
                    drawn = [statistic_of(judged_us(judged, each, kind), statistic) for each in spread]
                    predicted = spread.predicted(metric, value, drawn, {REQUESTS: scatter(metric, own)})
                    low, high = cast("tuple[float, float]", predicted.interval_90)
                    for factor in FACTORS:
                        limit = factor * measured
                        answers.append(((value < limit) == (factor > 1), not low <= limit <= high))
            of_all[run.saturated] += answers
            print(_row(f"{run.name}{' (overload)' if run.saturated else ''}", answers), flush=True)
    for saturated, name in ((False, "all normal runs"), (True, "at overload")):
        if of_all[saturated]:
            print(_row(f"**{name}**", of_all[saturated]))


def _row(name: str, answers: list[tuple[bool, bool]]) -> str:
    right = np.array([each for each, _ in answers])
    sure = np.array([each for _, each in answers])
    of_sure = f"{100 * right[sure].mean():.1f} %" if sure.any() else "-"
    return f"| {name} | {len(right)} | {100 * right.mean():.1f} % | {sure.sum()} | {of_sure} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
