"""Methods: ours, its variants and the baselines behind one interface, so that one protocol judges them all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Literal

from roofml.calibration.fit import Fit
from roofml.engine.replay import replay
from roofml.engine.step_law import StepLaw
from roofml.latency.formula import StepParameters, scaled, step_times
from roofml.latency.parameters import split
from roofml.traces.run import Ints, Run
from roofml.util.errors import InputError
from roofml.validation.baselines import BASELINES, Baseline, samples_of, serve
from roofml.validation.cross_validation import Predicted, setting_of
from roofml.validation.leaderboard.variants import PRESETS, Preset, learn, part_as_seen, seen
from roofml.validation.splits import Fold, Part

OURS = "roofml"
NEEDS = {
    "boosted-trees": ("xgboost",),
    "bayesian-ridge": ("sklearn",),
    "two-regime-ridge": ("sklearn",),
    "three-regime-ridge": ("sklearn",),
}
"""Libraries of the extra `baselines`."""


@dataclass(frozen=True)
class Predictor:
    """What a method learned from one fold."""

    serve: Callable[[Run], Predicted]
    """A run -> latencies of its requests."""
    law: Callable[[Run], StepLaw]
    """The step times that it is served with."""
    free: int
    """Numbers learned."""
    note: str = ""
    """What was chosen, for people to read."""


@dataclass(frozen=True)
class Method:
    """A row of the leaderboard."""

    name: str
    title: str
    kind: Literal["ours", "variant", "baseline"]
    preset: Preset | None = None
    baseline: Baseline | None = None

    def learn(
        self, fold: Fold, elsewhere: Sequence[Part], reported: Mapping[str, Ints], known: dict[str, Fit], seed: int
    ) -> Predictor:
        """Learn a fold. `elsewhere`: training parts of other models, of which baselines make no use; `reported`: run
        name -> output tokens as the client counted them; `known`: fits that may be used again."""
        if self.baseline is not None:
            return _of_baseline(self.baseline, fold, seed)
        assert self.preset is not None
        return _of_preset(self.preset, fold, elsewhere, reported, known)


METHODS: dict[str, Method] = {
    **{
        preset.name: Method(preset.name, preset.title, "ours" if preset.name == OURS else "variant", preset=preset)
        for preset in PRESETS.values()
    },
    **{b.name: Method(b.name, b.title, "baseline", baseline=b) for b in BASELINES.values()},
}


def check_installed(names: Sequence[str], picture: bool) -> None:
    """Raise InputError where an optional library is missing that one of the methods, or a picture, needs."""
    wanted = [library for name in names for library in NEEDS.get(name, ())]
    for library, extra in [*((library, "baselines") for library in wanted), *([("matplotlib", "plot")] * picture)]:
        if find_spec(library) is None:
            raise InputError(f"{library} is not installed: pip install 'roofml[{extra}]'")


def _of_preset(
    preset: Preset, fold: Fold, elsewhere: Sequence[Part], reported: Mapping[str, Ints], known: dict[str, Fit]
) -> Predictor:
    as_seen = partial(part_as_seen, preset, reported=reported)
    found = learn(
        preset,
        replace(fold, train=tuple(map(as_seen, fold.train)), test=tuple(map(as_seen, fold.test))),
        [as_seen(part) for part in elsewhere],
        known,
    )
    step, request = split(found.values)

    def of_server(run: Run) -> StepParameters:
        return scaled(step, found.paces.get(run.name, 1.0))

    def law(run: Run) -> StepLaw:
        tables, parameters = found.where.tables, of_server(run)
        return lambda steps: step_times(tables, steps, parameters)

    return Predictor(
        serve=lambda run: replay(seen(preset, run, reported[run.name]), found.where.tables, of_server(run), request),
        law=law,
        free=found.free,
        note=f"norm of order {found.where.tables.norm:g}" if found.where.tables.norm else "",
    )


def _of_baseline(baseline: Baseline, fold: Fold, seed: int) -> Predictor:
    trained = baseline.train(samples_of(fold.train), seed)
    where = setting_of([part.run for part in fold.test])
    return Predictor(
        serve=lambda run: serve(run, where, trained),
        law=lambda run: trained.law(run, where),
        free=trained.free,
        note=trained.note,
    )
