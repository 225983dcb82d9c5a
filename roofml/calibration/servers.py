"""The server of a load that nobody has run: as a recording has it, else as the user, the coefficients file, or vLLM's
defaults say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from roofml.calibration.calibration import Calibration
from roofml.latency.deployment import Deployment
from roofml.latency.kv_capacity import kv_capacity
from roofml.latency.server_defaults import default_batch, default_memory_utilization
from roofml.models.load import load_model
from roofml.traces.engine_version import release_of
from roofml.traces.server import Server, ServerOverrides, resolve_server
from roofml.util.errors import InputError

DEFAULTS = "vLLM's defaults"


def server_for(calibration: Calibration, overrides: ServerOverrides, recorded: Server | None = None) -> Server:
    """The server of a deployment: the recorded one where that served the same model on the same GPUs, which knows what
    the user said already; else what the user says, what the coefficients file was found for, and vLLM's defaults, warm
    and with as many KV blocks as fit.

    Raises InputError for a model that its GPUs cannot hold, and for settings that cannot be.
    """
    deployment = calibration.deployment
    if recorded is not None and _same(deployment, recorded):
        return replace(recorded, gpu=recorded.gpu or deployment.gpu.name)
    release = release_of(deployment.engine.name, _said(overrides, "engine_version", deployment.engine.version))
    model, gpu, tp = deployment.on_rank, deployment.gpu, deployment.tp
    known = _in_file(calibration)
    tokens, seqs = default_batch(gpu, release)
    tokens = _count(overrides, "max_num_batched_tokens", known.get("max_num_batched_tokens", tokens))
    seqs = _count(overrides, "max_num_seqs", known.get("max_num_seqs", seqs))
    size = overrides.said("block_size")[0]
    if isinstance(size, int) and size != known.get("block_size", size):
        known.pop("num_gpu_blocks", None)  # as many of another size are another cache
    size = size if isinstance(size, int) else known.get("block_size")
    capacity = kv_capacity(
        model,
        gpu,
        tp,
        gpu_memory_utilization=default_memory_utilization(release),
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
        block_size=size,
    )
    reach = model.longest_context or model.max_position_embeddings
    engine = deployment.engine
    facts: dict[str, object] = {
        "model": deployment.hf_repo,
        "tensor_parallel": tp,
        "max_num_seqs": seqs,
        "max_num_batched_tokens": tokens,
        "block_size": capacity.block_size,
        "num_gpu_blocks": max(2, capacity.blocks),
        "max_model_len": min(reach, capacity.blocks * capacity.block_size),
        "gpu": gpu.name,
        "fresh": False,
        "engine": engine.name,
        **({} if engine.version is None else {"engine_version": engine.version.split(",")[0].strip()}),
        **({} if engine.kv_dtype == engine.dtype else {"kv_dtype": engine.kv_dtype}),
        **known,
    }
    user = replace(overrides, model=None, tensor_parallel=None, gpu=None, engine=None)
    server, _ = resolve_server(Path(), {DEFAULTS: facts}, {}, user)
    return server


def _in_file(calibration: Calibration) -> dict[str, int]:
    """The limits of the server that a file's BLIS section is for."""
    section = calibration.blis
    if section is None:
        return {}
    said = {
        "max_num_seqs": section.max_num_seqs,
        "max_num_batched_tokens": section.max_num_batched_tokens,
        "block_size": section.block_size,
        "num_gpu_blocks": section.total_kv_blocks,
        "max_model_len": section.max_model_len,
    }
    return {name: value for name, value in said.items() if value is not None}


def _same(deployment: Deployment, recorded: Server) -> bool:
    """Whether a recorded server was of this deployment."""
    if recorded.tensor_parallel != deployment.tp or recorded.gpu not in (None, deployment.gpu.name):
        return False
    if recorded.model == deployment.hf_repo:
        return True
    try:
        return load_model(recorded.model).config_sha256 == deployment.model.config_sha256
    except InputError:
        return False


def _said(overrides: ServerOverrides, name: str, default: str | None) -> str | None:
    value = overrides.said(name)[0]
    return str(value) if value is not None else None if default is None else default.split(",")[0].strip()


def _count(overrides: ServerOverrides, name: str, default: int) -> int:
    value = overrides.said(name)[0]
    return value if isinstance(value, int) else default
