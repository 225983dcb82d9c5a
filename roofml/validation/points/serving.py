"""What served a point, and the load it was under, as the replay takes them."""

from __future__ import annotations

from typing import NamedTuple

from roofml.hardware.gpu import Gpu
from roofml.latency.deployment import Deployment, deploy
from roofml.latency.kv_capacity import kv_capacity
from roofml.latency.parallel import Parallel
from roofml.latency.server_defaults import default_batch, default_memory_utilization
from roofml.models.spec import ModelSpec
from roofml.traces.engine_version import ENGINES, OLDEST, Release, parse_version, release_of
from roofml.traces.engine_version import said as written
from roofml.traces.release_dates import version_in
from roofml.traces.server import KV_DTYPES, Server
from roofml.util.arrays import Ints
from roofml.util.errors import InputError
from roofml.util.names import shown
from roofml.validation.points.point import Point
from roofml.workloads.lengths import constant, uniform
from roofml.workloads.load import Load, closed_load, poisson_load

ENGINE_NAMES = {"trtllm": "tensorrt-llm", "tensorrt_llm": "tensorrt-llm", "trt-llm": "tensorrt-llm"}
"""How tables of points abbreviate engines."""
KV_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}
MIXED = "+"
"""In the precision of a point: several formats, as its own config has them."""
ROOM = 256
"""Tokens by which a server's `max_model_len` exceeds the longest request of a benchmark."""
FULL_MEMORY = 0.98
"""Share of the memory that a server took which cannot have been started with the default share."""


class Served(NamedTuple):
    """What is the same for many points: a deployment's physics is made once for them."""

    model: str
    gpu: str
    parallel: Parallel
    engine: str
    engine_version: str | None
    precision: str | None
    kv_dtype: str | None
    older: bool
    """Whether its engine is older than any whose scheduler is imitated."""


def engine_of(point: Point) -> tuple[str, str | None, bool]:
    """Engine, its version or None, and whether it is older than any whose scheduler is imitated (the oldest then
    stands for it).

    Raises InputError for an engine that nothing stands for.
    """
    engine = ENGINE_NAMES.get(point.engine, point.engine)
    if engine not in ENGINES:
        raise InputError(f"engine {shown(point.engine)}: expected one of {', '.join(ENGINES)}")
    version = version_in(point.engine_version) if engine == "vllm" else None
    if version is not None and parse_version(version, "engine_version") < OLDEST:
        return engine, written(OLDEST), True
    old = engine != "vllm" and point.engine_version.startswith(("2023", "2024"))
    return engine, version, old


def served_of(point: Point) -> Served:
    """The deployment of a point. Raises InputError for one that cannot be priced."""
    engine, version, older = engine_of(point)
    kv_dtype = KV_NAMES.get(point.kv_dtype or "", point.kv_dtype)
    if kv_dtype is not None and kv_dtype not in KV_DTYPES:
        raise InputError(f"kv_dtype {shown(kv_dtype)}: expected one of {', '.join(KV_DTYPES)}")
    ep = point.tp * point.dp if point.ep > 1 else 1
    parallel = Parallel(point.tp, point.pp, point.dp, ep)
    precision = None if MIXED in (point.precision or "") else point.precision
    return Served(point.model, point.gpu, parallel, engine, version, precision, kv_dtype, older)


def deployment_of(served: Served) -> Deployment:
    """The physics of a deployment. Raises what `deploy` does."""
    return deploy(
        served.model,
        served.gpu,
        served.parallel.tp,
        pp=served.parallel.pp,
        dp=served.parallel.dp,
        ep=served.parallel.ep,
        engine=served.engine,
        engine_version=served.engine_version,
        kv_dtype=served.kv_dtype,
        precision=served.precision,
    )


def server_of(point: Point, deployment: Deployment) -> Server:
    """The server of a point: what its row tells, and the release's defaults for the rest; started for the benchmark.

    Raises InputError for a model that its GPUs cannot hold.
    """
    model, gpu, tp = deployment.on_rank, deployment.gpu, deployment.tp
    release = release_of(deployment.engine.name, deployment.engine.version)
    tokens, seqs = default_batch(gpu, release)
    tokens = point.max_num_batched_tokens or tokens
    seqs = point.max_num_seqs or seqs
    longest = point.input_range[1] + point.output_range[1] + ROOM
    blocks, size = kv_blocks(model, gpu, tp, release, tokens, seqs)
    if point.kv_tokens:
        blocks = max(2, point.kv_tokens // size)
    return Server(
        model=point.model,
        tensor_parallel=tp,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        block_size=size,
        num_gpu_blocks=blocks,
        max_model_len=longest,
        gpu=point.gpu,
        engine=deployment.engine.name,
        engine_version=deployment.engine.version,
        kv_dtype=deployment.engine.kv_dtype,
    )


def kv_blocks(model: ModelSpec, gpu: Gpu, tp: int, release: Release, tokens: int, seqs: int) -> tuple[int, int]:
    """KV blocks of a server, and the tokens of each. A server that ran took as much memory as it needed."""
    limits = {"max_num_batched_tokens": tokens, "max_num_seqs": seqs}
    try:
        capacity = kv_capacity(model, gpu, tp, gpu_memory_utilization=default_memory_utilization(release), **limits)
    except InputError:
        capacity = kv_capacity(model, gpu, tp, gpu_memory_utilization=FULL_MEMORY, **limits)
    return capacity.blocks, capacity.block_size


def load_of(point: Point) -> Load:
    """The requests that a point was measured with: as many, as long, as concurrent; drawn with a fixed seed.

    Of several engines, those of one, which has its share of clients, of requests and of their rate.
    """
    requests = max(1, -(-point.requests // point.dp))
    prompts = _lengths(point.input_range, requests, 1)
    outputs = _lengths(point.output_range, requests, 2)
    if point.load_kind == "closed":
        return closed_load(f"point {point.id}", -(-point.concurrency // point.dp), prompts, outputs)
    return poisson_load(f"point {point.id}", point.rate / point.dp, prompts, outputs, 3)


def _lengths(ends: tuple[int, int], requests: int, seed: int) -> Ints:
    low, high = ends
    return constant(low, requests) if low == high else uniform(low, high, requests, seed)
