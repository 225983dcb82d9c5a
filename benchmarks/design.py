"""What designed batches buy: made-up servers, and cases picked from sampled steps of real ones.

    python benchmarks/design.py made-up FOLDER [servers]   FOLDER holds public runs, as in inference-sim/training
    python benchmarks/design.py steps FOLDER STEPS         STEPS holds their tables of sampled steps, by the runs' names

Made-up: servers with parameters drawn from the prior of a deployment without a trace, timed as `vllm bench forward`
would, with offsets drawn from their priors, errors of their own in every case and samples that spread. Errors are of
the steps that a public load makes, over all servers: of the whole step, and of what forwards tell of (sampler and CPU
work taken from the truth). `random` batches are uniform within the same limits, `grid` ones geometric in batch and
context. Steps: cycles of a table are taken for batches that were timed; the rest of the table judges.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.fit import fit_parameters
from roofml.calibration.forwards.cases import Case, Limits, limits_of
from roofml.calibration.forwards.design import design, joint, steps_of_load
from roofml.calibration.forwards.fit import CASE_SD, fit_forwards
from roofml.calibration.forwards.offsets import ABSENT, stairs
from roofml.calibration.information import Belief, chosen
from roofml.calibration.measured_load import at_measured_load
from roofml.calibration.objective import times_and_gradients
from roofml.calibration.step_level.fit import StepBlock, StepData, block, read_step_data
from roofml.engine.replay import Schedule
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.deployment import deployment_of
from roofml.latency.formula import step_times
from roofml.latency.parameters import LOGARITHMIC, NAMES, STEP_COUNT, Parameters, to_coordinates
from roofml.traces.forwards import TimedRequest
from roofml.traces.read import read_run
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.arrays import Bools, Floats
from roofml.validation.synthetic_forwards import timed

LOADS = (
    "llama-2-7b-tp1-general",
    "codellama-34b-tp2-codegen",
    "llama-2-70b-tp4-general",
    "mixtral-8x7b-v0-1-tp2-general",
)
COUNTS = (10, 40)
SERVERS = 10
REACH_90 = 1.645
CYCLE_SD, PROMPT_SD = 0.01, 0.2
"""Relative: of a cycle time by its two clocks, and of what a prompt takes whose context is not in the table."""


def random_cases(limits: Limits, count: int, seed: int) -> list[Case]:
    """Batches with sizes and contexts uniform within the limits: a third decodes, a third prompts, a third both."""
    random = np.random.default_rng(seed)
    found: list[Case] = []
    while len(found) < count:
        number = len(found)
        decodes = (
            TimedRequest(1, int(random.integers(1, limits.longest))),
            int(random.integers(1, limits.requests + 1)),
        )
        new = int(random.integers(16, min(limits.budget, limits.longest) + 1))
        context = int(random.integers(0, limits.longest - new + 1))
        prompt = (TimedRequest(new, context, chunked=context > 0), 1)
        case = Case(f"r{number}", ((decodes,), (prompt,), (prompt, decodes))[number % 3])
        if limits.allow(case):
            found.append(case)
    return found


def grid_cases(limits: Limits, count: int, _seed: int) -> list[Case]:
    """Geometric in batch and context, half of them decodes and half prompts."""
    side = max(2, round((count / 2) ** 0.5))
    batches = np.unique(np.geomspace(1, min(256, limits.requests), side).astype(int))
    contexts = np.unique(np.geomspace(128, min(16384, limits.longest - 1), side + 1).astype(int))
    decodes = [Case(f"d{b}_{c}", ((TimedRequest(1, int(c)), int(b)),)) for b, c in product(batches, contexts)]
    sizes = np.unique(np.geomspace(64, min(limits.budget, limits.longest // 2), side).astype(int))
    before = [0, *np.unique(np.geomspace(512, min(16384, limits.longest // 2), side).astype(int))]
    prompts = [
        Case(f"p{n}_{c}", ((TimedRequest(int(n), int(c), chunked=bool(c)), 1),)) for n, c in product(sizes, before)
    ]
    allowed = [[case for case in kind if limits.allow(case)][: count // 2] for kind in (decodes, prompts)]
    return [*allowed[0], *allowed[1]]


@dataclass
class Score:
    """Errors of one way of choosing batches, over servers."""

    whole: list[Floats] = field(default_factory=list[Floats])
    forward: list[Floats] = field(default_factory=list[Floats])

    def row(self) -> str:
        """Cells of a table."""
        return " | ".join(
            f"{100 * np.median(e):.2f} | {100 * np.quantile(e, 0.9):.2f}"
            for e in (np.concatenate(self.forward), np.concatenate(self.whole))
        )


def errors(calibration: Calibration, steps: StepSums, values: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """(steps,) |error| of the whole step, and with what forwards do not tell of taken from the truth."""
    tables, known = calibration.deployment.tables, values.copy()
    for name in ABSENT:
        known[NAMES.index(name)] = truth[NAMES.index(name)]
    true = step_times(tables, steps, Parameters.of(truth).step)
    both = (step_times(tables, steps, Parameters.of(v).step) for v in (values, known))
    whole, forward = (np.abs(found / true - 1) for found in both)
    return whole, forward


def made_up(folder: Path, servers: int) -> Iterator[str]:
    """A table of errors, and how often what a design calls identified is inside its interval."""
    inside: list[bool] = []
    pooled: dict[str, Score] = {}
    yield "| load | batches | forward: median % | p90 % | step: median % | p90 % |"
    yield "|---|---|---|---|---|---|"
    for load in LOADS:
        run = read_run(next(folder.glob(f"*{load}")), gpu="H100")
        calibration = uncalibrated(deployment_of([run]))
        deployment, limits = calibration.deployment, limits_of(calibration.deployment)
        steps = steps_of_load(calibration.replay(run).schedule.steps)
        began = time.perf_counter()
        designs = {count: design(calibration, limits, steps, count=count) for count in COUNTS}
        took = time.perf_counter() - began
        ways: dict[str, Callable[[int], Sequence[Case]]] = {}
        for count in COUNTS:
            ways[f"{count} designed"] = partial(_always, designs[count].cases)
            ways[f"{count} random"] = partial(random_cases, limits, count)
            ways[f"{count} grid"] = partial(grid_cases, limits, count)
        scores = {way: Score() for way in ("prior", *ways)}
        for number, truth in enumerate(calibration.draws(servers)):
            _add(scores["prior"], errors(calibration, steps, calibration.values, truth))
            for way, cases in ways.items():
                made = timed(deployment, truth, cases(number), seed=number)
                posterior = fit_forwards(deployment, calibration.posterior.prior, made).posterior
                _add(scores[way], errors(calibration, steps, posterior.values, truth))
                if way == f"{COUNTS[-1]} designed":
                    away = np.abs(to_coordinates(posterior.values) - to_coordinates(truth)) / posterior.sd
                    inside += [bool(away[NAMES.index(name)] < REACH_90) for name in designs[COUNTS[-1]].identified]
        for way, score in scores.items():
            yield f"| {load} | {way} | {score.row()} |"
            pooled.setdefault(way, Score())
            pooled[way].whole += score.whole
            pooled[way].forward += score.forward
        yield f"| {load} | designs took {took:.1f} s | | | | |"
    for way, score in pooled.items():
        yield f"| all | {way} | {score.row()} |"
    yield f"\nIdentified parameters inside their 90 % interval: {100 * np.mean(inside):.1f} % of {len(inside)}"


def _always(cases: Sequence[Case], _seed: int) -> Sequence[Case]:
    return cases


def _add(score: Score, both: tuple[Floats, Floats]) -> None:
    score.whole.append(both[0])
    score.forward.append(both[1])


def of_steps(folder: Path, tables: Path) -> Iterator[str]:
    """A table of errors on the rest of each table of steps, by which of its cycles were learned from."""
    yield "| steps | learned from | median % | p90 % |"
    yield "|---|---|---|---|"
    for path in sorted(tables.glob("*.parquet")):
        run = read_run(folder / path.stem, gpu="H100")
        calibration = uncalibrated(deployment_of([run]))
        (data,) = read_step_data([path], [run])
        selection = Selection.of(run, np.zeros(len(run), np.bool_))
        values, prior, physics = calibration.values, calibration.posterior.prior, calibration.deployment.tables
        schedule = at_measured_load(Selection.of(run, run.ok), physics, values)
        whole = block(data, run, schedule, physics, values, None)
        picks = _picks(whole, values, calibration)
        for way, places in (("nothing (prior)", []), *picks):
            fitted, pace = values, 1.0
            if places:
                mask = np.zeros(len(whole.measured_us), np.bool_)
                mask[places] = True
                found = fit_parameters(
                    [selection], physics, prior=prior, more=partial(_learned, data, run, schedule, physics, mask)
                )
                fitted, pace = found.values, found.paces.get(run.identity, 1.0)
            rest = np.setdiff1d(np.arange(len(whole.measured_us)), places)
            off = np.abs(pace * _cycle_us(whole, fitted) / whole.measured_us - 1)[rest]
            yield f"| {path.stem} | {way} | {100 * np.median(off):.2f} | {100 * np.quantile(off, 0.9):.2f} |"


def _learned(
    data: StepData,
    run: Run,
    schedule: Schedule,
    physics: ComponentTables,
    mask: Bools,
    _schedules: Sequence[Schedule],
    values: Floats,
) -> list[StepBlock]:
    return [block(data, run, schedule, physics, values, mask)]


def _cycle_us(cycles: StepBlock, values: Floats) -> Floats:
    times, _ = times_and_gradients(values[:STEP_COUNT], cycles.columns, cycles.tables)
    return cycles.made_of.mean(times[: len(cycles.made_of.weight)])


def _picks(cycles: StepBlock, values: Floats, calibration: Calibration) -> list[tuple[str, list[int]]]:
    """Cycles to learn from, of those of which most is known: designed, at random, and even in batch and new tokens."""
    times, gradients = times_and_gradients(values[:STEP_COUNT], cycles.columns, cycles.tables)
    count = len(cycles.made_of.weight)
    means = cycles.made_of.mean(np.vstack((gradients, times))[:, :count])
    slopes = np.zeros((len(cycles.measured_us), len(NAMES)))
    slopes[:, :STEP_COUNT] = (means[:-1] / means[-1]).T * np.where(LOGARITHMIC, values, 1.0)[:STEP_COUNT]
    unknown = cycles.made_of.spread(times[:count]) / means[-1]
    calm = np.flatnonzero(unknown <= max(0.01, float(np.quantile(unknown, 0.25))))
    steps = cycles.made_of
    batch, new = steps.mean(steps.steps.requests), steps.mean(steps.steps.prefill_tokens)
    # Of a sampled prompt the table has the tokens and not the context: what it takes is known by so much less.
    prompts = slopes[:, NAMES.index("prefill_gemm")] + slopes[:, NAMES.index("prefill_attention")]
    sd = np.hypot(np.hypot(CASE_SD, CYCLE_SD), np.hypot(unknown, PROMPT_SD * prompts))[calm]
    (sizes,) = stairs(np.rint(batch + new)[calm].astype(int).tolist())
    covariance = joint(calibration.posterior.covariance, sizes.shape[1])
    offsets = np.zeros((len(slopes), len(covariance) - len(NAMES)))
    rows = np.hstack((slopes, offsets))[calm]
    rows[:, len(covariance) - sizes.shape[1] :] = sizes
    belief = Belief(rows / sd[:, None], np.hstack((slopes, offsets)))
    order = np.lexsort((new[calm], np.round(batch[calm] / 8)))
    found: list[tuple[str, list[int]]] = []
    for size in COUNTS:
        found.append((f"{size} designed", [int(calm[i]) for i in chosen(covariance, [belief], size)]))
        even = order[np.linspace(0, len(order) - 1, size).astype(int)]
        found.append((f"{size} grid", [int(calm[i]) for i in even]))
        for seed in range(3):
            random = np.random.default_rng(seed).permutation(len(calm))[:size]
            found.append((f"{size} random ({seed + 1})", [int(calm[i]) for i in random]))
    return found


def main(words: Sequence[str]) -> None:
    """Print what is asked for."""
    if len(words) < 2 or words[0] not in ("made-up", "steps"):
        raise SystemExit(__doc__)
    if words[0] == "steps":
        lines = of_steps(Path(words[1]), Path(words[2]))
    else:
        lines = made_up(Path(words[1]), int(words[2]) if len(words) > 2 else SERVERS)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
