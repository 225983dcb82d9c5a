"""Splits: which requests of which runs a method learns from, and which it is judged by. Ours and baselines alike.

- temporal: learn from the first share of each run, be judged by the rest, one fold a model/GPU/TP;
- lomo (leave one model out): learn from the runs of the other models, be judged by all of this one's;
- lowo (leave one workload out): learn from a model's other runs, be judged by all of this one;
- load: learn from the stage of each run that has the lowest rate, be judged by the stages above it, one fold a
  model/GPU/TP. Runs of one stage are left out.

A saturated run is judged and never learned from: its survivors are biased (unless a model has no other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roofml.traces.run import Run
from roofml.traces.selection import Selection, groups, trainable
from roofml.traces.stages import low_and_high
from roofml.util.errors import InputError
from roofml.util.outside_text import for_line

PROTOCOLS = ("temporal", "lomo", "lowo", "load")


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


def load(runs: Sequence[Run]) -> list[Fold]:
    """One fold a model/GPU/TP, learned from the stage of the lowest rate of its runs, judged by the stages above.

    Raises InputError where no run has two.
    """
    folds: list[Fold] = []
    for group in groups([run for run in runs if low_and_high(run) is not None]):
        stages = [(run, *parts) for run in group if (parts := low_and_high(run)) is not None]
        learned = trainable(group)
        train = tuple(Selection.of(run, low) for run, low, _ in stages if run in learned)
        test = tuple(_some(Selection.of(run, high), "above its lowest rate") for run, _, high in stages)
        folds.append(Fold(_model(group[0]), train, (), test))
    if not folds:
        raise InputError("protocol load: expected a run of stages with different rates, or whose rate doubles")
    return folds


def of_one_stage(runs: Sequence[Run]) -> list[Run]:
    """The runs that the protocol load leaves out: of one rate of sending, or of a closed loop."""
    return [run for run in runs if low_and_high(run) is None]


def _some(selection: Selection, which: str) -> Selection:
    """The selection. Raises InputError if nothing is in it."""
    if not len(selection):
        raise InputError(f"{for_line(selection.run.name)}: no successful request {which} to judge by")
    return selection


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
