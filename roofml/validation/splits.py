"""Protocols: which requests of which runs a method learns from, and which it is judged by. Ours and baselines alike.

- temporal: learn from the first share of each run, be judged by the rest, one fold a model/GPU/TP;
- lomo (leave one model out): learn from the runs of the other models, be judged by all of this one's;
- lowo (leave one workload out): learn from a model's other runs, be judged by all of this one.

A saturated run is judged and never learned from: its survivors are biased (unless a model has no other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofml.traces.doctor import Diagnosis
from roofml.traces.run import Bools, Run
from roofml.util.errors import InputError

PROTOCOLS = ("temporal", "lomo", "lowo")


@dataclass(frozen=True)
class Part:
    """Some requests of one run."""

    diagnosis: Diagnosis
    requests: Bools
    """(requests,) which: never one without a valid latency."""

    @property
    def run(self) -> Run:
        """The run that they are of."""
        return self.diagnosis.run


@dataclass(frozen=True)
class Fold:
    """One round of learning and judging. No request is in two of its three parts."""

    name: str
    """What is left out, for people to read."""
    train: tuple[Part, ...]
    validation: tuple[Part, ...]
    """To choose between variants by; empty where a protocol needs none."""
    test: tuple[Part, ...]


def between(run: Run, after: float, until: float = 1.0) -> Bools:
    """The successful requests between two shares of a run, shape (requests,). Raises InputError when there is none."""
    place = np.arange(len(run))
    mask = run.ok & (place >= after * len(run)) & (place < until * len(run))
    if not mask.any():
        raise InputError(f"{run.name}: no successful request from {after:.0%} to {until:.0%} of the run to judge by")
    return mask


def part(diagnosis: Diagnosis, after: float = 0.0, until: float = 1.0) -> Part:
    """The successful requests between two shares of a run. Raises InputError when there is none."""
    return Part(diagnosis, between(diagnosis.run, after, until))


def groups(diagnoses: Sequence[Diagnosis]) -> list[list[Diagnosis]]:
    """Runs of one model, GPU and tensor parallel size together, in order of first appearance."""
    found: dict[tuple[str, str | None, int], list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        server = diagnosis.run.server
        found.setdefault((server.model, server.gpu, server.tensor_parallel), []).append(diagnosis)
    return list(found.values())


def trainable(group: Sequence[Diagnosis]) -> list[Diagnosis]:
    """The runs to learn from: those not saturated, or all where every one is."""
    return [d for d in group if not d.saturated] or list(group)


def temporal(diagnoses: Sequence[Diagnosis], train: float = 0.6, validation: float = 0.0) -> list[Fold]:
    """One fold a model/GPU/TP: the first `train` of each run, `validation` after it, the rest is the test.

    A run that is not learned from is judged over all of its requests.
    """
    folds: list[Fold] = []
    for group in groups(diagnoses):
        learned = trainable(group)
        taken = {id(d) for d in learned}
        folds.append(
            Fold(
                name=_model(group[0]),
                train=tuple(part(d, 0.0, train) for d in learned),
                validation=tuple(part(d, train, train + validation) for d in learned) if validation else (),
                test=tuple(part(d, train + validation if id(d) in taken else 0.0) for d in group),
            )
        )
    return folds


def lomo(diagnoses: Sequence[Diagnosis]) -> list[Fold]:
    """One fold a model/GPU/TP, learned from all others. Raises InputError where there is only one."""
    by_model = groups(diagnoses)
    if len(by_model) < 2:
        raise InputError("protocol lomo: expected runs of at least two models")
    return [
        Fold(
            name=f"without {_model(group[0])}",
            train=tuple(part(d) for other in by_model if other is not group for d in trainable(other)),
            validation=(),
            test=tuple(part(d) for d in group),
        )
        for group in by_model
    ]


def lowo(diagnoses: Sequence[Diagnosis]) -> list[Fold]:
    """One fold a run, learned from its model's others; models with one run to learn from are left out.

    Raises InputError where no model has two.
    """
    folds: list[Fold] = []
    for group in groups(diagnoses):
        for diagnosis in group:
            others = [d for d in group if d is not diagnosis and not d.saturated]
            if others:
                folds.append(Fold(f"without {diagnosis.run.name}", tuple(map(part, others)), (), (part(diagnosis),)))
    if not folds:
        raise InputError("protocol lowo: expected at least two runs of one model that are not saturated")
    return folds


def _model(diagnosis: Diagnosis) -> str:
    server = diagnosis.run.server
    name = server.model.rsplit("/", 1)[-1]
    return (
        f"{name} on {server.gpu}, TP {server.tensor_parallel}" if server.gpu else f"{name}, TP {server.tensor_parallel}"
    )
