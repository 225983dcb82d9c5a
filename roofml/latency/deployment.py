"""Deployment: a model on GPUs and the engine that serves it, with the physics of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from roofml.hardware.gpu import Gpu, load_gpu
from roofml.hardware.kernel_drift import at_version
from roofml.hardware.kernels import Efficiency
from roofml.hardware.load_kernels import Kernels, load_kernels
from roofml.hardware.read_kernels import tables_folder, tables_sha256
from roofml.latency.arithmetic import weight_only
from roofml.latency.attention_kernels import uses_modules
from roofml.latency.components import GRAPHS, ComponentTables, component_sd, component_tables
from roofml.latency.doubts import Doubt
from roofml.latency.experience import unseen
from roofml.latency.feasibility import check_run
from roofml.latency.parallel import Parallel
from roofml.latency.server_defaults import graphs_of
from roofml.latency.speculation import Speculation, speculating
from roofml.latency.stairs import climbed
from roofml.models.load import load_model
from roofml.models.spec import ModelSpec
from roofml.traces.engine_version import Release, release_of
from roofml.traces.run import Run
from roofml.traces.server import Server
from roofml.util.digest import digest
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
    kernels: Efficiency
    """The measured kernels, or what stands for them."""
    kernels_sha256: str
    """Digest of the kernel tables."""
    graphs: tuple[int, ...] = GRAPHS
    """Numbers of new tokens for which its server has CUDA graphs."""
    parallel: Parallel = field(default_factory=Parallel)
    """How the model is spread over GPUs; its `tp` is that above."""
    doubts: tuple[Doubt, ...] = ()
    """Why its step times are less sure than those of a deployment that was measured."""

    @property
    def on_rank(self) -> ModelSpec:
        """The model as the fullest rank holds it, for what fits into memory."""
        return self.parallel.stage(self.parallel.cut(self.model))

    drafts: Speculation | None = None
    """The drafts of its server; None without speculative decoding."""
    stairs: Mapping[int, float] = field(default_factory=dict[int, float])
    """What a fit found at captured sizes (`latency.stairs`), which its tables contain."""

    @property
    def budget(self) -> int:
        """Most new tokens of a step that `tables` have."""
        return len(self.tables.gemm) - 1

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{self.model.name} on {self.gpu.name}, {self.parallel.said}"

    @property
    def weight_only(self) -> list[str]:
        """One sentence for each format of weights that its GPU does not compute in."""
        return weight_only(self.model, self.gpu)

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """What it is whatever it is called: digests of config, datasheet and kernel tables, and the GPUs."""
        return self.model.config_sha256, self.gpu.sheet_sha256, self.kernels_sha256, self.tp

    def reaching(self, budget: int) -> Deployment:
        """The same with tables of at least `budget` new tokens; other values are the same to the bit."""
        return self if budget <= self.budget else self._with_tables(budget, self.graphs)

    def speculating(self, drafts: Speculation) -> Deployment:
        """The same on a server that drafts."""
        return replace(self, drafts=drafts)._with_tables(self.budget, self.graphs)

    def climbing(self, stairs: Mapping[int, float]) -> Deployment:
        """The same with what a fit found at captured sizes."""
        if stairs == self.stairs:
            return self
        if self.stairs:
            return replace(self, stairs=stairs)._with_tables(self.budget, self.graphs)
        return replace(self, stairs=stairs, tables=climbed(self.tables, stairs))

    def serving(self, server: Server) -> Deployment:
        """The same with tables for a run's server: its budget, and its CUDA graphs."""
        graphs = graphs_of(server, self.gpu)
        if graphs == self.graphs:
            return self.reaching(server.max_num_batched_tokens)
        return self._with_tables(max(self.budget, server.max_num_batched_tokens), graphs)

    def _with_tables(self, budget: int, graphs: tuple[int, ...]) -> Deployment:
        tables = component_tables(self.model, self.gpu, self.parallel, budget, self.kernels, graphs)
        if self.drafts is not None:
            tables = speculating(tables, self.model, self.gpu, self.tp, self.kernels, self.drafts)
        return replace(self, tables=climbed(tables, self.stairs)._replace(norm=self.tables.norm), graphs=graphs)

    def fitted_on(self, name: str, version: str | None) -> Deployment:
        """The same with the kernels of the engine that coefficients were fitted on, which they correct."""
        changed = replace(self, engine=replace(self.engine, name=name, version=version))
        if changed.engine.release == self.engine.release:
            return changed
        kernels = at_version(load_kernels(self.gpu).efficiency, changed.engine.release)
        return replace(changed, kernels=kernels)._with_tables(self.budget, self.graphs)


def deploy(
    model: str,
    gpu: str,
    tp: int,
    budget: int = BUDGET,
    *,
    engine: str = "vllm",
    engine_version: str | None = None,
    kv_dtype: str | None = None,
    precision: str | None = None,
    graphs: Sequence[int] = GRAPHS,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    kernels: Kernels | None = None,
) -> Deployment:
    """Load config, datasheet and kernel tables, and make the components of steps of up to `budget` new tokens.

    `model` is a name in model_configs/, a Hub repository or a path; `gpu` a name in hardware/ or a YAML file;
    `kv_dtype` the type of the KV cache and `precision` the format of the weights where they are not the model's own;
    `graphs` the sizes of the server's CUDA graphs, by default those of 128 seats; `pp`, `dp` and `ep` the pipeline
    stages, the data-parallel engines and the ranks that experts are dealt to; `kernels` those of the GPU, where they
    were loaded before. Raises InputError for what is not there or cannot be spread over the GPUs so.
    """
    spec, device = load_model(model, precision), load_gpu(gpu)
    if kv_dtype not in (None, "auto"):
        spec = replace(spec, kv_dtype=kv_dtype)
    measured, kernels_sha256 = load_kernels(device) if kernels is None else kernels
    served = Engine(engine, engine_version, spec.dtype, kv_dtype if kv_dtype not in (None, "auto") else spec.dtype)
    efficiency = at_version(measured, served.release)
    if uses_modules(spec, tp):
        kernels_sha256 = digest(kernels_sha256, tables_sha256(tables_folder(device) / "modules"))
    parallel = Parallel(tp, pp, dp, ep)
    parallel.check(spec)
    table_sd = component_sd(parallel.cut(spec), device, tp, efficiency)
    if tp > 1 and efficiency.allreduce_sd:
        table_sd["communication"] = efficiency.allreduce_sd
    return Deployment(
        model=spec,
        gpu=device,
        tp=tp,
        engine=served,
        tables=component_tables(spec, device, parallel, budget, efficiency, graphs),
        table_sd=table_sd,
        hf_repo=model,
        kernels=efficiency,
        kernels_sha256=kernels_sha256,
        graphs=tuple(graphs),
        parallel=parallel,
        doubts=(
            *(Doubt("kernels", why, variance**0.5) for why, variance in efficiency.variances.items()),
            *parallel.doubts(device),
            *unseen(spec, served.release),
        ),
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
        for name in ("model", "tensor_parallel", "gpu", "engine", "kv_dtype"):
            ours, theirs = getattr(first, name), getattr(run.server, name)
            if ours != theirs:
                raise InputError(
                    f"{run.name}: {name} {theirs!r} differs from {ours!r} of {runs[0].name}: one fit is of one model, "
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
