"""Candidates: the deployments that a plan compares, each with its calibration and server, or why it cannot be.

A candidate is a GPU, a tensor parallel size, a format of the weights, and two limits of the server. What is read for
one (a GPU's kernels, what other models taught) is read once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from roofml.calibration.calibrate import uncalibrated
from roofml.calibration.calibration import Calibration
from roofml.calibration.other_models import read_other_models
from roofml.calibration.servers import server_for
from roofml.calibration.untraced import untraced
from roofml.hardware.gpu import load_gpu
from roofml.hardware.load_kernels import Kernels, load_kernels
from roofml.latency.deployment import Deployment, deploy
from roofml.planning.systems import on_tables
from roofml.planning.what_if import carried
from roofml.traces.server import Server, ServerOverrides
from roofml.util.errors import InputError

MOST = 1000
"""Candidates of one plan."""


@dataclass(frozen=True)
class Candidate:
    """A deployment that a plan may choose."""

    model: str
    gpu: str
    tp: int
    precision: str | None = None
    """Format of the weights; None: the config's."""
    max_num_seqs: int | None = None
    """None: vLLM's default."""
    max_num_batched_tokens: int | None = None

    def __str__(self) -> str:
        """For people."""
        parts = [f"{self.tp} x {self.gpu}"]
        parts += [self.precision] if self.precision else []
        parts += [f"seqs {self.max_num_seqs}"] if self.max_num_seqs else []
        parts += [f"budget {self.max_num_batched_tokens}"] if self.max_num_batched_tokens else []
        return ", ".join(parts)


def candidates(
    model: str,
    gpus: Sequence[str],
    tps: Sequence[int],
    precisions: Sequence[str | None] = (None,),
    max_num_seqs: Sequence[int | None] = (None,),
    max_num_batched_tokens: Sequence[int | None] = (None,),
) -> list[Candidate]:
    """Every combination. Raises InputError for a GPU that is none, for none at all, and for too many."""
    names = list(dict.fromkeys(load_gpu(gpu).name if not gpu.endswith((".yaml", ".yml")) else gpu for gpu in gpus))
    found = [Candidate(model, *each) for each in product(names, tps, precisions, max_num_seqs, max_num_batched_tokens)]
    if not 1 <= len(found) <= MOST:
        raise InputError(f"{len(found)} candidates: expected 1 to {MOST}")
    return found


@dataclass
class Stand:
    """What makes a candidate's calibration: physics, or a given calibration carried to it."""

    overrides: ServerOverrides
    given: Calibration | None = None
    engine: str = "vllm"
    engine_version: str | None = None
    kv_dtype: str | None = None
    kernels: dict[str, Kernels] = field(default_factory=dict[str, Kernels])
    made: dict[tuple[str, int, str | None], Calibration] = field(
        default_factory=dict[tuple[str, int, str | None], Calibration]
    )

    def deployment(self, candidate: Candidate) -> Deployment:
        """Its model on its GPUs. Raises InputError for what cannot be spread over them so."""
        if candidate.gpu not in self.kernels:
            self.kernels[candidate.gpu] = load_kernels(load_gpu(candidate.gpu))
        return deploy(
            candidate.model,
            candidate.gpu,
            candidate.tp,
            engine=self.engine,
            engine_version=self.engine_version,
            kv_dtype=self.kv_dtype,
            precision=candidate.precision,
            kernels=self.kernels[candidate.gpu],
        )

    def calibration(self, candidate: Candidate) -> Calibration:
        """Its calibration. Raises InputError for what cannot be spread over its GPUs so."""
        key = (candidate.gpu, candidate.tp, candidate.precision)
        if key not in self.made:
            deployment = self.deployment(candidate)
            if self.given is None:
                self.made[key] = uncalibrated(deployment, untraced(self.others.prior(deployment), deployment))
            else:
                moved = carried(self.given, deployment, self.others)
                self.made[key] = moved.calibration
                self.said += moved.said
        return self.made[key]

    def serving(self, candidate: Candidate) -> tuple[Calibration, Server]:
        """Its calibration with the tables of its server, and that. Raises InputError where it does not fit."""
        calibration = self.calibration(candidate)
        said = replace(
            self.overrides,
            max_num_seqs=candidate.max_num_seqs or self.overrides.max_num_seqs,
            max_num_batched_tokens=candidate.max_num_batched_tokens or self.overrides.max_num_batched_tokens,
        )
        server = server_for(calibration, said)
        return on_tables(calibration, server), server

    def __post_init__(self) -> None:
        """Read what is read once."""
        self.others = read_other_models()
        self.said: list[str] = []
        """What was carried over, for people."""
