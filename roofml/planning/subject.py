"""What is asked about: the calibration of a coefficients file, or of a model on GPUs that no trace was taken of."""

from __future__ import annotations

from pathlib import Path

from roofml.calibration.calibrate import load, uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.latency.deployment import deploy
from roofml.planning.what_if import carried
from roofml.traces.server import Server, ServerOverrides
from roofml.util.errors import InputError


def calibration_for(
    coeffs: Path | None,
    model: str | None,
    overrides: ServerOverrides,
    *,
    precision: str | None = None,
    recorded: Server | None = None,
) -> tuple[Calibration, list[str]]:
    """The calibration of `coeffs`, carried to what the user says besides; else physics of `model`, or of what a
    recorded load ran on, on the GPUs of the overrides. And what is to be said of it.

    Raises InputError, naming all that nobody says, and where the two say different models.
    """
    said = overrides.said("model")[0]
    if model is not None and said is not None and str(said) != model:
        raise InputError(f"MODEL is {model} and --model {said}: expected one of them")
    name = model or (str(said) if said is not None else None)
    if coeffs is not None:
        return _carried(coeffs, name, overrides, precision)
    gpu, tp = _text(overrides, "gpu"), overrides.said("tensor_parallel")[0]
    if recorded is not None:
        name, gpu, tp = name or recorded.model, gpu or recorded.gpu, tp or recorded.tensor_parallel
    missing = [flag for flag, value in (("MODEL", name), ("--gpu", gpu)) if value is None]
    if missing:
        raise InputError(f"{' and '.join(missing)} missing: give MODEL --gpu G --tp N, or --coeffs FILE")
    assert name is not None
    assert gpu is not None
    engine = _text(overrides, "engine") or (recorded.engine if recorded else "vllm")
    version = _text(overrides, "engine_version") or (recorded.engine_version if recorded else None)
    kv_dtype = _text(overrides, "kv_dtype") or (recorded.kv_dtype if recorded else None)
    deployment = deploy(
        name,
        gpu,
        tp if isinstance(tp, int) else 1,
        engine=engine,
        engine_version=version,
        kv_dtype=kv_dtype,
        precision=precision,
    )
    return uncalibrated(deployment), []


def _carried(
    coeffs: Path, model: str | None, overrides: ServerOverrides, precision: str | None
) -> tuple[Calibration, list[str]]:
    """The calibration of a file, on the deployment it was fitted on but for what the user says."""
    fitted = load(coeffs)
    ours = fitted.deployment
    gpu, engine = _text(overrides, "gpu"), _text(overrides, "engine")
    tp, version = overrides.said("tensor_parallel")[0], _text(overrides, "engine_version")
    kv_dtype = _text(overrides, "kv_dtype")
    if (model, gpu, tp, engine, version, kv_dtype, precision) == (None,) * 7:
        return fitted, []
    deployment = deploy(
        model or ours.hf_repo,
        gpu or ours.gpu.name,
        tp if isinstance(tp, int) else ours.tp,
        engine=engine or ours.engine.name,
        engine_version=version or ours.engine.version,
        kv_dtype=kv_dtype or (ours.engine.kv_dtype if ours.engine.kv_dtype != ours.engine.dtype else None),
        precision=precision,
    )
    moved = carried(fitted, deployment)
    return moved.calibration, moved.said


def _text(overrides: ServerOverrides, name: str) -> str | None:
    value = overrides.said(name)[0]
    return None if value is None else str(value)
