"""Splits: which requests of which runs a method learns from, and which it is judged by. Ours and baselines alike.

- temporal: learn from the first share of each run, be judged by the rest, one fold a model/GPU/TP;
- lomo (leave one model out): learn from the runs of the other models, be judged by all of this one's;
- lowo (leave one workload out): learn from a model's other runs, be judged by all of this one.

A saturated run is judged and never learned from: its survivors are biased (unless a model has no other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups, trainable
from roofml.util.errors import InputError

PROTOCOLS = ("temporal", "lomo", "lowo")


@dataclass(frozen=True, eq=False)
class Fold:
    """One round of learning and judging. No request is in two of its three parts."""

    name: str
    """What is left out, for people to read."""
    train: tuple[Selection, ...]
    validation: tuple[Selection, ...]
    """To choose between variants by; empty where a protocol needs none."""
    test: tuple[Selection, ...]


def temporal(runs: Sequence[Run], train: float = 0.6, validation: float = 0.0) -> list[Fold]:
    """One fold a model/GPU/TP: the first `train` of each run, `validation` after it, the rest is the test.

    A run that is not learned from is judged over all of its requests.
    """
    folds: list[Fold] = []
    for group in groups(runs):
        learned = trainable(group)
        folds.append(
            Fold(
                name=_model(group[0]),
                train=tuple(Selection.between(run, 0.0, train) for run in learned),
                validation=tuple(Selection.between(run, train, train + validation) for run in learned)
                if validation
                else (),
                test=tuple(Selection.between(run, train + validation if run in learned else 0.0) for run in group),
            )
        )
    return folds


def lomo(runs: Sequence[Run]) -> list[Fold]:
    """One fold a model/GPU/TP, learned from all others. Raises InputError where there is only one."""
    by_model = groups(runs)
    if len(by_model) < 2:
        raise InputError("protocol lomo: expected runs of at least two models")
    return [
        Fold(
            name=f"without {_model(group[0])}",
            train=tuple(Selection.between(run) for other in by_model if other is not group for run in trainable(other)),
            validation=(),
            test=tuple(Selection.between(run) for run in group),
        )
        for group in by_model
    ]


def lowo(runs: Sequence[Run]) -> list[Fold]:
    """One fold a run, learned from its model's others; models with one run to learn from are left out.

    Raises InputError where no model has two.
    """
    folds: list[Fold] = []
    for group in groups(runs):
        for run in group:
            others = [other for other in group if other is not run and not other.saturated]
            if others:
                train = tuple(map(Selection.between, others))
                folds.append(Fold(f"without {run.name}", train, (), (Selection.between(run),)))
    if not folds:
        raise InputError("protocol lowo: expected at least two runs of one model that are not saturated")
    return folds


def by_model(selections: Sequence[Selection]) -> list[list[Selection]]:
    """Selections of one model, GPU and tensor parallel size together."""
    return [
        [selection for selection in selections if selection.run in group]
        for group in groups([selection.run for selection in selections])
    ]


def _model(run: Run) -> str:
    server = run.server
    name = server.model.rsplit("/", 1)[-1]
    return (
        f"{name} on {server.gpu}, TP {server.tensor_parallel}" if server.gpu else f"{name}, TP {server.tensor_parallel}"
    )
