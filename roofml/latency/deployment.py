"""Deployment: a model on GPUs and the engine that serves it, with the physics of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from roofml.hardware.gpu import Gpu, load_gpu
from roofml.hardware.kernel_drift import at_version
from roofml.hardware.read_kernels import load_efficiency, read_efficiency, tables_folder, tables_sha256
from roofml.latency.components import GRAPHS, ComponentTables, component_sd, component_tables
from roofml.latency.feasibility import check_run
from roofml.latency.server_defaults import graphs_of
from roofml.models.spec import ModelSpec, load_model
from roofml.traces.engine_version import Release, release_of
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.errors import InputError

BUDGET = 2048
"""New tokens of a step that the tables of a deployment reach to, unless a run's server allows more: vLLM's default."""


@dataclass(frozen=True)
class Engine:
    """What serves the model. The version is None where nobody said it; several, with commas, where runs say several."""

    name: str
    version: str | None
    dtype: str
    kv_dtype: str

    @property
    def release(self) -> Release:
        """The release of vLLM whose kernels stand for its own; of several versions the first's."""
        first = None if self.version is None else self.version.split(",")[0].strip()
        return release_of(self.name, first)


@dataclass(frozen=True, eq=False)
class Deployment:
    """A model on GPUs: what the physics of its steps needs."""

    model: ModelSpec
    gpu: Gpu
    tp: int
    engine: Engine
    tables: ComponentTables
    """For steps of up to `budget` new tokens."""
    table_sd: Mapping[str, float]
    """Component -> relative standard deviation for shapes that were not measured; what was not has none."""
    hf_repo: str
    """How the model was asked for: the Hub repository or local name that its server was started with."""
    kernels_sha256: str
    """Digest of the kernel tables."""
    graphs: tuple[int, ...] = GRAPHS
    """Numbers of new tokens for which its server has CUDA graphs."""

    @property
    def budget(self) -> int:
        """Most new tokens of a step that `tables` have."""
        return len(self.tables.gemm) - 1

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{self.model.name} on {self.gpu.name}, TP {self.tp}"

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """What it is whatever it is called: digests of config, datasheet and kernel tables, and the GPUs."""
        return self.model.config_sha256, self.gpu.sheet_sha256, self.kernels_sha256, self.tp

    def reaching(self, budget: int) -> Deployment:
        """The same with tables of at least `budget` new tokens; other values are the same to the bit."""
        return self if budget <= self.budget else self._with_tables(budget, self.graphs)

    def serving(self, server: Server) -> Deployment:
        """The same with tables for a run's server: its budget, and its CUDA graphs."""
        graphs = graphs_of(server, self.gpu)
        if graphs == self.graphs:
            return self.reaching(server.max_num_batched_tokens)
        return self._with_tables(max(self.budget, server.max_num_batched_tokens), graphs)

    def _with_tables(self, budget: int, graphs: tuple[int, ...]) -> Deployment:
        efficiency = at_version(load_efficiency(self.gpu), self.engine.release)
        tables = component_tables(self.model, self.gpu, self.tp, budget, efficiency, graphs)
        return replace(self, tables=tables._replace(norm=self.tables.norm), graphs=graphs)

    def fitted_on(self, name: str, version: str | None) -> Deployment:
        """The same with the kernels of the engine that coefficients were fitted on, which they correct."""
        engine = replace(self.engine, name=name, version=version)
        changed = replace(self, engine=engine)
        return changed if engine.release == self.engine.release else changed._with_tables(self.budget, self.graphs)


def deploy(
    model: str,
    gpu: str,
    tp: int,
    budget: int = BUDGET,
    *,
    engine: str = "vllm",
    engine_version: str | None = None,
    kv_dtype: str | None = None,
    graphs: Sequence[int] = GRAPHS,
) -> Deployment:
    """Load config, datasheet and kernel tables, and make the components of steps of up to `budget` new tokens.

    `model` is a name in model_configs/, a Hub repository or a path; `gpu` a name in hardware/ or a YAML file;
    `kv_dtype` the type of the KV cache where it is not the model's own; `graphs` the sizes of the server's CUDA graphs,
    by default those of 128 seats. Raises InputError for what is not there or
    cannot be split over `tp` GPUs.
    """
    spec, device = load_model(model), load_gpu(gpu)
    if kv_dtype not in (None, "auto"):
        spec = replace(spec, kv_dtype=kv_dtype)
    folder = tables_folder(device)
    served = Engine(engine, engine_version, spec.dtype, kv_dtype if kv_dtype not in (None, "auto") else spec.dtype)
    efficiency = at_version(read_efficiency(folder, device), served.release)
    return Deployment(
        model=spec,
        gpu=device,
        tp=tp,
        engine=served,
        tables=component_tables(spec, device, tp, budget, efficiency, graphs),
        table_sd=component_sd(spec, device, tp, efficiency),
        hf_repo=model,
        kernels_sha256=tables_sha256(folder),
        graphs=tuple(graphs),
    )


def deployment_of(runs: Sequence[Run], *, allow_oversize: bool = False) -> Deployment:
    """The deployment that `runs` share.

    Raises InputError where they differ, one does not name its GPU, or one's server cannot have been on it, unless
    `allow_oversize` says that this will be told.
    """
    first = runs[0].server
    for run in runs:
        if run.server.gpu is None:
            raise InputError(f"{run.name}: the run does not say its GPU: give --gpu")
        for field in ("model", "tensor_parallel", "gpu", "engine", "kv_dtype"):
            ours, theirs = getattr(first, field), getattr(run.server, field)
            if ours != theirs:
                raise InputError(
                    f"{run.name}: {field} {theirs!r} differs from {ours!r} of {runs[0].name}: one fit is of one model, "
                    "engine, GPU and tensor parallel size"
                )
    budget = max(run.server.max_num_batched_tokens for run in runs)
    assert first.gpu is not None
    versions = sorted({run.server.engine_version or "" for run in runs} - {""})
    deployment = deploy(
        first.model,
        first.gpu,
        first.tensor_parallel,
        budget,
        engine=first.engine,
        engine_version=", ".join(versions) or None,
        kv_dtype=first.kv_dtype,
        graphs=graphs_of(
            max((run.server for run in runs), key=lambda server: server.max_num_seqs), load_gpu(first.gpu)
        ),
    )
    for run in runs:
        check_run(deployment.model, deployment.gpu, deployment.tp, run, allow_oversize=allow_oversize)
    return deployment
