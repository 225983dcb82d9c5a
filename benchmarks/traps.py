"""What baselines come to when they take a trace as it stands: why earlier figures of the same methods were so far off.

    python benchmarks/traps.py ../shared/groundtruth/* --gpu H100 [--markdown FILE]

Each baseline learns and is served three times: with the trace as the doctor corrects it, without prefix hits, and with
the output lengths that the client counted. The truth is the same for all: latencies of the requests judged.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from roofml.leaderboard.cells import Inputs, folds_of, load
from roofml.methods import METHODS
from roofml.presets import Preset, seen
from roofml.protocols import Part

BASELINES = ("blackbox", "direct-calibration", "boosted-trees", "two-regime-ridge")
VIEWS = {
    "as corrected": Preset("as corrected", ""),
    "without prefix hits": Preset("blind", "", blind_to="prefix hits"),
    "output lengths as counted": Preset("blind", "", blind_to="true output lengths"),
}
METRICS = ("E2E", "TPOT", "TTFT")


def errors(inputs: Inputs, name: str, view: Preset, protocol: str) -> list[float]:
    """Mean absolute errors of mean E2E, TPOT (by the tokens that were made) and TTFT over the normal runs, %."""
    loaded = load(inputs)

    def altered(part: Part) -> Part:
        run = seen(view, part.run, loaded.reported[part.run.name])
        return replace(part, diagnosis=replace(part.diagnosis, run=run))

    found: list[list[float]] = []
    for fold in folds_of(protocol, loaded.diagnoses):
        ours = replace(fold, train=tuple(map(altered, fold.train)), test=tuple(map(altered, fold.test)))
        learned = METHODS[name].learn(ours, [], loaded.reported, {}, 0)
        for part in fold.test:
            if part.diagnosis.saturated:
                continue
            run, rows = part.run, part.requests
            predicted = learned.serve(altered(part).run)
            gaps = np.maximum(run.output_tokens - 1, 1)
            pairs = (
                (run.e2e_us, predicted.e2e_us),
                ((run.e2e_us - run.ttft_us) / gaps, (predicted.e2e_us - predicted.ttft_us) / gaps),
                (run.ttft_us, predicted.ttft_us),
            )
            found.append([100 * abs(guess[rows].mean() / truth[rows].mean() - 1) for truth, guess in pairs])
    return np.mean(found, axis=0).tolist()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--gpu")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    inputs = Inputs(tuple(options.runs), options.gpu)
    lines = [f"| method, learned from | {' | '.join(VIEWS)} |", "|---|" + "---|" * len(VIEWS)]
    for protocol, source in (("temporal", "each run's first 60 %"), ("lomo", "the other models")):
        for name in BASELINES:
            cells = [
                " / ".join(f"{error:.3g}" for error in errors(inputs, name, view, protocol)) for view in VIEWS.values()
            ]
            lines.append(f"| {name}, {source} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    text = "\n".join([f"Mean absolute error of mean {' / '.join(METRICS)}, %:", "", *lines, ""])
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
