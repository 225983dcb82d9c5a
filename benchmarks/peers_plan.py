"""The planner's question, put to others as well: llm-d-planner and aiconfigurator-core, beside roofml and what was
measured. The tables of docs/plan.md, "What others answer".

    python -m venv peers && peers/bin/pip install aiconfigurator-core 'llm-d-planner[estimation]'
    python benchmarks/peers_plan.py FOLDER [POINTS.csv] --python peers/bin/python

Every run of FOLDER with stages of different rates asks, of its higher stage: the mean, p50, p95 and p99 of TTFT, TPOT
and E2E; whether they stay below 0.8, 0.9, 0.95, 1.05, 1.1 and 1.25 times what was measured; the largest rate at which
the mean TPOT stays below the measured one, which is the rate that was measured; and how many tokens of KV cache the
server has. roofml answers twice: fitted on the lowest stage, and without any trace of the model. How the others are
asked, and in whose favour: `peers_asked.py`. Those that are not installed are said to be.

With POINTS, the closed loops of vLLM among them, of good quality: mean TPOT, TTFT and output tokens a second, by
roofml without any trace and by aiconfigurator-core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.other_models import read_other_models
from roofml.calibration.prediction import REQUESTS
from roofml.calibration.scatter import scatter
from roofml.calibration.untraced import untraced
from roofml.engine.latency_model import Kind, judged_us
from roofml.latency.deployment import deployment_of
from roofml.latency.kv_capacity import kv_capacity
from roofml.latency.server_defaults import default_memory_utilization
from roofml.models.load import load_model
from roofml.planning.capacity import NotMetError, capacity
from roofml.planning.served_load import statistic_of
from roofml.planning.trials import Target, Trials
from roofml.traces.read import read_runs
from roofml.traces.selection import Selection
from roofml.traces.server import ServerOverrides
from roofml.util.package_data import data_folder
from roofml.validation import splits
from roofml.validation.cross_validation import fit_selections, of_selections
from roofml.validation.points.evaluation import evaluate_points
from roofml.validation.points.judge import GOOD, JudgedPoint
from roofml.validation.points.point import Point, read_points
from roofml.workloads.read import of_run
from roofml.workloads.slo import Slo

FACTORS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25)
KINDS: tuple[Kind, ...] = ("e2e", "tpot", "ttft")
STATISTICS = ("mean", "p50", "p95", "p99")
FITTED, UNTRACED = "roofml, fitted", "roofml, no trace"
AIC, PLANNER = "aiconfigurator", "llm-d-planner"
STAND_INS = {
    "mistralai/Mixtral-8x7B-v0.1": ["mistralai/mixtral-8x7b-instruct-v0.1"],
    "meta-llama/Llama-2-70b-hf": ["meta-llama/llama-3.3-70b-instruct"],
    "meta-llama/Llama-2-7b-hf": ["meta-llama/llama-3.1-8b-instruct"],
}
"""What llm-d-planner has benchmarks of, for what it has none of: the same shape, or (7B) the nearest."""
CONFIGS = {"nvidia/Llama-3.3-70B-Instruct-FP8": "nvidia/Llama-3.1-70B-Instruct-FP8"}
"""What aiconfigurator has a config of, for the same shape by another name."""

Answer = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The higher stage of a run: what was measured of it, in ms, and what everybody answered."""

    name: str
    rate: float
    measured: Mapping[str, float]
    kv_tokens: int
    question: Answer
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("points", type=Path, nargs="?")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    asked = list(_of_runs(given.folder))
    points = [] if given.points is None else _closed(read_points(given.points))
    questions = [each.question for each in asked]
    said = _peers(given.python, {AIC: [*questions, *map(_of_point, points)], PLANNER: questions})
    for name, found in said.items():
        if "missing" in found:
            print(f"{name}: not asked: {found['missing']}", file=sys.stderr)
            continue
        print(f"{name}: {found['version']}", file=sys.stderr)
        for each, answer in zip(asked, found["answers"], strict=False):
            each.answers[name] = answer
    _print_runs(asked)
    _print_sums(asked)
    if points:
        _print_points(points, said[AIC].get("answers", [])[len(asked) :])


