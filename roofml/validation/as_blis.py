"""How accurate BLIS itself becomes: its betas, its replay, judged as native predictions are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from roofml.blis.deployment import BlisCoefficients, Deployment, hardware_of
from roofml.blis.fit import BlisFit, fit
from roofml.blis.model_view import blis_model
from roofml.blis.replay import for_blis, replay
from roofml.calibration.coefficients import BlisSection
from roofml.hardware.gpu import load_gpu
from roofml.models.spec import config_path
from roofml.traces.doctor import Diagnosis
from roofml.traces.run import Run
from roofml.util.errors import InputError
from roofml.validation.cross_validation import RunReport, report
from roofml.validation.splits import between, groups, trainable


def deployment_of(run: Run) -> Deployment:
    """The run's model, GPU and tensor parallel size as BLIS sees them. Raises InputError without a GPU."""
    server = run.server
    if server.gpu is None:
        raise InputError(f"{run.name}: the run does not say its GPU: give --gpu")
    path = config_path(server.model)
    model = blis_model(json.loads(path.read_text("utf-8")), path.parent.name)
    return Deployment(model, hardware_of(load_gpu(server.gpu)), server.tensor_parallel)


def judge(diagnosis: Diagnosis, coefficients: BlisCoefficients, after: float = 0.0, until: float = 1.0) -> RunReport:
    """BLIS's errors on the requests between two shares. Raises InputError for requests it never finishes."""
    run = diagnosis.run
    predicted = replay(for_blis(run), deployment_of(run), coefficients.alphas, coefficients.betas)
    judged = between(run, after, until)
    unfinished = judged & ~np.isfinite(predicted.e2e_us)
    if unfinished.any():
        raise InputError(f"{run.name}: BLIS drops {int(unfinished.sum())} requests: longer than max_model_len?")
    return report(run, predicted, judged, diagnosis.saturated)


def fit_group(group: Sequence[Diagnosis], train_fraction: float) -> BlisFit:
    """The coefficients that make BLIS most accurate on a group's runs of one model, GPU and tensor parallel size."""
    return fit([(d.run, deployment_of(d.run)) for d in trainable(group)], train_fraction)


def temporal(
    diagnoses: Sequence[Diagnosis], train_fraction: float, on_group: Callable[[str], None] | None = None
) -> list[RunReport]:
    """As `roofml.validation.cross_validation.temporal`, with coefficients for BLIS and BLIS's way of running a step."""
    reports: list[RunReport] = []
    for group in groups(diagnoses):
        first = group[0].run.server
        if on_group is not None:
            on_group(f"{first.model} on {first.gpu}, TP {first.tensor_parallel}, as BLIS")
        coefficients = fit_group(group, train_fraction).coefficients
        trained = {id(d) for d in trainable(group)}
        reports += [judge(d, coefficients, train_fraction if id(d) in trained else 0.0) for d in group]
    return reports


def section_of(found: BlisFit, run: Run) -> BlisSection:
    """The `blis` section of a coefficients file: what BLIS needs to run the deployment that `run` measured."""
    server = run.server
    return BlisSection(
        alpha_coeffs=[round(alpha, 3) for alpha in found.coefficients.alphas],
        beta_coeffs=[float(f"{beta:.6g}") for beta in found.coefficients.betas],
        total_kv_blocks=server.num_gpu_blocks,
        block_size=server.block_size,
        max_num_seqs=server.max_num_seqs,
        max_num_batched_tokens=server.max_num_batched_tokens,
        max_model_len=server.max_model_len,
    )


def coefficients_in(section: BlisSection, where: str) -> BlisCoefficients:
    """The set in a coefficients file's `blis` section, checked as BLIS would check it."""
    return BlisCoefficients.of(section.alpha_coeffs, section.beta_coeffs, where=f"{where}: blis")
