"""Our model, its variants and the baselines behind one interface, so that all are judged alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from roofml.engine.latency_model import LatencyModel
from roofml.latency.deployment import deployment_of
from roofml.traces.selection import Selection
from roofml.util.errors import InputError
from roofml.validation.baselines import BASELINES, Baseline, BaselineModel, samples_of
from roofml.validation.leaderboard.variants import VARIANTS, FitCache, Variant, free_parameters, learn
from roofml.validation.splits import Fold

OURS = "roofml"
NEEDS = {
    "boosted-trees": ("xgboost",),
    "bayesian-ridge": ("sklearn",),
    "two-regime-ridge": ("sklearn",),
    "three-regime-ridge": ("sklearn",),
}
"""Predictor -> the libraries of the extra `baselines` that it needs."""


@dataclass(frozen=True, eq=False)
class Learned:
    """What a predictor learned from a fold."""

    model: LatencyModel
    free: int
    """Number of learned numbers."""
    note: str = ""
    """What the predictor chose, for people to read."""


@dataclass(frozen=True)
class Predictor:
    """A row of the leaderboard."""

    name: str
    title: str
    kind: Literal["ours", "variant", "baseline"]
    source: Variant | Baseline

    def learn(self, fold: Fold, elsewhere: Sequence[Selection], cache: FitCache, seed: int) -> Learned:
        """Learn a fold.

        `elsewhere` has training parts of other models, which baselines do not use. `cache` keeps fits that may be used
        again. Raises InputError if the fold has nothing to learn from.
        """
        if isinstance(self.source, Variant):
            learned = learn(self.source, fold, elsewhere, cache)
            norm = learned.calibration.deployment.tables.norm
            return Learned(learned, free_parameters(self.source), f"norm of order {norm:g}" if norm else "")
        trained = self.source.train(samples_of(fold.train), seed)
        deployment = deployment_of([selection.run for selection in fold.test])
        return Learned(BaselineModel(trained, deployment), trained.free, trained.note)


PREDICTORS: dict[str, Predictor] = {
    **{v.name: Predictor(v.name, v.title, "ours" if v.name == OURS else "variant", v) for v in VARIANTS.values()},
    **{b.name: Predictor(b.name, b.title, "baseline", b) for b in BASELINES.values()},
}


def check_installed(names: Sequence[str], picture: bool) -> None:
    """Raise InputError if an optional library is missing that one of the predictors, or a picture, needs."""
    libraries = [library for name in names for library in NEEDS.get(name, ())]
    for library, extra in [*((library, "baselines") for library in libraries), *([("matplotlib", "plot")] * picture)]:
        if find_spec(library) is None:
            raise InputError(f"{library} is not installed: pip install 'roofml[{extra}]'")