def _of_runs(folder: Path) -> Iterator[Asked]:
    """Every higher stage, with our answers."""
    runs = read_runs(sorted(path for path in folder.iterdir() if path.is_dir()), ServerOverrides(gpu="H100"))
    others = read_other_models()
    for fold in splits.load([run for run in runs if not run.saturated]):
        deployment = deployment_of([judged.run for judged in fold.test])
        fitted = of_selections(deployment, fit_selections(fold.train, deployment, others.prior(deployment)), fold.train)
        physics = uncalibrated(deployment, untraced(others.prior(deployment), deployment))
        for judged in fold.test:
            asked = _asked(judged)
            for name, calibration in ((FITTED, fitted), (UNTRACED, physics)):
                asked.answers[name] = _ours(judged, calibration, asked.measured["tpot_mean"])
            yield asked


def _asked(judged: Selection) -> Asked:
    run, server = judged.run, judged.run.server
    chosen = judged.requests
    sent = run.arrival_us[chosen]
    rate = 1e6 * (len(sent) - 1) / float(sent[-1] - sent[0])
    measured = _figures(judged, run)
    model, size = load_model(server.model), server.block_size
    cached = np.minimum(run.prefix_tokens, run.prompt_tokens - 1)[chosen] // size * size
    question = {
        "model": str(data_folder("model_configs") / model.name),
        "model_name": server.model,
        "stand_ins": [server.model, *STAND_INS.get(server.model, [])],
        "gpu": "H100",
        "tp": server.tensor_parallel,
        "input_tokens": float(run.prompt_tokens[chosen].mean()),
        "output_tokens": float(run.output_tokens[chosen].mean()),
        "cached_tokens": float(cached.mean()),
        "rate": rate,
        "in_flight": rate * measured["e2e_mean"] / 1e3,
        "tpot_limit_ms": measured["tpot_mean"],
        "max_num_seqs": server.max_num_seqs,
        "max_num_batched_tokens": server.max_num_batched_tokens,
        "max_model_len": server.max_model_len,
        "memory_utilization": default_memory_utilization(),
        "block_size": size,
        "weights": model.parameters(),
    }
    return Asked(run.name, rate, measured, server.num_gpu_blocks * size, question)


def _figures(judged: Selection, latencies: Any) -> dict[str, float]:
    """Metric -> ms."""
    found: dict[str, float] = {}
    for kind in KINDS:
        times = judged_us(judged, latencies, kind)
        for statistic in STATISTICS:
            found[f"{kind}_{statistic}"] = (statistic_of(times, statistic) or np.nan) / 1e3
    return found


def _ours(judged: Selection, calibration: Calibration, tpot_limit_ms: float) -> Answer:
    run, ours = judged.run, calibration.deployment
    served = calibration.replay(run)
    spread = calibration.replays(run, served=served)
    drawn = [_figures(judged, each) for each in spread]
    found: Answer = _figures(judged, served)
    for kind in KINDS:
        times = judged_us(judged, served, kind)
        for statistic in STATISTICS:
            metric = f"{kind}_{statistic}"
            more = {REQUESTS: scatter(metric, times)}
            predicted = spread.predicted(metric, found[metric], [each[metric] for each in drawn], more)
            found[f"{metric}_90"] = predicted.interval_90
    limit = Target(Slo("mean", "tpot", 1e3 * tpot_limit_ms))
    workload = of_run(run.take(judged.requests))
    try:
        serving = replace(calibration, deployment=ours.serving(run.server))
        held = capacity(Trials(serving, workload, run.server, (limit,))).level
        found["max_rate"], found["max_rate_90"] = held.value, held.interval_90
    except NotMetError:
        found["max_rate"] = None
    limits = {"max_num_batched_tokens": run.server.max_num_batched_tokens, "max_num_seqs": run.server.max_num_seqs}
    blocks = kv_capacity(ours.on_rank, ours.gpu, ours.tp, gpu_memory_utilization=default_memory_utilization(), **limits)
    found["kv_tokens"] = blocks.blocks * blocks.block_size
    return found


