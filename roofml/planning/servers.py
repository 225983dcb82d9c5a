"""The server of a load that nobody has run: as a recording has it, as the user says, or as vLLM starts by default."""

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
    the user said already; else vLLM's defaults where the user says nothing, warm and with as many KV blocks as fit.

    Raises InputError for a model that its GPUs cannot hold, and for settings that cannot be.
    """
    deployment = calibration.deployment
    if recorded is not None and _same(deployment, recorded):
        return replace(recorded, gpu=recorded.gpu or deployment.gpu.name)
    release = release_of(deployment.engine.name, _said(overrides, "engine_version", deployment.engine.version))
    model, gpu, tp = deployment.on_rank, deployment.gpu, deployment.tp
    tokens, seqs = default_batch(gpu, release)
    tokens = _count(overrides, "max_num_batched_tokens", tokens)
    seqs = _count(overrides, "max_num_seqs", seqs)
    size = overrides.said("block_size")[0]
    capacity = kv_capacity(
        model,
        gpu,
        tp,
        gpu_memory_utilization=default_memory_utilization(release),
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
        block_size=size if isinstance(size, int) else None,
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
    }
    user = replace(overrides, model=None, tensor_parallel=None, gpu=None, engine=None)
    server, _ = resolve_server(Path(), {DEFAULTS: facts}, {}, user)
    return server


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
