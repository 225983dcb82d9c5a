"""The three ways to a `Calibration`: physics alone, a fit of runs, a coefficients file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from roofml.calibration.aggregates import SERVER_SD
from roofml.calibration.calibration import Calibration
from roofml.calibration.coefficients import Coefficients, read_coefficients
from roofml.calibration.fit import OnRound, fit_parameters
from roofml.calibration.fitted_run import FittedRun
from roofml.calibration.forwards.learn import (
    calibrated_by_forwards,
    check_same,
    deployment_of_forwards,
    learn,
    with_forwards,
)
from roofml.calibration.judge import judge
from roofml.calibration.means import MeansRun, fit_means, means_runs, sharpened_by, usable
from roofml.calibration.other_models import read_other_models
from roofml.calibration.posterior import Posterior, posterior_of
from roofml.calibration.prior import PACKAGE, Prior
from roofml.calibration.seen_stalls import replay_as_seen
from roofml.calibration.step_level.fit import StepData, fit_steps
from roofml.calibration.subset import Subset
from roofml.calibration.untraced import untraced
from roofml.engine.latency_model import Kind, judged_us
from roofml.engine.replay import Replay
from roofml.latency.deployment import BUDGET, Deployment, deploy, deployment_of
from roofml.latency.pauses import Pauses
from roofml.traces.aggregate_run import AggregateRun
from roofml.traces.forwards import Forwards
from roofml.traces.run import Run, told_apart
from roofml.traces.selection import Selection, first, groups, trainable
from roofml.util.at_once import each
from roofml.util.errors import InputError

KINDS: tuple[Kind, ...] = ("e2e", "ttft", "tpot")
UNSAID = (
    "made by a roofml that did not write down its kernel tables, which have been mended since: predictions are off by "
    "a tenth and more, refit with `roofml fit`"
)


def physics(
    model: str,
    gpu: str,
    tp: int = 1,
    *,
    budget: int = BUDGET,
    prior: Prior | None = None,
    engine: str = "vllm",
    kv_dtype: str | None = None,
    precision: str | None = None,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
) -> Calibration:
    """A model on GPUs that no trace was taken of: kernel measurements, and what other models' fits say of it.

    Every prediction has an interval. `model` is a name in model_configs/, a Hub repository or a path, `gpu` a name in
    hardware/ or a YAML file; `prior` replaces what the package believes. Raises InputError for what is not there.
    """
    deployment = deploy(
        model, gpu, tp, budget, engine=engine, kv_dtype=kv_dtype, precision=precision, pp=pp, dp=dp, ep=ep
    )
    return uncalibrated(deployment, prior)


def uncalibrated(deployment: Deployment, prior: Prior | None = None) -> Calibration:
    """The calibration of a deployment by priors alone, widened where kernels were not measured."""
    believed = untraced(read_other_models().prior(deployment), deployment) if prior is None else prior
    return Calibration(deployment, posterior_of(believed.widened(deployment.table_sd)))


def fit(
    runs: Sequence[Run],
    *,
    means: Sequence[AggregateRun] = (),
    until: float = 1.0,
    prior: Prior | None = None,
    steps: Sequence[StepData] = (),
    steps_only: bool = False,
    forwards: Sequence[Forwards] = (),
    on_round: OnRound | None = None,
) -> Calibration:
    """Fit the first share `until` of each run's requests: runs of one model, GPU and tensor parallel size.

    The fit leaves saturated runs out if there are others. `prior` is what is believed before; by default it includes
    what fits of other models say. `means` are runs of which means alone are known: they sharpen that, and are a weak
    fit of their own where there are no others. `steps` are tables of sampled steps to fit as well, or alone with
    `steps_only`; their `run` is a place among the runs that are fitted (`trainable`). `forwards` are exact batches that
    were timed on the same GPUs: what they say is believed before the rest is looked at, or is all there is. Raises
    InputError for runs of different deployments, for one that no fit may see, and when nothing is left to fit.
    """
    runs, weak = told_apart(runs), usable(means_runs(told_apart(means)))
    served = [*runs, *(each.run for each in weak)]
    deployment = deployment_of(served) if served or not forwards else deployment_of_forwards(forwards)
    check_same(deployment, forwards)
    if prior is None:
        prior = read_other_models().prior(deployment)
        if not runs:
            prior = untraced(prior, deployment)
    prior = prior.widened({}, sum(doubt.variance for doubt in deployment.doubts))
    of_runs = partial(
        _of_runs,
        deployment,
        runs=runs,
        weak=weak,
        until=until,
        steps=steps,
        steps_only=steps_only,
        on_round=on_round,
    )
    if not forwards:
        return of_runs(prior)
    before = prior if runs else prior.widened(deployment.table_sd)
    learned = learn(deployment, before, forwards)
    if not served:
        return calibrated_by_forwards(deployment, before, learned, forwards)
    return with_forwards(of_runs(learned.prior), before, learned, forwards)


def _of_runs(
    deployment: Deployment,
    prior: Prior,
    *,
    runs: Sequence[Run],
    weak: Sequence[MeansRun],
    until: float,
    steps: Sequence[StepData],
    steps_only: bool,
    on_round: OnRound | None,
) -> Calibration:
    """A fit of runs, means among what is believed before, or of means alone."""
    if not runs:
        return fit_means(deployment, prior.widened(deployment.table_sd, SERVER_SD**2), weak)
    if weak:
        prior = sharpened_by(prior, deployment, weak)
    learned = trainable(runs)
    tables, selections = deployment.tables, first(learned, until)
    if steps:
        requests = not steps_only
        posterior = fit_steps(steps, learned, tables, until, requests=requests, on_round=on_round, prior=prior)
    else:
        posterior = fit_parameters(selections, tables, prior=prior, on_round=on_round)
    return calibrated(deployment, posterior, learned, until, tuple(Path(data.table.name).name for data in steps))


def calibrated(
    deployment: Deployment,
    posterior: Posterior,
    runs: Sequence[Run],
    until: float = 1.0,
    step_tables: tuple[str, ...] = (),
) -> Calibration:
    """The calibration of a fit of `runs`, with its errors on the first share `until` of their requests, and judged."""
    judged, deployment = [Selection.between(run, 0.0, until) for run in runs], deployment.climbing(posterior.stairs)
    whole = Calibration(deployment, posterior)
    paces = [posterior.paces.get(run.identity) for run in runs]
    served = each(
        lambda one: replay_as_seen(one[0], deployment.tables, whole.parameters_for(one[0].run).paced(one[1] or 1.0)),
        list(zip(judged, paces, strict=True)),
    )
    fitted_runs = tuple(
        FittedRun(chosen.run.name, chosen.run.identity, pace, mean_errors_pct(chosen, replayed), len(chosen))
        for chosen, pace, replayed in zip(judged, paces, served, strict=True)
    )
    misfit = judge(deployment, posterior, judged, served)
    return Calibration(deployment, posterior, fitted_runs, until, step_tables, misfit=misfit)


def mean_errors_pct(judged: Selection, served: Replay) -> dict[str, float]:
    """100·(predicted/measured - 1) of mean E2E, TTFT and TPOT over the selected requests; without what is 0."""
    errors: dict[str, float] = {}
    for kind in KINDS:
        measured = judged_us(judged, judged.run, kind)
        predicted = judged_us(judged, served, kind)
        if len(measured) and len(predicted) and np.mean(measured) > 0:
            errors[f"{kind}_mean"] = 100 * (float(np.mean(predicted)) / float(np.mean(measured)) - 1)
    return errors


def load(path: str | Path, *, model: str | None = None, gpu: str | None = None) -> Calibration:
    """The calibration in a coefficients file. `model` and `gpu` say where its config and datasheet are, if elsewhere.

    Raises InputError naming file and field for one that cannot be read, and where the config, the datasheet or the
    kernel tables are others than those it was fitted over, whatever they are called.
    """
    path = Path(path)
    read = read_coefficients(path)
    deployment = _deploy(read, model or read.model.hf_repo, gpu or read.gpu, read.tensor_parallel)
    return calibration_of(read, path, deployment)


def _deploy(read: Coefficients, model: str, gpu: str, tp: int, precision: str | None = None) -> Deployment:
    """A deployment served by the engine of a coefficients file."""
    engine = read.engine
    kv_dtype = engine.kv_dtype if engine.kv_dtype != engine.dtype else None
    return deploy(
        model, gpu, tp, engine=engine.name, engine_version=engine.version, kv_dtype=kv_dtype, precision=precision
    )


def load_for(path: Path, model: str, gpu: str, tp: int, precision: str | None = None) -> Calibration:
    """The calibration in a coefficients file, for this deployment. Raises InputError where it is of another."""
    read = read_coefficients(path)
    deployment = _deploy(read, model, gpu, tp, precision)
    for what, ours, theirs in _differences(read, deployment):
        raise InputError(f"{path}: {what} is {theirs}, not {ours}")
    return calibration_of(read, path, deployment)


def load_for_runs(path: Path, runs: Sequence[Run], *, allow_oversize: bool = False) -> tuple[Calibration, list[Run]]:
    """The calibration in a coefficients file, and the runs, each with a GPU: the file's, where none was said.

    The config and the datasheet are those of the runs. Raises InputError for a run of another model, GPU or tensor
    parallel size, and, unless `allow_oversize`, for one whose server cannot be.
    """
    read = read_coefficients(path)
    runs = [run.on(read.gpu) for run in runs]
    deployments = [(group, deployment_of(group, allow_oversize=allow_oversize)) for group in groups(runs)]
    for group, deployment in deployments:
        for what, ours, theirs in _differences(read, deployment):
            raise InputError(f"{group[0].name}: {what} {ours} is not that of {path}: {theirs}")
    if len(deployments) > 1:
        return calibration_of(read, path, deployment_of(runs, allow_oversize=allow_oversize)), runs
    return calibration_of(read, path, deployments[0][1]), runs


def _differences(read: Coefficients, deployment: Deployment) -> Iterator[tuple[str, str, str]]:
    """What a file was fitted for and a deployment is not: what, the deployment's, the file's.

    A model is known by its config: the same one under another name is the same model.
    """
    model = deployment.model
    if model.name.lower() != read.model.name.lower() and model.config_sha256 != read.model.config_sha256:
        yield "model", model.name, read.model.name
    if deployment.tp != read.tensor_parallel:
        yield "tensor parallel size", str(deployment.tp), str(read.tensor_parallel)
    if deployment.gpu.name != read.gpu:
        yield "GPU", deployment.gpu.name, read.gpu


def calibration_of(read: Coefficients, path: Path, deployment: Deployment) -> Calibration:
    """The calibration of coefficients from `path`. Raises InputError for a deployment they were not fitted over."""
    command = "refit with `roofml fit`, or give what it was fitted with"
    digests = {"another config.json": (deployment.model.config_sha256, read.model.config_sha256, read.model.name)}
    if read.physics is not None:
        sheet, kernels = read.physics.gpu_sheet_sha256, read.physics.kernel_tables_sha256
        digests["another datasheet"] = (deployment.gpu.sheet_sha256, sheet, read.gpu)
        digests["other kernel tables"] = (deployment.kernels_sha256, kernels, read.gpu)
    for name, (ours, theirs, whose) in digests.items():
        if ours != theirs:
            raise InputError(f"{path}: was fitted over {name} of {whose} ({theirs[:12]}, not {ours[:12]}): {command}")
    deployment = deployment.fitted_on(read.engine.name, read.engine.version)
    identities = read.fit.run_sha256 or {}
    runs = tuple(
        FittedRun(
            name,
            identities.get(name, ""),
            read.fit.paces.get(name),
            dict(read.fit.error_pct[name]) if name in read.fit.error_pct else {},
            means_alone=name in (read.fit.means_alone or ()),
            forwards=name in (read.fit.forwards or ()),
        )
        for name in read.fit.runs
    )
    values = read.values
    posterior = Posterior(
        values=values,
        covariance=read.covariance,
        prior=Prior(PACKAGE.mean, PACKAGE.covariance, read.fit.prior),
        requests=read.fit.requests,
        rounds=read.fit.rounds,
        converged=read.fit.converged,
        loss=float("nan"),
        paces={run.identity: run.pace for run in runs if run.identity and run.pace is not None},
        valid={str(name): ends for name, ends in read.fit.valid.items()},
        stairs=dict(read.step.stairs or {}),
        subsets={
            identities[name]: Subset(found.fitted, found.of, found.information)
            for name, found in (read.fit.subsets or {}).items()
            if identities.get(name)
        },
        pauses={
            identities[name]: Pauses(found.every_us, found.pause_us)
            for name, found in (read.fit.pauses or {}).items()
            if identities.get(name)
        },
    )
    engine = replace(deployment.engine, **read.engine.model_dump())
    return Calibration(
        deployment=replace(deployment, engine=engine, hf_repo=read.model.hf_repo),
        posterior=posterior,
        runs=runs,
        train_fraction=read.fit.train_fraction,
        step_tables=tuple(read.fit.step_tables or ()),
        blis=read.blis,
        path=path,
        said=tuple(read.fit.not_identified),
        misfit=tuple(read.fit.misfit or ()),
        unsaid=() if read.physics is not None else (f"{path}: {UNSAID}",),
    )