def _peers(python: str, questions: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """What the interpreter that has them answers."""
    script = Path(__file__).with_name("peers_asked.py")
    done = subprocess.run([python, str(script)], input=json.dumps(questions), text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{python} {script}: ended with {done.returncode}")
    return json.loads(done.stdout)


def _print_runs(asked: Sequence[Asked]) -> None:
    print(
        "| run | E2E / TPOT / TTFT, measured, ms | roofml, fitted | 90 % of E2E | no trace | aiconfigurator | planner |"
    )
    print("|---|---|---|---|---|---|---|")
    for each in asked:
        ends = cast("tuple[float, float]", each.answers[FITTED]["e2e_mean_90"])
        cells = [
            each.name,
            " / ".join(_ms(each.measured[f"{kind}_mean"]) for kind in KINDS),
            _off(each, FITTED),
            "{:+.1f} to {:+.1f} %".format(*(100 * (end / each.measured["e2e_mean"] - 1) for end in ends)),
            *(_off(each, name) for name in (UNTRACED, AIC, PLANNER)),
        ]
        print(f"| {' | '.join(cells)} |")
    for name in (AIC, PLANNER):
        for each in asked:
            answer = each.answers.get(name, {})
            print(f"{name}, {each.name}: {answer.get('refusal') or answer.get('said', 'not asked')}", file=sys.stderr)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _off(asked: Asked, name: str) -> str:
    """Errors of the means, %."""
    answer = asked.answers.get(name, {})
    if "e2e_mean" not in answer:
        return "-"
    errors = [100 * (answer[f"{kind}_mean"] / asked.measured[f"{kind}_mean"] - 1) for kind in KINDS]
    return " / ".join(f"{error:+.1f}" for error in errors) + " %"


def _print_sums(asked: Sequence[Asked]) -> None:
    names = (FITTED, UNTRACED, AIC, PLANNER)
    print(f"\n| over the runs answered | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for kind in KINDS:
        for statistic in STATISTICS:
            cells = [_mean_error(asked, name, f"{kind}_{statistic}", statistic) for name in names]
            print(f"| {kind.upper()} {statistic}, mean error | {' | '.join(cells)} |")
    for statistics in (STATISTICS[:1], STATISTICS[1:]):
        cells = [_right(asked, name, statistics) for name in names]
        print(f"| SLO questions of {', '.join(statistics)}, right | {' | '.join(cells)} |")
    for what in ("max_rate", "kv_tokens"):
        print(f"| {what}, answered / measured | {' | '.join(_ratios(asked, name, what) for name in names)} |")
    cells = [f"{sum(_inside(each, name) for each in asked)} of {len(asked)}" for name in names[:2]]
    print(f"| the measured rate lies inside its 90 % interval | {' | '.join(cells)} | - | - |")
    servers = [str(each.answers.get(PLANNER, {}).get("servers", "-")) for each in asked]
    print(f"| servers for the rate that one held | - | - | - | {', '.join(servers)} |")


def _inside(asked: Asked, name: str) -> bool:
    """Whether the rate that was measured lies in the interval of the largest one."""
    ends = asked.answers[name].get("max_rate_90")
    return ends is not None and ends[0] <= asked.rate <= ends[1]


def _value(answer: Answer, kind: str, statistic: str) -> float | None:
    """What it says of a statistic; who gives a mean alone, or no median, is taken to say that of all."""
    return answer.get(f"{kind}_{statistic}", answer.get(f"{kind}_mean"))


def _mean_error(asked: Sequence[Asked], name: str, metric: str, statistic: str) -> str:
    kind = metric.partition("_")[0]
    errors = [
        abs(100 * (value / each.measured[metric] - 1))
        for each in asked
        if (value := _value(each.answers.get(name, {}), kind, statistic)) is not None
    ]
    return f"{np.mean(errors):.1f} % ({np.max(errors):.0f})" if errors else "-"


def _right(asked: Sequence[Asked], name: str, statistics: Sequence[str]) -> str:
    right = [
        (value < factor * each.measured[f"{kind}_{statistic}"]) == (factor > 1)
        for each in asked
        for kind in KINDS
        for statistic in statistics
        for factor in FACTORS
        if (value := _value(each.answers.get(name, {}), kind, statistic)) is not None
    ]
    return f"{sum(right)} of {len(right)} ({100 * np.mean(right):.0f} %)" if right else "-"


def _ratios(asked: Sequence[Asked], name: str, what: str) -> str:
    found: list[str] = []
    for each in asked:
        answer = each.answers.get(name, {})
        if what not in answer:
            found.append("-")
        elif answer[what] is None:
            found.append("none")
        else:
            found.append(f"{answer[what] / (each.rate if what == 'max_rate' else each.kv_tokens):.3g}")
    return ", ".join(found)


def _closed(points: Sequence[Point]) -> list[Point]:
    return [it for it in points if it.quality == GOOD and it.load_kind == "closed" and it.engine == "vllm"]


def _of_point(point: Point) -> Answer:
    return {
        "model": CONFIGS.get(point.model, point.model),
        "gpu": point.gpu,
        "tp": point.tp,
        "ep": point.ep,
        "input_tokens": point.input_tokens,
        "output_tokens": point.output_tokens,
        "in_flight": point.concurrency,
    }


def _print_points(points: Sequence[Point], answers: Sequence[Answer]) -> None:
    ours = {it.answer.point.id: it for it in evaluate_points(points).points}
    cells: dict[tuple[str, str], list[tuple[JudgedPoint, Answer]]] = {}
    for point, answer in zip(points, [*answers] or [{} for _ in points], strict=True):
        cells.setdefault((point.gpu, point.model.rsplit("/", 1)[-1]), []).append((ours[point.id], answer))
    print("\nTPOT / TTFT / output tokens a second: median |error| over points, in brackets the mean\n")
    print("| GPU | model | points | roofml, no trace | aiconfigurator | it answers | and says does not fit |")
    print("|---|---|---:|---|---|---:|---:|")
    both: list[tuple[JudgedPoint, Answer]] = []
    for (gpu, model), cell in cells.items():
        print(_point_row(f"{gpu} | {model}", cell))
        both += [it for it in cell if "tpot_mean" in it[1]]
        for refusal in {str(answer["refusal"]) for _, answer in cell if "refusal" in answer}:
            print(f"aiconfigurator, {model} on {gpu}: {refusal}", file=sys.stderr)
    print(_point_row("**both answer** | ", both))


def _point_row(name: str, cell: Sequence[tuple[JudgedPoint, Answer]]) -> str:
    own: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    for judged, answer in cell:
        for what in ("tpot", "ttft", "output_tokens_per_s"):
            metric = judged.compared(what) if what in ("tpot", "ttft") else judged.metrics.get(what)
            if metric is None:
                continue
            own.setdefault(what, []).append(abs(metric.error_pct))
            value = answer.get(f"{what}_mean", answer.get(what))
            if value is not None:
                unit = 1e3 if what in ("tpot", "ttft") else 1.0
                theirs.setdefault(what, []).append(abs(100 * (unit * value / metric.measured_us - 1)))
    answered = [answer for _, answer in cell if "tpot_mean" in answer]
    tight = sum(bool(answer["does_not_fit"]) for answer in answered)
    return f"| {name} | {len(cell)} | {_of_kinds(own)} | {_of_kinds(theirs)} | {len(answered)} | {tight} |"


def _of_kinds(errors: Mapping[str, Sequence[float]]) -> str:
    cells = (errors.get(what, []) for what in ("tpot", "ttft", "output_tokens_per_s"))
    return " / ".join(f"{np.median(each):.0f} ({np.mean(each):.0f})" if len(each) else "-" for each in cells) + " %"


if __name__ == "__main__":
    main()
