"""How often 90 % intervals hold, and how wide they are: by protocol and metric, on real runs.

    python benchmarks/interval_coverage.py RUN ... [--keep FOLDER] [--protocols temporal load lowo lomo]

Every figure of every normal run counts alike; saturated ones are counted apart. `rms z` is the root mean square of
errors in standard deviations of the interval's side. What an interval is stretched by was learned from the runs of
other models (`roofml.calibration.knowledge`), whose table is printed at the end as these runs have it. Fits are kept in
FOLDER and used again, whatever has changed since. Some ten minutes on two cores without them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roofml.calibration.calibrate import load, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.knowledge import Knowledge, family_of
from roofml.calibration.other_models import evidence_of, read_other_models
from roofml.calibration.prior import PACKAGE, Prior, pool
from roofml.calibration.untraced import untraced
from roofml.latency.deployment import Deployment, deployment_of
from roofml.traces.read import read_runs
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.traces.server import ServerOverrides
from roofml.validation import splits
from roofml.validation.cross_validation import fit_selections, of_selections
from roofml.validation.report import METRICS, Metric, intervals_of, report

SPLITS = {"temporal": splits.temporal, "load": splits.load, "lowo": splits.lowo}
PROTOCOLS = (*SPLITS, "lomo")


@dataclass(frozen=True)
class Judged:
    """One figure of one run."""

    protocol: str
    model: str
    run: str
    saturated: bool
    name: str
    metric: Metric
    knowledge: Knowledge
    stretch: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--gpu", default="H100")
    parser.add_argument("--keep", type=Path, help="where fits are kept")
    parser.add_argument("--protocols", nargs="+", default=PROTOCOLS, choices=PROTOCOLS)
    asked = parser.parse_args()
    runs = read_runs(asked.runs, ServerOverrides(gpu=asked.gpu))
    with tempfile.TemporaryDirectory() as place:
        kept = asked.keep or Path(place)
        kept.mkdir(parents=True, exist_ok=True)
        figures = [
            figure
            for protocol in asked.protocols
            for judged, calibration in pairs(protocol, runs, kept)
            for figure in of_run(protocol, judged, calibration)
        ]
    print("| protocol | metric | figures | inside | half width, median | rms z |\n|---|---|---:|---:|---:|---:|")
    for protocol in asked.protocols:
        normal = [each for each in figures if each.protocol == protocol and not each.saturated]
        for name in METRICS:
            print(row(protocol, name, [each for each in normal if each.name == name]))
        print(row(protocol, "all", normal))
        apart = [each for each in figures if each.protocol == protocol and each.saturated]
        if apart:
            print(row(protocol, "at overload", apart))
    print("\nSquares before any stretch, as `knowledge.SQUARES` has them:\n")
    for line in squares([each for each in figures if not each.saturated]):
        print(line)


def pairs(protocol: str, runs: Sequence[Run], kept: Path) -> Iterator[tuple[Selection, Calibration]]:
    """What is judged by a protocol, and the calibration that predicts it."""
    if protocol == "lomo":
        for fold in splits.lomo(runs):
            groups = splits.by_model(fold.train)
            fits = [
                fitted(group, lambda _: PACKAGE, kept / f"package-{place_of(group)}", for_others=True)
                for group in groups
            ]
            evidence = [evidence_of(each.posterior, each.deployment.model.name) for each in fits]
            deployment = deployment_of([judged.run for judged in fold.test])
            calibration = uncalibrated(deployment, untraced(pool(evidence), deployment))
            yield from ((judged, calibration) for judged in fold.test)
        return
    others = read_other_models()
    for fold in SPLITS[protocol](runs):
        calibration = fitted(fold.train, others.prior, kept / f"{protocol}-{place_of(fold.train)}")
        yield from ((judged, calibration) for judged in fold.test)


def place_of(selections: Sequence[Selection]) -> str:
    """A name for a fit of these: by the runs, and how many requests of each."""
    return "-".join(f"{each.run.identity[:8]}x{len(each)}" for each in selections) + ".yaml"


def fitted(
    selections: Sequence[Selection], prior_of: Callable[[Deployment], Prior], path: Path, *, for_others: bool = False
) -> Calibration:
    """The fit in `path`, or a new one that is kept there."""
    if not path.exists():
        deployment = deployment_of([each.run for each in selections])
        prior = prior_of(deployment)
        found = fit_selections(selections, deployment, prior, for_others=for_others)
        of_selections(deployment, found, selections).save(path)
    return load(path)


def of_run(protocol: str, judged: Selection, calibration: Calibration) -> Iterator[Judged]:
    """Every figure of a run."""
    served = calibration.replay(judged.run)
    spread = calibration.replays(judged.run, served=served)
    found = report(judged, served, spread)
    for name, metric in found.metrics.items():
        yield Judged(
            protocol,
            calibration.deployment.model.name.lower(),
            found.run,
            found.saturated,
            name,
            metric,
            calibration.knowledge(judged.run),
            spread.stretch(name),
        )


def row(protocol: str, name: str, figures: Sequence[Judged]) -> str:
    """Cells of a table."""
    of = intervals_of([each.metric for each in figures])
    cells = f"{of['inside_interval_90_pct']:.0f} % | {of['half_width_90_pct']:.2g} % | {of['rms_z']:.2f}"
    return f"| {protocol} | {name} | {len(figures)} | {cells} |"


def squares(figures: Sequence[Judged]) -> Iterator[str]:
    """By knowledge, family and model, the sum over runs of the mean square of z before any stretch."""
    models = sorted({each.model for each in figures})
    kinds = dict.fromkeys((each.protocol, each.knowledge, family_of(each.name)) for each in figures)
    for protocol, knowledge, family in kinds:
        sums: list[str] = []
        for model in models:
            of_model = [
                each
                for each in figures
                if (each.protocol, family_of(each.name), each.model) == (protocol, family, model)
            ]
            runs = dict.fromkeys(each.run for each in of_model)
            means = [
                np.mean([(each.metric.z * each.stretch) ** 2 for each in of_model if each.run == run]) for run in runs
            ]
            sums.append(f"{model} {sum(means):.2f} of {len(runs)}")
        yield f"{protocol} ({knowledge}), {family}: {'; '.join(sums)}"


if __name__ == "__main__":
    main()
