"""Coefficients for a model that nobody has served: BLIS's form matched to our step times over the batches that matter.

Our physics, with the priors alone, gives the time of any step. The betas bring BLIS's formula nearest to these times,
relative to each time, on the batches of a load, or on all that a server may meet. How near they come is measured on
batches that were not matched, and that is what the file claims. A form that comes no nearer than a bound is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from roofml.blis.deployment import BlisCoefficients, BlisDeployment, hardware_of
from roofml.blis.fit import PRIORS, RunErrors
from roofml.blis.latency import BETA_NAMES, basis, betas_from_step_times
from roofml.blis.model_view import blis_model
from roofml.calibration.calibrate import physics
from roofml.calibration.calibration import Calibration
from roofml.export.defaults import ModelEntry
from roofml.export.deployment import BlisExport
from roofml.export.hub_name import config_name, hub_repository
from roofml.export.matched_batches import Batches, all_batches, load_batches
from roofml.export.queueing import on_server, queueing_for
from roofml.hardware.gpu import load_gpu
from roofml.latency.batch import StepSums
from roofml.latency.formula import step_times
from roofml.latency.kv_capacity import kv_capacity
from roofml.latency.server_defaults import default_batch
from roofml.models.spec import config_path
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats
from roofml.util.errors import InputError
from roofml.util.reading import read_json_object
from roofml.workloads.load import Load

PRIOR_WEIGHT = 0.002
"""Pull towards the priors of `blis.fit`, in relative error of a step per prior standard deviation. It is enough to
choose between terms that are the same number in every step, such as weights and layers of a dense model."""
RANGES = (1, 8, 32, 128, 512)
"""Decodes of a step above which another claim begins."""
MOST_MEDIAN_PCT, MOST_P99_PCT, MOST_E2E_PCT = 10.0, 35.0, 5.0
"""The form is refused where it is further from our times than this in half of the usual steps, and in one of a hundred,
or, where the load is known, in its mean E2E: BLIS's own set is 0 to 15 % off on most deployments it was made for."""
MIDDLING = 64
"""Running requests for which α0 is right where no load is given, or half of the seats if that is fewer."""

MOST_GPUS, MOST_SEQUENCES, MOST_TOKENS = 1024, 65_536, 1_048_576
"""Largest tensor parallel size, requests in a step and new tokens in a step: what is allocated grows with them."""


@dataclass(frozen=True)
class Claim:
    """How far BLIS's form is from our times of steps that were not matched, %, unsigned."""

    batch: tuple[int, int]
    """Fewest and most decodes of the steps."""
    steps: int
    median_pct: float
    p99_pct: float
    worst_pct: float

    def __str__(self) -> str:
        """For people."""
        few, most = self.batch
        batch = f"{few}" if few == most else f"{few}-{most}"
        return f"{batch} decodes: {self.median_pct:.1f} % (median), {self.worst_pct:.1f} % (worst)"


@dataclass(frozen=True)
class Derived:
    """Derived coefficients, and what was measured of them."""

    coefficients: BlisCoefficients
    what: str
    """On which batches."""
    usual: Claim
    """Over the steps by which it is judged."""
    by_batch: tuple[Claim, ...]
    """The same by decodes in the step."""
    every: Claim
    """Over all that were not matched, long prompts beside few decodes included."""
    latencies: RunErrors | None
    """BLIS's replay of the load against ours; None without a load."""

    @property
    def is_near(self) -> bool:
        """Whether the form is within the bounds."""
        if self.latencies is None:
            return self.usual.median_pct <= MOST_MEDIAN_PCT and self.usual.p99_pct <= MOST_P99_PCT
        return self.usual.median_pct <= MOST_MEDIAN_PCT and abs(self.latencies.e2e_pct) <= MOST_E2E_PCT

    @property
    def too_far(self) -> str:
        """How far it is, and how far it may be, for whoever is refused."""
        found = f"{self.usual.median_pct:.1f} % (median) and "
        if self.latencies is None:
            found += f"{self.usual.p99_pct:.1f} % (99 of 100) from our times on {self.what}"
            return f"{found}, expected at most {MOST_MEDIAN_PCT:g} and {MOST_P99_PCT:g} %"
        found += f"in mean E2E {self.latencies.e2e_pct:+.1f} % from our times on {self.what}"
        return f"{found}, expected at most {MOST_MEDIAN_PCT:g} and {MOST_E2E_PCT:g} %"

    def lines(self) -> tuple[str, ...]:
        """What the file says of itself."""
        usual = self.usual
        told = [
            "derived by roofml from config, datasheet and kernel measurements: not fitted to any trace",
            f"BLIS's form on {self.what}, {usual.steps} of which were not matched: {usual.median_pct:.1f} % (median), "
            f"{usual.p99_pct:.1f} % (99 of 100), {usual.worst_pct:.1f} % (worst) from our time of a step",
            f"by decodes in a step: {'; '.join(map(str, self.by_batch))}",
        ]
        if self.latencies is not None:
            means = self.latencies
            told.append(
                f"replayed as BLIS does, that load comes to E2E {means.e2e_pct:+.1f} %, TTFT {means.ttft_pct:+.1f} %, "
                f"TPOT {means.tpot_pct:+.1f} % of our own replay"
            )
        return tuple(told)

    def to_dict(self) -> dict[str, Any]:
        """As `export blis --derive --json` has it."""
        return {
            "batches": self.what,
            "within_bounds": self.is_near,
            "usual": asdict(self.usual),
            "by_batch": [asdict(claim) for claim in self.by_batch],
            "every": asdict(self.every),
            "latencies": None if self.latencies is None else asdict(self.latencies),
        }


