"""What baselines come to when they take a trace as it stands: why earlier figures of the same methods were so far off.

    python benchmarks/traps.py ../shared/groundtruth/* --gpu H100 --steps TABLE ... [--markdown FILE]

Each baseline learns and is served three times: with the trace as the doctor corrects it, without prefix hits, and with
the output lengths that the client counted. The truth is the same for all: latencies of the requests judged. With tables
of sampled steps, regressions of `step.duration_us`, which is no step time, are set beside those of cycle times.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from scipy.optimize import nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.traces.steps.cycles import cycles
from roofml.traces.steps.table import SampledSteps
from roofml.util.arrays import Floats
from roofml.validation.leaderboard.cells import Inputs, folds_of, load
from roofml.validation.leaderboard.predictors import PREDICTORS
from roofml.validation.leaderboard.variants import FitCache, Variant, as_seen, seen
from roofml.validation.report import report

BASELINES = ("blackbox", "direct-calibration", "boosted-trees", "two-regime-ridge")
VIEWS = {
    "as corrected": Variant("as corrected", ""),
    "without prefix hits": Variant("blind", "", blind_to="prefix hits"),
    "output lengths as counted": Variant("blind", "", blind_to="true output lengths"),
}
METRICS = {"E2E": "e2e_mean", "TPOT": "tpot_mean", "TTFT": "ttft_mean"}


def errors(inputs: Inputs, name: str, view: Variant, protocol: str) -> list[float]:
    """Mean absolute errors of mean E2E, TPOT (by the tokens that were made) and TTFT over the normal runs, %."""
    found: list[list[float]] = []
    for fold in folds_of(protocol, load(inputs).runs):
        ours = replace(fold, train=as_seen(view, fold.train))
        learned = PREDICTORS[name].learn(ours, [], FitCache(), 0)
        for part in fold.test:
            if not part.run.saturated:
                judged = report(part, learned.model.replay(seen(view, part.run)))
                found.append([abs(judged.metrics[metric].error_pct) for metric in METRICS.values()])
    return np.mean(found, axis=0).tolist()


def of_durations(steps: SampledSteps) -> list[str]:
    """Rows: median measured, and held-out MAPE of a line in the tokens and of boosted trees, by what is regressed.

    Learned from the first 60 % of the samples, judged on the rest. A cycle time here is that to the next sample, of at
    most five steps, and both learners see the sampled step alone.
    """
    from xgboost import XGBRegressor

    found = cycles(steps, ahead=0)
    everything = np.arange(len(steps))
    rows: list[str] = []
    for what, at, target in (
        ("step.duration_us", everything, np.maximum(steps.call_us, 1.0)),
        ("cycle time", found.before, found.time_us),
    ):
        columns = np.column_stack((np.ones(len(at)), steps.prefill_tokens[at], steps.decode_requests[at]))
        first = at < 0.6 * len(steps)
        ones = np.ones(int(first.sum()))
        betas, _ = cast("tuple[Floats, float]", nnls(columns[first] / target[first, None], ones))
        trees = XGBRegressor(n_estimators=200, max_depth=4, learning_rate=0.1, n_jobs=1)
        trees.fit(columns[first], np.log(target[first]))
        guesses: tuple[Floats, Floats] = columns[~first] @ betas, np.exp(trees.predict(columns[~first]))
        errors = " | ".join(f"{100 * np.mean(np.abs(guess / target[~first] - 1)):.3g} %" for guess in guesses)
        rows.append(f"| {Path(steps.name).stem} | {what} | {np.median(target) / 1e3:.3g} ms | {errors} |")
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--gpu")
    parser.add_argument("--protocol", default="temporal", choices=("temporal", "lomo", "lowo"))
    parser.add_argument("--steps", type=Path, nargs="*", default=[])
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    inputs = Inputs(tuple(options.runs), options.gpu, tuple(options.steps))
    regressed: list[str] = []
    if options.steps:
        regressed = [
            "| table | regressed | median | line in tokens, MAPE | boosted trees, MAPE |",
            "|---|---|---|---|---|",
        ]
        for data in load(inputs).tables:
            regressed += of_durations(data.table)
        print("\n".join([*regressed, ""]), flush=True)
    title = f"Mean absolute error of mean {' / '.join(METRICS)}, %:"
    lines = [f"| method, {options.protocol} | {' | '.join(VIEWS)} |", "|---|" + "---|" * len(VIEWS)]
    print("\n".join([title, "", *lines]), flush=True)
    for name in BASELINES:
        cells = [
            " / ".join(f"{error:.3g}" for error in errors(inputs, name, view, options.protocol))
            for view in VIEWS.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join([title, "", *lines, "", *regressed, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
