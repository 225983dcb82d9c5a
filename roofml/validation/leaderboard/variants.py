"""Variants of our model by name.

They share one formula. They differ in which parameters are free, whether models share them, the priors, how compute and
memory combine, and which facts of a trace they use. The default is what `roofml fit` does. Every other variant leaves
out or changes one thing, so that a table of their errors shows what each part is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from roofml.calibration.calibration import Calibration, FittedRun
from roofml.calibration.fit import fit_parameters
from roofml.calibration.other_models import evidence_of
from roofml.calibration.posterior import Posterior, posterior_of
from roofml.calibration.prior import PACKAGE, Prior, pool
from roofml.engine.replay import Replay
from roofml.engine.step_time import StepTimes
from roofml.hardware.kernels import at_datasheet
from roofml.hardware.load_kernels import load_efficiency
from roofml.latency.components import component_tables
from roofml.latency.deployment import Deployment, deployment_of
from roofml.latency.parameters import BY_NAME, NAMES, to_coordinates
from roofml.traces.run import Run
from roofml.traces.selection import Selection
from roofml.util.digest import digest
from roofml.validation.splits import Fold, by_model

WIDER = 10.0
"""Standard deviations of a wide prior are this many times the package's. Such a prior is almost none."""
HELD_SD = 1e-6
"""Standard deviation of a parameter that is not free, in units of its prior's."""
START_SEED = 0

NINE = (
    "prefill_gemm",
    "decode_gemm",
    "prefill_attention",
    "decode_attention",
    "weights",
    "kv_cache",
    "communication",
    "per_layer_us",
    "per_step_us",
)
"""A correction for every component of a roofline, and two overheads."""
REQUEST = ("queueing_us", "queueing_per_running_us", "pipeline_delay_us", "cold_step_us", "cold_kernel_us")
GROWTH = tuple(name for name in NAMES if name.startswith("growth_"))
NO_GROWTH = dict.fromkeys(GROWTH, 0.0)

Blind = Literal["prefix hits", "true output lengths", "pipelining"]


@dataclass(frozen=True)
class Variant:
    """A variant of our model."""

    name: str
    title: str
    prior: Literal["pooled", "package", "wide"] = "pooled"
    """`pooled` also uses the training parts of the other models."""
    free: tuple[str, ...] = NAMES
    """Parameters that are fitted. The others keep their prior's value."""
    held: Mapping[str, float] = field(default_factory=dict[str, float])
    """Parameters that are not fitted and have this value."""
    shared: bool = False
    """Whether all models share one set of parameters."""
    norms: tuple[float, ...] = ()
    """Orders of the norm that replaces the blend; the best fit decides between them. Empty for the blend."""
    datasheet: bool = False
    """Whether kernels are as fast as the datasheet says, and not as measured."""
    blind_to: Blind | None = None
    """The fact of the trace or the server that the variant does not use."""
    paced: bool = True
    """Whether a run that was learned from is predicted at its server's own pace."""
    starts: int = 1
    """Number of fits from starts drawn from the prior. The best fit is kept."""


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("roofml", "default: a fit per model, priors pooled over the other models"),
        Variant("global-9", "nine corrections, one set for all models", "package", NINE + REQUEST, NO_GROWTH, True),
        Variant(
            "extended", "every correction (batch, context, experts too), one set for all models", "package", shared=True
        ),
        Variant("per-model-9", "nine corrections per model", "package", NINE + REQUEST, NO_GROWTH),
        Variant("package-prior", "without the other models' fits", "package"),
        Variant("wide-prior", "priors ten times as wide", "wide"),
        Variant("max", "max of compute and memory", held={"max_weight": 1.0}),
        Variant("sum", "sum of compute and memory", held={"max_weight": 0.0}),
        Variant("p-norm", "norm of compute and memory, its order fitted", norms=(1.5, 2.0, 4.0, 8.0, 16.0)),
        Variant(
            "datasheet-kernels", "kernels at the datasheet's rates, priors ten times as wide", "wide", datasheet=True
        ),
        Variant("no-pace", "every server of a kind as fast as the other", paced=False),
        Variant("no-growth", "GEMM time as measured for every number of tokens", held=NO_GROWTH),
        Variant("no-long-context", "a token of context past 1,024 costs what others do", held={"long_context": 0.0}),
        Variant("no-contention", "the front end as fast under load", held={"queueing_per_running_us": 0.0}),
        Variant(
            "no-cold-start", "a server as fast in its first seconds", held={"cold_step_us": 0.0, "cold_kernel_us": 0.0}
        ),
        Variant("no-prefix-hits", "every prompt computed", blind_to="prefix hits"),
        Variant("reported-lengths", "output lengths as the client counted them", blind_to="true output lengths"),
        Variant("no-pipelining", "a batch formed when the step before has ended", blind_to="pipelining"),
        Variant("five-starts", "five starts", starts=5),
    )
}


@dataclass(frozen=True, eq=False)
class VariantModel:
    """What a variant learned for one deployment: a calibration, and the facts of a run that the variant uses."""

    variant: Variant
    calibration: Calibration

    def replay(self, run: Run) -> Replay:
        """Serve the run as the variant sees it."""
        return self.calibration.replay(seen(self.variant, run))

    def step_times(self, run: Run) -> StepTimes:
        """Return the step times on the server of `run`."""
        return self.calibration.step_times(run)


