"""How many requests a fit needs, with and without what other models taught.

    python benchmarks/learning_curve.py ../shared/groundtruth/* [--picture learning_curve.png] [--markdown FILE]

For every model the latencies of N requests, drawn evenly from the first 60 % of its runs that are not saturated, are
fitted; the last 40 % of every run judge. Without the pooled prior a fit starts from the package's, of kernel
measurements, or from one so wide that it says next to nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from roofml.calibration.other_models import read_other_models
from roofml.calibration.prior import PACKAGE, Prior
from roofml.latency.deployment import deployment_of
from roofml.traces.read import read_runs
from roofml.traces.selection import Selection
from roofml.traces.server import ServerOverrides
from roofml.validation.cross_validation import fit_selections, judge, of_selections
from roofml.validation.report import RunReport, summary
from roofml.validation.splits import temporal

SIZES = (50, 200, 1000, None)
WIDE = Prior(PACKAGE.mean, PACKAGE.covariance * 100, "package, ten times as wide")
HEADING = "| mean abs. error of E2E / TPOT / TTFT; TPOT of the saturated run, % | "
BEYOND = "TPOT, saturated run with 2.5 times the context"
METRICS = {"e2e_mean": "E2E", "tpot_mean": "TPOT", "ttft_mean": "TTFT"}


def some_of(part: Selection, wanted: int | None) -> Selection:
    """So many of the requests, drawn evenly; all of them for None."""
    places = np.flatnonzero(part.requests)
    count = len(places) if wanted is None else min(wanted, len(places))
    chosen = np.zeros(len(part.run), np.bool_)
    chosen[places[np.linspace(0, len(places) - 1, count).astype(int)]] = True
    return Selection(part.run, chosen)


def errors(folders: list[Path], size: int | None, kind: str) -> dict[str, float]:
    """Mean absolute error, %, of METRICS over the runs that are not saturated, and of TPOT over the others."""
    runs = read_runs(folders, ServerOverrides(gpu="H100"), strict=False)
    reports: list[RunReport] = []
    for fold in temporal(runs, 0.6):
        deployment = deployment_of([part.run for part in fold.test])
        drawn = [some_of(part, None if size is None else max(1, size // len(fold.train))) for part in fold.train]
        prior = {"pooled": read_other_models().prior(deployment), "package": PACKAGE, "wide": WIDE}[kind]
        calibration = of_selections(deployment, fit_selections(drawn, deployment, prior), drawn)
        reports += [judge(part, calibration) for part in fold.test]
    overall = summary([r for r in reports if not r.saturated])
    found = {name: overall[name]["mean_abs_error_pct"] for name in METRICS}
    beyond = summary([r for r in reports if r.saturated])
    return {**found, "beyond": beyond["tpot_mean"]["mean_abs_error_pct"] if beyond else float("nan")}


def main() -> None:
    """Print the table, and draw it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    found = {
        (kind, size): errors(arguments.runs, size, kind) for kind in ("pooled", "package", "wide") for size in SIZES
    }
    lines = [
        "| mean abs. error of E2E / TPOT / TTFT; TPOT of the saturated run, % | "
        + " | ".join(str(size or "all") for size in SIZES)
        + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    for kind in ("pooled", "package", "wide"):
        cells = [
            " / ".join(f"{found[kind, size][name]:.2f}" for name in METRICS) + f"; {found[kind, size]['beyond']:.1f}"
            for size in SIZES
        ]
        lines.append(f"| prior: {kind} | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.picture:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharex=True, layout="constrained")
        panels = {"e2e_mean": "E2E, held-out requests", "ttft_mean": "TTFT, held-out requests", "beyond": BEYOND}
        at = [size or 16000 for size in SIZES]
        for axis, (name, title) in zip(axes, panels.items(), strict=True):
            for kind, style in (("pooled", "o-"), ("package", "s--"), ("wide", "^:")):
                axis.plot(at, [found[kind, size][name] for size in SIZES], style, label=f"prior: {kind}")
            axis.set(xscale="log", title=title, ylabel="mean |error|, %")
            axis.set_xlabel("requests fitted (right: all)")
            axis.title.set_fontsize(9)
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3, which="both")
        axes[0].legend(fontsize=8)
        figure.savefig(arguments.picture, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
