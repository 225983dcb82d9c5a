"""Closed loops that others measured: how far throughput and TPOT are off, by GPU and model.

    python benchmarks/closed_loop_points.py POINTS.csv [--anchor]

Every point is answered without a trace, as `roofml evaluate --points` does; with --anchor one point of each deployment
is learned from, and the others are judged. Throughput is output tokens a second of the whole server; where a file says
none, it is what the clients' mean times say: concurrency x tokens of an answer / (TTFT + TPOT x (tokens - 1)), which a
loop without ramps has. Points whose quality is not `good` are left out.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from roofml.validation.points.evaluation import evaluate_points
from roofml.validation.points.judge import JudgedPoint
from roofml.validation.points.point import Point, read_points

RATE = "output_tokens_per_s"


def by_littles_law(point: Point, ttft_us: float, tpot_us: float) -> float:
    """Output tokens a second of clients whose requests take so long, µs, on average."""
    return 1e6 * point.concurrency * point.output_tokens / (ttft_us + tpot_us * (point.output_tokens - 1))


def throughput_error_pct(judged: JudgedPoint) -> tuple[float, bool] | None:
    """(error of throughput, %, whether it was measured itself); None where nothing says what it was."""
    if RATE in judged.metrics:
        return judged.metrics[RATE].error_pct, True
    ttft, tpot = judged.compared("ttft"), judged.compared("tpot")
    if ttft is None or tpot is None:
        return None
    point = judged.answer.point
    measured = by_littles_law(point, ttft.measured_us, tpot.measured_us)
    predicted = by_littles_law(point, ttft.predicted_us, tpot.predicted_us)
    return 100 * (predicted / measured - 1), False


def main(path: Path, anchor: bool) -> None:
    """Print a row for each cell and one for all."""
    points = [point for point in read_points(path) if point.load_kind == "closed" and point.quality == "good"]
    evaluation = evaluate_points(points, anchor=anchor)
    cells: dict[tuple[str, str], list[JudgedPoint]] = defaultdict(list)
    for each in evaluation.points:
        if each.answer.answered and (each.compared("tpot") is not None or RATE in each.metrics):
            cells[each.answer.point.gpu, each.answer.point.model].append(each)
    print("| GPU | model | points | TPOT: mean error | median | throughput: mean error | median | measured itself |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for (gpu, model), of in sorted(cells.items()):
        print(row(gpu, model, of))
    print(row("all", "", [each for of in cells.values() for each in of]))


def row(gpu: str, model: str, of: list[JudgedPoint]) -> str:
    """A line of the table."""
    tpot = [found.error_pct for each in of if (found := each.compared("tpot")) is not None]
    rates = [found for each in of if (found := throughput_error_pct(each)) is not None]
    itself = sum(measured for _, measured in rates)
    cells = [gpu, model, str(len(of)), *figures(tpot), *figures([error for error, _ in rates]), str(itself)]
    return f"| {' | '.join(cells)} |"


def figures(errors_pct: list[float]) -> tuple[str, str]:
    """(mean, median) of absolute errors."""
    if not errors_pct:
        return "-", "-"
    sizes = np.abs(errors_pct)
    return f"{sizes.mean():.1f} %", f"{np.median(sizes):.1f} %"


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--anchor" in sys.argv[2:])
