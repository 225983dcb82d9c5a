"""How often `roofml check` is right: on made-up pairs of runs whose change is known, and on halves of real runs.

    python benchmarks/drift.py pairs [--pairs 200] [--seed 0] [--jobs 2]
    python benchmarks/drift.py halves ../shared/groundtruth/*

`pairs`: of each pair the first run is fitted. The second is of another server, whose pace is drawn, and is checked four
times: as it is, with every step 1.5 % longer or shorter, with one component longer so that the mean step grows by 3 %,
and with every step 3 % longer from the middle on. Latencies get the noise of the public runs (below).

`halves`: each run's second half against a fit of its first.
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from roofml.calibration import objective
from roofml.calibration.calibrate import fit, load
from roofml.calibration.calibration import Calibration
from roofml.engine.replay import replay
from roofml.latency.formula import step_times
from roofml.latency.parameters import LOGARITHMIC, NAMES, Parameters
from roofml.planning.changes import COMPONENTS, FRONT_END
from roofml.planning.drift import Drift, check
from roofml.traces.read import read_runs
from roofml.traces.run import Run
from roofml.traces.selection import trainable
from roofml.traces.server import Server, ServerOverrides
from roofml.util.arrays import Floats, Ints
from roofml.util.errors import InputError
from roofml.util.package_data import data_folder

REQUESTS = 1000
SERVER_SD = 0.003
"""Relative, of the other server's pace."""
STEP_NOISE = (0.0090, 0.0061, 0.0118, 0.0124, 0.0138, 0.0261, 0.0192, 0.0128, 0.0066, 0.0060)
"""Relative noise of the mean step of a second, one figure a run. From the ten public runs that are not saturated
(inference-sim/training, vLLM 0.15.1 on H100), each second half against a fit of the first: standard deviation of the
means of decode residuals over a second of arrivals, 0.3 to 1.2 %, times the root of mean E2E in seconds, for the
residual of a request is the mean of the steps that it met. Means over 12 to 100 s then scatter as theirs do."""
SLOW_S, SLOW_SD = 50.0, 0.0015
"""Besides, from one such stretch to the next."""
OWN_SD = 0.0003
"""Of a request's decode time: neighbours differ by 0.02 to 0.05 %."""
TTFT_SD, TTFT_FAR, TTFT_FAR_BY = 0.10, 0.005, 5.0
"""Of a request's TTFT; 0.1 to 1 % are far off, by so many times as much."""
DRIFT, COMPONENT_GROWTH, LATER_GROWTH = 0.015, 0.03, 0.03
CHANGED = {"slower", "faster", "component"}
MODELS = (
    "llama-2-7b-hf-h100-tp1",
    "codellama-34b-instruct-hf-h100-tp2",
    "llama-2-70b-hf-h100-tp4",
    "mixtral-8x7b-v0.1-h100-tp2",
)


@dataclass(frozen=True)
class Outcome:
    """What was said of one pair: truth, and verdicts."""

    held: bool
    false_alarm: bool
    drift_found: bool
    component: str | None
    """The changed component; None where the load tells none from the others."""
    component_named: str | None
    later_found: bool
    later_off: float
    """How far the time that was said is from the true one, as a share of the run; NaN where none was."""


