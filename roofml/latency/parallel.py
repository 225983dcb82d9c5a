"""Parallel: how a model is spread over GPUs, beyond tensor parallelism, and what that does to a step's tables.

Tensor parallelism cuts every matrix; expert parallelism deals whole experts to the ranks instead. With data-parallel
attention every engine of the group serves requests of its own, and the experts see the tokens of all. Pipeline
parallelism cuts the layers into stages, which work on as many batches at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from roofml.hardware.gpu import Gpu
from roofml.hardware.kernels import Efficiency
from roofml.latency.doubts import Doubt
from roofml.models.spec import ModelSpec
from roofml.util.arrays import Floats
from roofml.util.errors import InputError
from roofml.util.names import shown

if TYPE_CHECKING:
    from roofml.latency.components import ComponentTables

MOST_RANKS = 1024
BUSIEST_A_DOUBLING = 0.2
"""By how much more than its share the busiest rank of dealt experts computes, for every doubling of ranks: experts are
not chosen evenly. H100, 4,096 tokens: 1.3 to 1.9 times its share of 8 ranks, 2 to 3.3 of 32 (kernel rows of
aiconfigurator that time the busiest rank, balanced and power-law routing)."""
BOUNDARY_US = 10.0
"""Of handing activations from one pipeline stage to the next, besides their bytes."""
EXPERTS_SD, DATA_SD, STAGES_SD, PCIE_SD = 0.12, 0.15, 0.2, 0.15
"""Relative standard deviations of step times where these were not measured on the deployment's own kind."""


@dataclass(frozen=True)
class Parallel:
    """Ranks of each kind. A group has tp·pp·dp GPUs."""

    tp: int = 1
    pp: int = 1
    """Stages."""
    dp: int = 1
    """Engines, each with requests of its own."""
    ep: int = 1
    """Ranks that whole experts are dealt to: tp·dp, or 1 where every expert is cut over tp."""

    @property
    def said(self) -> str:
        """For a heading: `TP 8, EP 8`."""
        beyond = {"PP": self.pp, "DP": self.dp, "EP": self.ep}
        return ", ".join((f"TP {self.tp}", *(f"{name} {ranks}" for name, ranks in beyond.items() if ranks > 1)))

    @property
    def gathers(self) -> bool:
        """Whether the experts of a rank see the tokens of other engines."""
        return self.ep > 1 and self.dp > 1

    def check(self, model: ModelSpec) -> None:
        """Raise InputError for what no engine does with this model."""
        sizes = {"tensor": self.tp, "pipeline": self.pp, "data": self.dp, "expert": self.ep}
        for kind, ranks in sizes.items():
            if not 1 <= ranks <= MOST_RANKS:
                raise InputError(f"{kind} parallel size {shown(ranks)}: expected between 1 and {MOST_RANKS}")
        if self.pp > model.num_layers:
            raise InputError(f"{model.name}: {self.pp} pipeline stages for {model.num_layers} layers")
        if self.ep == 1:
            return
        if not any(gemm.experts for gemm in model.gemms(1)):
            raise InputError(f"{model.name}: expert parallel size {self.ep}: it has no experts")
        if self.ep != self.tp * self.dp:
            ranks = f"all ranks of a stage, tp {self.tp} x dp {self.dp}"
            raise InputError(f"expert parallel size {self.ep}: experts are dealt to {ranks}")

    def doubts(self, gpu: Gpu) -> tuple[Doubt, ...]:
        """Why its step times are less sure than those of tensor parallelism alone."""
        found: list[Doubt] = []
        if self.ep > 1:
            found.append(Doubt("expert parallel", "experts dealt to ranks: how evenly is not known", EXPERTS_SD))
        if self.gathers:
            found.append(Doubt("data parallel", "the step of the slowest engine counts, and gathers tokens", DATA_SD))
        if self.pp > 1:
            found.append(Doubt("pipeline", "stages are priced as always busy with batches of equal size", STAGES_SD))
        if self.tp > 1 and gpu.over_pcie:
            found.append(Doubt("PCIe", "all-reduces over PCIe depend on the host, and on peer-to-peer", PCIE_SD))
        return tuple(found)

    def cut(self, model: ModelSpec) -> ModelSpec:
        """The model with its experts dealt to ranks, where they are."""
        return replace(model, expert_parallel=self.ep) if self.ep > 1 else model

    def stage(self, model: ModelSpec) -> ModelSpec:
        """The layers that the fullest pipeline stage holds, with both embeddings."""
        if self.pp == 1:
            return model
        return replace(model, layers=tuple((layer, math.ceil(count / self.pp)) for layer, count in model.layers))


def gathered_us(model: ModelSpec, parallel: Parallel, tokens: Floats, efficiency: Efficiency) -> Floats:
    """Collecting the tokens of all engines before the experts and giving back theirs after, all layers: (M,) µs.

    An all-gather and a reduce-scatter move what one all-reduce of the same tokens does (vLLM's default,
    allgather_reducescatter).
    """
    if not parallel.gathers:
        return np.zeros_like(tokens)
    layers = sum(count for layer, count in model.layers if layer.mlp is not None and layer.mlp.experts)
    message = parallel.dp * tokens * model.hidden_size * model.dtype_bytes
    return np.where(tokens > 0, layers * efficiency.allreduce_us_at(parallel.ep, message), 0.0)


def in_stages(tables: ComponentTables, model: ModelSpec, gpu: Gpu, stages: int) -> ComponentTables:
    """The tables of one step of all requests with so many stages at work on as many batches.

    A batch has its share of the decoding requests, and passes through all layers: weights are read for each batch, by
    different GPUs at once, keys and values of every request once. A prompt's chunk is in one batch alone and gains
    nothing.
    """
    if stages == 1:
        return tables
    share = np.ceil(np.arange(len(tables.weights)) / stages).astype(np.int64)
    message = np.arange(len(tables.weights)) * model.hidden_size * model.dtype_bytes / stages
    handed = stages * (BOUNDARY_US + message / gpu.interconnect_bytes_per_us)
    handed[0] = 0.0
    return tables._replace(
        weights=tables.weights[share],
        expert_weights=tables.expert_weights[share],
        communication=tables.communication[share] + handed,
        attention_items=tables.attention_items[share],
        decode_pair=tables.decode_pair / stages,
        kv_token=tables.kv_token / stages,
        grouped_kv_token=tables.grouped_kv_token / stages,
    )