def derive(native: Calibration, blis: BlisDeployment, max_num_seqs: int, run: Run | None = None) -> Derived:
    """Match BLIS's betas to native step times: of the load `run`, or of batches up to `max_num_seqs` requests.

    α0 makes the mean TTFT of the load that of our replay; without a load it holds what a request waits for at a
    middling one: BLIS has no step in flight while the next is formed, and no front end that grows busy.
    """
    batches = all_batches(native, max_num_seqs) if run is None else load_batches(native, run)
    matrix = basis(blis, batches.steps)
    betas = _betas(batches, matrix)
    error: Floats = 100 * np.abs(matrix @ betas / batches.times_us - 1)
    judged: Bools = ~batches.fitted
    if run is None:
        queueing, latencies = _middling_queueing(native, max_num_seqs), None
    else:
        queueing, latencies = queueing_for(native, blis, run, (0.0, 0.0, 0.0), betas.tolist())
    return Derived(
        BlisCoefficients.of([round(queueing, 3), 0.0, 0.0], betas.tolist()),
        batches.what,
        _claim(batches, error, judged & batches.usual),
        _by_batch(batches, error, judged & batches.usual),
        _claim(batches, error, judged),
        latencies,
    )


def derived_export(
    model: str,
    gpu: str,
    tp: int,
    max_num_seqs: int | None,
    budget: int | None,
    load: Load | None = None,
    *,
    accept_error: bool = False,
) -> tuple[BlisExport, Derived]:
    """Derive coefficients from physics and priors alone, with the KV blocks that config and datasheet allow.

    Limits default to vLLM's on this GPU. Raises InputError, naming the option, for a limit that no server has, and,
    unless `accept_error`, where BLIS's form is too far from our times.
    """
    usual_budget, usual_seqs = default_batch(load_gpu(gpu))
    max_num_seqs = usual_seqs if max_num_seqs is None else max_num_seqs
    budget = usual_budget if budget is None else budget
    for option, value, most in (
        ("--tp", tp, MOST_GPUS),
        ("--max-num-seqs", max_num_seqs, MOST_SEQUENCES),
        ("--max-num-batched-tokens", budget, MOST_TOKENS),
    ):
        if not 1 <= value <= most:
            raise InputError(f"{option} {value}: expected between 1 and {most}")
    native = physics(model, gpu, tp, budget=budget)
    deployment = native.deployment
    raw = read_json_object(config_path(config_name(model)))
    blis = BlisDeployment(blis_model(raw, deployment.model.name), hardware_of(deployment.gpu), tp)
    capacity = kv_capacity(
        deployment.model, deployment.gpu, tp, max_num_batched_tokens=budget, max_num_seqs=max_num_seqs, block_size=16
    )
    run = None
    if load is not None:
        run = on_server(load, model, deployment.gpu.name, tp, (max_num_seqs, budget, 16, capacity.blocks))
    derived = derive(native, blis, max_num_seqs, run)
    if not derived.is_near and not accept_error:
        way_out = "--load LOAD matches the batches of yours" if load is None else "its form says no better"
        where = f"{deployment.model.name} on {deployment.gpu.name}, TP {tp}"
        raise InputError(f"{where}: BLIS's form is {derived.too_far}: {way_out}, --accept-error writes it all the same")
    return BlisExport(
        model=ModelEntry(deployment.model.name, deployment.gpu.name, tp, hub_repository(model)),
        coefficients=derived.coefficients,
        total_kv_blocks=capacity.blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        provenance=derived.lines(),
        warnings=() if derived.is_near else (f"BLIS's form does not fit {deployment.model.name}: {derived.usual}",),
        config=model,
        config_sha256=deployment.model.config_sha256,
    ), derived


def _betas(batches: Batches, matrix: Floats) -> Floats:
    """The betas that are nearest on the fitted batches, with the digits that are written.

    Residuals are relative to each time.
    """
    fitted = batches.fitted
    times, weights = batches.times_us[fitted], batches.weights[fitted]
    centre = np.array([PRIORS[name].mean for name in BETA_NAMES])
    spread = np.array([PRIORS[name].spread for name in BETA_NAMES])
    pull = PRIOR_WEIGHT / spread * np.sqrt(weights.sum())
    found = betas_from_step_times(matrix[fitted], times, weights, prior=centre, prior_weight=pull)
    return np.array([float(f"{beta:.6g}") for beta in found])


def _claim(batches: Batches, error: Floats, chosen: Bools) -> Claim:
    decodes, far = batches.steps.decodes[chosen], error[chosen]
    return Claim(
        (int(decodes.min()), int(decodes.max())),
        int(chosen.sum()),
        float(np.median(far)),
        float(np.percentile(far, 99)),
        float(far.max()),
    )


def _by_batch(batches: Batches, error: Floats, chosen: Bools) -> tuple[Claim, ...]:
    place = np.searchsorted(RANGES[1:], batches.steps.decodes)
    groups = [chosen & (place == number) for number in range(len(RANGES))]
    return tuple(_claim(batches, error, group) for group in groups if group.any())


def _middling_queueing(native: Calibration, max_num_seqs: int) -> float:
    """α0, µs, at `MIDDLING` running requests: the front end, and a step of the pipeline."""
    tables, (step, request, _) = native.deployment.tables, native.parameters
    middling = [[(1, 1024, 0)] * max(1, min(2 * MIDDLING, max_num_seqs, native.deployment.budget) // 2)]
    pace = float(step_times(tables, StepSums.from_requests(middling, tables.reaches), step)[0])
    return request.queueing_us + request.queueing_per_running_us * len(middling[0]) + request.pipeline_delay_us + pace