def a_load(rng: np.random.Generator, kind: str) -> tuple[Floats, Floats, Floats, Ints]:
    """Arrivals, µs, prompts, outputs and groups of prompts: as in the public runs, or as in a chat."""
    if kind == "public":
        rate = np.repeat([5.0, 10.0], REQUESTS // 2)
        group = np.arange(REQUESTS) % 100
        prompt = rng.normal(580, 10, 100)[group]
        output = np.full(REQUESTS, 248.0)
    else:
        rate = np.repeat([3.0, 6.0, 9.0, 12.0], REQUESTS // 4)
        prompt = np.clip(rng.lognormal(np.log(500), 0.7, REQUESTS), 16, 3000)
        output = np.clip(rng.lognormal(np.log(150), 0.6, REQUESTS), 2, 900)
        group = np.full(REQUESTS, -1)
    return np.cumsum(rng.exponential(1e6 / rate)), prompt, output, group.astype(np.int64)


def a_run(rng: np.random.Generator, calibration: Calibration, kind: str, name: str) -> Run:
    """A run that is not served yet."""
    arrival, prompt, output, group = a_load(rng, kind)
    deployment = calibration.deployment
    prompts = prompt.astype(np.int64)
    return Run(
        name=name,
        server=Server(
            deployment.hf_repo,
            deployment.tp,
            max_num_seqs=128,
            max_num_batched_tokens=2048,
            block_size=16,
            num_gpu_blocks=20_000,
            max_model_len=4096,
            gpu=deployment.gpu.name,
            engine_version=deployment.engine.version,
        ),
        request_id=np.arange(REQUESTS),
        arrival_us=arrival,
        prompt_tokens=prompts,
        output_tokens=output.astype(np.int64),
        prefix_group=group,
        prefix_tokens=np.where(group >= 0, prompts, 0),
        ttft_us=np.full(REQUESTS, np.nan),
        e2e_us=np.full(REQUESTS, np.nan),
        ok=np.ones(REQUESTS, np.bool_),
    )


def serve(rng: np.random.Generator, calibration: Calibration, run: Run, values: Floats, later: float = 0.0) -> Run:
    """The run as a server with these parameters would have answered it, whose steps are `later` longer from the middle
    on; with noise."""
    tables = calibration.deployment.serving(run.server).tables
    served = replay(run, tables, Parameters.of(values))
    schedule = served.schedule
    start_s, time_us = schedule.step_start_us / 1e6, schedule.step_time_us
    second = start_s.astype(np.int64)
    noise = float(rng.choice(STEP_NOISE)) * rng.standard_normal(int(second[-1]) + 1)[second]
    stretch = (start_s / SLOW_S).astype(np.int64)
    noise += SLOW_SD * rng.standard_normal(int(stretch[-1]) + 1)[stretch]
    noise += later * (start_s > 0.5 * run.arrival_us[-1] / 1e6)
    longer = np.concatenate(([0.0], np.cumsum(time_us * noise)))
    first, last = schedule.first_step, schedule.last_step
    decode = served.e2e_us - served.ttft_us + longer[last + 1] - longer[first + 1]
    decode *= np.exp(OWN_SD * rng.standard_normal(len(run)))
    far = np.where(rng.random(len(run)) < TTFT_FAR, TTFT_FAR_BY, 1.0)
    ttft = (served.ttft_us + time_us[first] * noise[first]) * np.exp(TTFT_SD * far * rng.standard_normal(len(run)))
    return replace(run, ttft_us=ttft, e2e_us=ttft + decode, identity="")


def paced(values: Floats, pace: float) -> Floats:
    """Parameter values of a server whose steps take `pace` times as long."""
    parameters = Parameters.of(values).paced(pace)
    return np.array([*parameters.step, *parameters.request])


def grown(calibration: Calibration, run: Run, values: Floats, component: str) -> Floats:
    """Parameter values with the component longer, so that the mean step of the run grows by `COMPONENT_GROWTH`."""
    tables = calibration.deployment.serving(run.server).tables
    steps = replay(run, tables, Parameters.of(values)).schedule.steps
    place = NAMES.index(component)

    def mean_us(changed: Floats) -> float:
        return float(step_times(tables, steps, Parameters.of(changed).step).mean())

    target = mean_us(values) * (1 + COMPONENT_GROWTH)
    low = values[place]
    high = values[place] * 10 if LOGARITHMIC[place] else values[place] + 20_000.0
    for _ in range(40):
        middle = float(np.sqrt(low * high)) if LOGARITHMIC[place] else 0.5 * (low + high)
        tried = np.where(np.arange(len(values)) == place, middle, values)
        low, high = (middle, high) if mean_us(tried) < target else (low, middle)
    return np.where(np.arange(len(values)) == place, high, values)


def _said(calibration: Calibration, run: Run) -> Drift:
    """The verdict; a run that is refused counts as one that was not found to hold or to have changed."""
    try:
        return check(calibration, run)
    except InputError as error:
        return Drift(run.name, "", "mismatch", (str(error),))


def one_pair(seed: int) -> Outcome:
    """Fit one run, check the other four times."""
    objective.STEP_PADDING = 8192  # a thousand requests take a few thousand steps
    rng = np.random.default_rng(seed)
    truth = load(data_folder("coeffs") / f"{MODELS[seed % len(MODELS)]}.yaml")
    kind = ("public", "chat")[seed // len(MODELS) % 2]
    calibration = fit([serve(rng, truth, a_run(rng, truth, kind, "calibrated"), truth.values)])
    other = a_run(rng, truth, kind, "checked")
    values = paced(truth.values, float(np.exp(SERVER_SD * rng.standard_normal())))
    held = _said(calibration, serve(rng, truth, other, values))
    drift = _said(calibration, serve(rng, truth, other, paced(values, 1 + DRIFT * rng.choice([-1, 1]))))
    nameable = [name for name in held.nameable if name in COMPONENTS and name not in FRONT_END]
    changed = str(rng.choice(nameable)) if nameable else None
    named: Drift | None = None
    if changed is not None:
        named = _said(calibration, serve(rng, truth, other, grown(truth, other, values, changed)))
    later = _said(calibration, serve(rng, truth, other, values, LATER_GROWTH))
    off = float("nan") if not later.since_request else later.since_request / REQUESTS
    half = np.count_nonzero(other.arrival_us < 0.5 * other.arrival_us[-1]) / REQUESTS
    return Outcome(
        held.verdict == "holds",
        held.verdict in CHANGED,
        drift.verdict in CHANGED,
        changed,
        None if named is None else named.component or named.verdict,
        later.verdict in CHANGED,
        off - half,
    )


def judge_pairs(pairs: int, seed: int, jobs: int) -> None:
    """Print how often the verdicts were right."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        outcomes = list(pool.map(one_pair, range(seed, seed + pairs)))
    print(f"{pairs} pairs of {REQUESTS} requests, another server's pace of sd {100 * SERVER_SD:.1f} %")
    print(f"no change: holds in {100 * np.mean([of.held for of in outcomes]):.1f} %, a change said in "
          f"{100 * np.mean([of.false_alarm for of in outcomes]):.1f} %")  # fmt: skip
    print(f"every step {100 * DRIFT:.1f} % longer or shorter: found in "
          f"{100 * np.mean([of.drift_found for of in outcomes]):.1f} %")  # fmt: skip
    changed = [of for of in outcomes if of.component is not None]
    right = [of.component == of.component_named for of in changed]
    print(f"one component longer, the mean step {100 * COMPONENT_GROWTH:.0f} %: named rightly in "
          f"{100 * np.mean(right) if right else float('nan'):.1f} % of {len(changed)}")  # fmt: skip
    for (true, said), count in sorted(Counter((of.component, of.component_named) for of in changed).items()):
        print(f"  {true:<20} said {said:<20} {count}")
    off = np.array([of.later_off for of in outcomes])
    print(f"every step {100 * LATER_GROWTH:.0f} % longer from the middle on: found in "
          f"{100 * np.mean([of.later_found for of in outcomes]):.1f} %, a time said in "
          f"{100 * np.mean(np.isfinite(off)):.1f} %, off by {100 * np.nanmedian(np.abs(off)):.1f} % of the run "
          "(median)")  # fmt: skip


def judge_halves(folders: list[Path], gpu: str) -> None:
    """Print what is said of the second half of each run, by a fit of its first."""
    verdicts: list[str] = []
    for run in trainable(read_runs(folders, ServerOverrides(gpu=gpu), strict=False)):
        drift = check(fit([run], until=0.5), run, after=0.5)
        verdicts.append(drift.verdict)
        low, high = drift.interval_90_pct or (float("nan"), float("nan"))
        print(f"{run.name:<50} {drift.verdict:<10} {drift.value_pct or 0.0:+.2f} % ({low:+.2f} to {high:+.2f})")
    print(f"holds in {verdicts.count('holds')} of {len(verdicts)}")


def main() -> None:
    """Judge pairs or halves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pairs = commands.add_parser("pairs")
    pairs.add_argument("--pairs", type=int, default=200)
    pairs.add_argument("--seed", type=int, default=0)
    pairs.add_argument("--jobs", type=int, default=2)
    halves = commands.add_parser("halves")
    halves.add_argument("folders", type=Path, nargs="+")
    halves.add_argument("--gpu", default="H100")
    given = parser.parse_args()
    if given.command == "pairs":
        judge_pairs(given.pairs, given.seed, given.jobs)
    else:
        judge_halves(given.folders, given.gpu)


if __name__ == "__main__":
    main()
