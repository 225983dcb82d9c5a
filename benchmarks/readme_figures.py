"""The accuracy table of the README, from a public clone of the runs it names, each cut to its first 70 %.

git clone https://github.com/inference-sim/training
python benchmarks/readme_figures.py training

A folder of run folders (BLIS TraceV2) that are cut already is taken with `--share 1`. Some six minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from roofml.traces.read import read_runs
from roofml.traces.server import ServerOverrides
from roofml.util.errors import InputError
from roofml.validation.evaluation import Evaluation
from roofml.validation.protocol import Plan
from roofml.validation.report import RunReport

RUNS = (
    *("20260217-155451-llama-2-7b-tp1-codegen", "20260217-162547-llama-2-7b-tp1-roleplay"),
    *("20260217-231439-llama-2-7b-tp1-general", "20260217-202857-llama-2-70b-tp4-general"),
    *("20260218-084319-llama-2-70b-tp4-roleplay", "20260218-120914-mixtral-8x7b-v0-1-tp2-codegen"),
    *("20260218-130541-mixtral-8x7b-v0-1-tp2-general", "20260218-150304-codellama-34b-tp2-general"),
    *("20260218-150956-codellama-34b-tp2-codegen", "20260218-155500-codellama-34b-tp2-roleplay"),
)
"""The ten normal ones. What comes after their first 70 %, and other runs of the clone, are never looked at."""
PROTOCOLS = (("temporal", 0.6), ("lowo", 0.0), ("load", 0.0), ("lomo", 0.0))
FIGURES = ("e2e_mean", "tpot_mean", "ttft_mean")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.7, help="of each run's requests, from its start")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = read_runs(list(paths_of(asked.folder, asked.share, Path(place))), ServerOverrides(gpu="H100"))
    print("| protocol | mean E2E | mean TPOT | mean TTFT | E2E inside 90 % |\n|---|---|---|---|---|")
    for protocol, fraction in PROTOCOLS:
        found = Plan(protocol, fraction, False).evaluate(runs, None, [], lambda fold: None)
        print(row(protocol, found), flush=True)


def paths_of(folder: Path, share: float, place: Path) -> Iterator[Path]:
    """The runs under `folder`: as they are with a share of 1, else cut copies of a clone's, in `place`."""
    if share == 1:
        yield from (folder / name for name in RUNS if (folder / name).is_dir())
        return
    clone = next((path.parent for path in sorted(folder.rglob("replay_data"))), None)
    if clone is None:
        raise InputError(f"{folder}: no replay_data in it, expected a clone of inference-sim/training")
    for name in RUNS:
        if not (clone / "replay_data" / f"{name}.json").is_file():
            continue
        cut(clone, name, share, place)
        yield place / "replay_data" / f"{name}.json"


def cut(clone: Path, name: str, share: float, place: Path) -> None:
    """Copy a run's first share of requests, by arrival, and its settings."""
    load = json.loads((clone / "replay_data" / f"{name}.json").read_text())
    truth = json.loads((clone / "replay_data" / f"{name}_ground_truth.json").read_text())
    requests = sorted(load["requests"], key=lambda request: (request["arrival_time_us"], request["index"]))
    load["requests"] = requests[: int(share * len(requests))]
    kept = {request["index"] for request in load["requests"]}
    (place / "replay_data").mkdir(exist_ok=True)
    (place / "replay_data" / f"{name}.json").write_text(json.dumps(load))
    left = [each for each in truth if each["index"] in kept]
    (place / "replay_data" / f"{name}_ground_truth.json").write_text(json.dumps(left))
    if (clone / "default_args" / name).is_dir():
        shutil.copytree(clone / "default_args" / name, place / "default_args" / name)


def row(protocol: str, found: Evaluation) -> str:
    """Mean |error| and in brackets the worst, %, as cells of a table."""
    cells = [f"`{protocol}`"]
    for name in FIGURES:
        errors = [abs(run.metrics[name].error_pct) for run in normal(found)]
        cells.append(f"{sum(errors) / len(errors):.2f} % ({max(errors):.1f})")
    inside = [run.metrics["e2e_mean"].covered for run in normal(found)]
    uncertain = any(run.metrics["e2e_mean"].prediction.interval_90 is not None for run in normal(found))
    return f"| {' | '.join(cells)} | {f'{sum(inside)} of {len(inside)}' if uncertain else ''} |"


def normal(found: Evaluation) -> Sequence[RunReport]:
    """The runs that count."""
    return [run for run in found.runs if not run.saturated]


if __name__ == "__main__":
    main()