@dataclass
class FitCache:
    """Fits that folds of a board share, by a digest of the fitted requests: by their recordings, never by name."""

    fits: dict[str, Posterior] = field(default_factory=dict[str, Posterior])


def learn(variant: Variant, fold: Fold, elsewhere: Sequence[Selection], cache: FitCache) -> VariantModel:
    """Learn a fold whose test is of one model. `elsewhere` has training parts of the other models, for pooled priors.

    If the fold has no training part of the model, the other models predict it.
    """
    fold = replace(fold, train=as_seen(variant, fold.train), test=as_seen(variant, fold.test))
    elsewhere = as_seen(variant, elsewhere)
    deployment = deployment_for(variant, [selection.run for selection in fold.test])
    name = fold.test[0].run.server.model
    own = [selection for selection in fold.train if selection.run.server.model == name]
    others = [selection for selection in (*fold.train, *elsewhere) if selection.run.server.model != name]
    start = prior_of(variant)

    def model(fitted: Posterior, fitted_to: Sequence[Selection], over: Deployment = deployment) -> VariantModel:
        paces: Mapping[str, float] = fitted.paces if variant.paced else {}
        runs = tuple(FittedRun(s.run.name, s.run.identity, paces.get(s.run.identity)) for s in fitted_to)
        return VariantModel(variant, Calibration(over, fitted, runs))

    if variant.shared:
        return model(_fit(variant, sorted(own + others, key=lambda s: s.run.name), start, cache), own + others)
    if not own or variant.prior == "pooled":
        evidence = [
            evidence_of(_fit(variant, group, start, cache, for_others=True), group[0].run.server.model)
            for group in by_model(others)
        ]
        start = hold(variant, pool(evidence, start))
    if not own:
        return VariantModel(variant, Calibration(deployment, posterior_of(start)))
    norm, best = _best(variant, own, start)
    return model(best, own, deployment_for(variant, [own[0].run], norm))


def free_parameters(variant: Variant) -> int:
    """Return the number of fitted numbers."""
    return len(variant.free) - len(set(variant.held) & set(variant.free))


def prior_of(variant: Variant) -> Prior:
    """Return the prior that a variant starts from, with its parameters held that are not free."""
    wider = WIDER if variant.prior == "wide" else 1.0
    return hold(variant, Prior(PACKAGE.mean, PACKAGE.covariance * wider**2, variant.prior))


def hold(variant: Variant, prior: Prior) -> Prior:
    """Return `prior` with certainty about every parameter that is not free."""
    mean, scale = prior.mean.copy(), np.ones(len(NAMES))
    values = prior.values
    for row, name in enumerate(NAMES):
        if name in variant.held or name not in variant.free:
            value = variant.held.get(name, BY_NAME[name].prior)
            values[row] = max(value, BY_NAME[name].lower)
            scale[row] = HELD_SD
            mean[row] = to_coordinates(values)[row]
    return Prior(mean, prior.covariance * np.outer(scale, scale), prior.source)


def deployment_for(variant: Variant, runs: Sequence[Run], norm: float | None = None) -> Deployment:
    """Return the deployment of runs of one model, with kernels and their overlap as the variant sees them."""
    deployment = deployment_of(runs)
    tables = deployment.tables
    if variant.datasheet:
        gpu = deployment.gpu
        kernels = at_datasheet(load_efficiency(gpu))
        tables = component_tables(deployment.model, gpu, deployment.tp, deployment.budget, kernels)
    return replace(deployment, tables=tables._replace(norm=norm))


def seen(variant: Variant, run: Run) -> Run:
    """Return the run as a variant sees it."""
    if variant.blind_to == "prefix hits":
        return replace(run, server=replace(run.server, prefix_caching=False))
    if variant.blind_to == "pipelining":
        return replace(run, server=replace(run.server, async_scheduling=False))
    if variant.blind_to == "true output lengths" and len(run.counted_tokens):
        return replace(run, output_tokens=np.maximum(run.counted_tokens, 1))
    return run


def as_seen(variant: Variant, selections: Sequence[Selection]) -> tuple[Selection, ...]:
    """The same requests of each run as a variant takes it."""
    return tuple(Selection(seen(variant, selection.run), selection.requests) for selection in selections)


def _best(variant: Variant, selections: Sequence[Selection], prior: Prior) -> tuple[float | None, Posterior]:
    """Return the fit with the smallest loss over orders and starts, with the order of its norm."""
    starts = [None, *prior.draws(variant.starts - 1, START_SEED)] if variant.starts > 1 else [None]
    fits: list[tuple[float | None, Posterior]] = []
    for norm in variant.norms or (None,):
        deployment = deployment_for(variant, [selection.run for selection in selections], norm)
        fits += [(norm, fit_parameters(selections, deployment.tables, prior=prior, start=start)) for start in starts]
    return min(fits, key=lambda of_norm: of_norm[1].loss)


def _fit(
    variant: Variant, selections: Sequence[Selection], prior: Prior, cache: FitCache, *, for_others: bool = False
) -> Posterior:
    """Fit one set of parameters to all runs, each with the tables of its own model, or take it from the cache."""
    key = digest(variant.name, str(for_others), *(part for s in selections for part in (s.run.identity, s.requests)))
    if key not in cache.fits:
        norm = variant.norms[len(variant.norms) // 2] if variant.norms else None
        tables = [deployment_for(variant, [selection.run], norm).tables for selection in selections]
        cache.fits[key] = fit_parameters(selections, tables, prior=prior, for_others=for_others)
    return cache.fits[key]
