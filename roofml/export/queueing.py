"""α0 of a load: the wait before a step with which BLIS's mean TTFT is that of our own replay.

BLIS's form has one constant for what grows with the load: a front end that shares its processor with the requests that
run, and the step in flight that a new request waits for. A fit makes it right on the average of its runs. Where the
load that will be simulated is known, so is its average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from roofml.blis.deployment import BlisCoefficients, BlisDeployment, hardware_of
from roofml.blis.fit import RunErrors, errors_of
from roofml.blis.model_view import blis_model
from roofml.blis.replay import for_blis
from roofml.blis.replay import replay as replay_blis
from roofml.calibration.calibrate import load as load_calibration
from roofml.calibration.calibration import Calibration
from roofml.engine.replay import Replay
from roofml.export.deployment import BlisExport
from roofml.export.folder import config_of
from roofml.hardware.gpu import load_gpu
from roofml.latency.server_defaults import default_batch
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.reading import read_json_object
from roofml.workloads.load import Load

ROUNDS = 4
"""Replays in which α0 is found; each moves TTFT by what is left."""


def queueing_for(
    native: Calibration, blis: BlisDeployment, run: Run, alphas: Sequence[float], betas: Sequence[float]
) -> tuple[float, RunErrors]:
    """α0, µs, for the requests of `run`, and how far BLIS then is from our replay of them.

    `alphas` are what to begin with; the others of them stay.
    """
    ours = as_sent(run, native.replay(run))
    queueing, as_read = float(alphas[0]), for_blis(ours)
    for _ in range(ROUNDS):
        served = replay_blis(as_read, blis, [queueing, *alphas[1:]], betas)
        both = ours.ok & np.isfinite(served.ttft_us)
        queueing = max(0.0, round(queueing + float(np.mean(ours.ttft_us[both] - served.ttft_us[both])), 3))
    served = replay_blis(as_read, blis, [queueing, *alphas[1:]], betas)
    return queueing, errors_of(ours, served.ttft_us, served.e2e_us)


def for_load(export: BlisExport, coeffs: Path, load: Load) -> BlisExport:
    """The export with α0 of a load, by the calibration of ours in the same file.

    Raises InputError for a load that the server could not run, and where our calibration is over other tables.
    """
    native, model = load_calibration(coeffs), export.model
    run = on_its_server(load, export)
    config = config_of(export)
    read = blis_model(read_json_object(config), config.parent.name)
    blis = BlisDeployment(read, hardware_of(native.deployment.gpu), model.tensor_parallel)
    alphas, betas = export.coefficients.alphas, export.coefficients.betas
    queueing, errors = queueing_for(native, blis, run, alphas, betas)
    means = f"TTFT {errors.ttft_pct:+.1f} %, E2E {errors.e2e_pct:+.1f} %, TPOT {errors.tpot_pct:+.1f} %"
    told = (
        f"its first alpha is for the load {load.name} (over the runs of the fit it was {alphas[0]:g}): there the means "
        f"of BLIS, in our replay of it, are {means} from those of our own"
    )
    return replace(
        export,
        coefficients=BlisCoefficients.of((queueing, *alphas[1:]), betas),
        provenance=(*export.provenance, told),
    )


def on_its_server(load: Load, export: BlisExport) -> Run:
    """The requests of a load on the server that coefficients are for. Limits that they do not say are vLLM's."""
    gpu = load_gpu(export.model.gpu)
    usual_budget, usual_seats = default_batch(gpu)
    seats, budget = export.max_num_seqs or usual_seats, export.max_num_batched_tokens or usual_budget
    limits = (seats, budget, export.block_size, export.total_kv_blocks)
    return on_server(load, export.config or export.model.name, gpu.name, export.model.tensor_parallel, limits)


def as_open(load: Load, export: BlisExport, coeffs: Path) -> Run:
    """The same, of a closed loop at the times at which its clients send in our own replay: a trace has no clients."""
    run = on_its_server(load, export)
    if not run.clients:
        return run
    nothing, nobody = np.full(len(run), np.nan), np.zeros(len(run), np.bool_)
    return replace(as_sent(run, load_calibration(coeffs).replay(run)), ttft_us=nothing, e2e_us=nothing, ok=nobody)


def on_server(load: Load, model: str, gpu: str, tp: int, limits: tuple[int, int, int, int]) -> Run:
    """The requests of a load on a server that has served before: seats, budget, block size and KV blocks."""
    longest = int((load.prompt_tokens + load.output_tokens).max())
    return load.run(Server(model, tp, *limits, longest, gpu=gpu, fresh=False))


def as_sent(run: Run, replay: Replay) -> Run:
    """The requests as our replay served them, at the times at which they were sent: of a closed loop too."""
    order = np.argsort(replay.schedule.arrival_us, kind="stable")
    columns = ("request_id", "prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens")
    return replace(
        run,
        **{name: getattr(run, name)[order] for name in columns},
        arrival_us=replay.schedule.arrival_us[order],
        ttft_us=replay.ttft_us[order],
        e2e_us=replay.e2e_us[order],
        ok=replay.completed[order],
        clients=0,
        identity="",
    )
