"""Deployments told apart: what a run was served by and the coefficients are not of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from roofml.calibration.calibration import Calibration
from roofml.calibration.coefficients import Coefficients
from roofml.hardware.gpu import load_gpu
from roofml.models.load import load_model
from roofml.traces.engine_version import parse_version
from roofml.traces.run import Run
from roofml.util.errors import InputError


@dataclass(frozen=True)
class Calibrated:
    """What coefficients are of."""

    model: str
    hf_repo: str
    config_sha256: str
    gpu: str
    tp: int
    engine: str
    engine_version: str | None
    """Several, with commas, where runs of several were fitted."""
    dtype: str
    kv_dtype: str

    @classmethod
    def by(cls, calibration: Calibration) -> Calibrated:
        """What a calibration is of."""
        ours = calibration.deployment
        engine = ours.engine
        return cls(
            ours.model.name,
            ours.hf_repo,
            ours.model.config_sha256,
            ours.gpu.name,
            ours.tp,
            engine.name,
            engine.version,
            engine.dtype,
            engine.kv_dtype,
        )

    @classmethod
    def in_file(cls, read: Coefficients) -> Calibrated:
        """What the coefficients in a file are of, whether that is at hand or not."""
        model, engine = read.model, read.engine
        return cls(
            model.name,
            model.hf_repo,
            model.config_sha256,
            read.gpu,
            read.tensor_parallel,
            engine.name,
            engine.version,
            engine.dtype,
            engine.kv_dtype,
        )


@dataclass(frozen=True)
class Differences:
    """What differs between a run and coefficients, one sentence each."""

    deployment: tuple[str, ...]
    """Model, GPU and tensor parallel size: nothing can be compared."""
    engine: tuple[str, ...]
    """What served it: steps can be compared, and may differ for that reason."""

    @property
    def all(self) -> tuple[str, ...]:
        """Both."""
        return (*self.deployment, *self.engine)


def differences(ours: Calibrated, run: Run) -> Differences:
    """What the server of `run` has other than `ours`. A run that does not say a thing does not differ in it."""
    return Differences(tuple(_of_deployment(ours, run)), tuple(_of_engine(ours, run)))


def _of_deployment(ours: Calibrated, run: Run) -> Iterator[str]:
    server = run.server
    if server.model != ours.hf_repo:
        try:
            model = load_model(server.model)
        except InputError as error:
            yield f"model: the run is of {server.model}, the coefficients are of {ours.model} ({error})"
        else:
            if model.config_sha256 != ours.config_sha256:
                same = ", with another config.json" if model.name.lower() == ours.model.lower() else ""
                yield f"model: the run is of {model.name}, the coefficients are of {ours.model}{same}"
    if server.gpu is not None and server.gpu != ours.gpu:
        gpu = load_gpu(server.gpu).name
        if gpu != ours.gpu:
            yield f"GPU: the run is of {gpu}, the coefficients are of {ours.gpu}"
    if server.tensor_parallel != ours.tp:
        yield f"tensor parallel size: the run has {server.tensor_parallel}, the coefficients are of {ours.tp}"


def _of_engine(ours: Calibrated, run: Run) -> Iterator[str]:
    server = run.server
    if server.engine != ours.engine:
        yield f"engine: the run was served by {server.engine}, the coefficients are of {ours.engine}"
    elif server.engine_version is not None and ours.engine_version:
        theirs = parse_version(server.engine_version, run.name)[:2]
        known = [parse_version(version.strip(), ours.engine)[:2] for version in ours.engine_version.split(",")]
        if theirs not in known:
            yield (
                f"engine version: the run was served by {server.engine} {server.engine_version}, the coefficients "
                f"are of {ours.engine_version}"
            )
    kv_dtype = server.kv_dtype if server.kv_dtype not in (None, "auto") else ours.dtype
    if kv_dtype != ours.kv_dtype:
        yield f"KV cache: the run's is {kv_dtype}, the coefficients are of {ours.kv_dtype}"
