"""Whether a run is of the deployment that coefficients are for: BLIS would take any, and be wrong without a word."""

from __future__ import annotations

from contextlib import suppress

from roofml.export.deployment import BlisExport
from roofml.hardware.gpu import load_gpu
from roofml.models.load import load_model
from roofml.traces.run import Run
from roofml.util.errors import InputError


def check_belongs(export: BlisExport, run: Run) -> None:
    """Raise InputError for a run of another model, GPU or tensor parallel size than the coefficients are for.

    Models are compared by what is in their configs, and by the last part of their names where one has none. A run that
    does not say its GPU is believed to be of the same.
    """
    ours, server = export.model, run.server
    differences = [
        f"{what}: {theirs} in the run, {of} in the coefficients"
        for what, theirs, of, same in (
            ("model", server.model, ours.hf_repo or ours.name, _same_model(server.model, ours.hf_repo, ours.name)),
            ("GPU", server.gpu, ours.gpu, server.gpu is None or _gpu(server.gpu) == _gpu(ours.gpu)),
            ("TP", server.tensor_parallel, ours.tensor_parallel, server.tensor_parallel == ours.tensor_parallel),
        )
        if not same
    ]
    if differences:
        raise InputError(f"{run.name}: is of another deployment than the coefficients ({'; '.join(differences)})")


def _same_model(run: str, *ours: str) -> bool:
    known = [_config(name) for name in (run, *ours) if name]
    if known[0] is not None and any(known[1:]):
        return known[0] in known[1:]
    return any(_short(run) == _short(name) for name in ours if name)


def _config(model: str) -> str | None:
    with suppress(InputError):
        return load_model(model).config_sha256
    return None


def _gpu(name: str) -> str:
    with suppress(InputError):
        return load_gpu(name).name
    return name.lower()


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].lower()
