"""Presets: variants of our model by name. One formula; what differs is which parameters are free, whether models share
them, what is believed before, how compute and memory combine, and what of a trace is taken into account.

The default is what `roofml fit` does. Every other preset leaves out or changes one thing, so that a table of their
errors says what each part buys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from roofml.calibration.fit import Fit, fit
from roofml.calibration.other_models import learned_of
from roofml.calibration.prior import PACKAGE, Prior, pool
from roofml.hardware.kernels import at_datasheet, load_efficiency
from roofml.latency.components import component_tables
from roofml.latency.parameters import BY_NAME, NAMES, to_coordinates
from roofml.traces.run import Floats, Ints, Run
from roofml.validation.cross_validation import Setting, setting_of
from roofml.validation.splits import Fold, Part, groups

WIDER = 10.0
"""Standard deviations of a wide prior are so many times the package's: as good as none."""
HELD_SD = 1e-6
"""Standard deviation, in units of its prior's, of a parameter that is not free."""
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
"""One correction for every component that a roofline has, and two overheads."""
REQUEST = ("queueing_us", "queueing_per_running_us", "pipeline_delay_us", "cold_step_us", "cold_kernel_us")
GROWTH = tuple(name for name in NAMES if name.startswith("growth_"))
NO_GROWTH = dict.fromkeys(GROWTH, 0.0)

Blind = Literal["prefix hits", "true output lengths", "pipelining"]


@dataclass(frozen=True)
class Preset:
    """One variant."""

    name: str
    title: str
    prior: Literal["pooled", "package", "wide"] = "pooled"
    """pooled: also what the other models' training parts say."""
    free: tuple[str, ...] = NAMES
    """Parameters that are fitted; the others keep their prior's value."""
    held: Mapping[str, float] = field(default_factory=dict[str, float])
    """Parameters that are not free, at another value."""
    shared: bool = False
    """One set of parameters for all models."""
    norms: tuple[float, ...] = ()
    """Orders of the norm that takes the blend's place; the one that fits best. Empty: the blend."""
    datasheet: bool = False
    """Kernels as fast as the datasheet says, in place of those measured."""
    blind_to: Blind | None = None
    """What of the trace and the server is not taken into account."""
    paced: bool = True
    """A run that was learned from is predicted at its server's own pace."""
    starts: int = 1
    """Fits from so many starts, drawn from the prior; the best is kept."""


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("roofml", "default: a fit per model, priors pooled over the other models"),
        Preset("global-9", "nine corrections, one set for all models", "package", NINE + REQUEST, NO_GROWTH, True),
        Preset(
            "extended", "every correction (batch, context, experts too), one set for all models", "package", shared=True
        ),
        Preset("per-model-9", "nine corrections per model", "package", NINE + REQUEST, NO_GROWTH),
        Preset("package-prior", "without the other models' fits", "package"),
        Preset("wide-prior", "priors ten times as wide", "wide"),
        Preset("max", "max of compute and memory", held={"max_weight": 1.0}),
        Preset("sum", "sum of compute and memory", held={"max_weight": 0.0}),
        Preset("p-norm", "norm of compute and memory, its order fitted", norms=(1.5, 2.0, 4.0, 8.0, 16.0)),
        Preset(
            "datasheet-kernels", "kernels at the datasheet's rates, priors ten times as wide", "wide", datasheet=True
        ),
        Preset("no-pace", "every server of a kind as fast as the other", paced=False),
        Preset("no-growth", "GEMM time as measured for every number of tokens", held=NO_GROWTH),
        Preset("no-long-context", "a token of context past 1,024 costs what others do", held={"long_context": 0.0}),
        Preset("no-contention", "the front end as fast under load", held={"queueing_per_running_us": 0.0}),
        Preset(
            "no-cold-start", "a server as fast in its first seconds", held={"cold_step_us": 0.0, "cold_kernel_us": 0.0}
        ),
        Preset("no-prefix-hits", "every prompt computed", blind_to="prefix hits"),
        Preset("reported-lengths", "output lengths as the client counted them", blind_to="true output lengths"),
        Preset("no-pipelining", "a batch formed when the step before has ended", blind_to="pipelining"),
        Preset("five-starts", "five starts", starts=5),
    )
}


@dataclass(frozen=True)
class Fitted:
    """What a preset found for one model: all that a replay needs."""

    preset: Preset
    where: Setting
    values: Floats
    """(parameters,)"""
    paces: Mapping[str, float]
    """Run -> that of its server, where it was fitted."""
    free: int
    """Numbers fitted."""


def learn(preset: Preset, fold: Fold, elsewhere: Sequence[Part], known: dict[str, Fit]) -> Fitted:
    """Learn a fold, whose test is of one model. `elsewhere`: training parts of the other models, for pooled priors.

    `known` keeps fits of other models between folds. A model that the fold has no training part of is predicted by
    what the others say.
    """
    where = setting_for(preset, [part.run for part in fold.test])
    name = fold.test[0].run.server.model
    own = [part for part in fold.train if part.run.server.model == name]
    others = [part for part in (*fold.train, *elsewhere) if part.run.server.model != name]
    start = believed(preset)
    free = len(preset.free) - len(set(preset.held) & set(preset.free))
    if preset.shared:
        together = _fit(preset, sorted(own + others, key=lambda part: part.run.name), start, known)
        return Fitted(preset, where, together.values, _paces(preset, together), free)
    if not own or preset.prior == "pooled":
        learned = [
            learned_of(_fit(preset, group, start, known), group[0].run.server.model) for group in by_model(others)
        ]
        start = hold(preset, pool(learned, start))
    if not own:
        return Fitted(preset, where, start.values, {}, free)
    norm, best = _best(preset, own, start)
    return Fitted(preset, setting_for(preset, [own[0].run], norm), best.values, _paces(preset, best), free)


def _paces(preset: Preset, found: Fit) -> Mapping[str, float]:
    return found.paces if preset.paced else {}


def by_model(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts of one model, GPU and tensor parallel size together."""
    found = groups([part.diagnosis for part in parts])
    return [[part for part in parts if part.diagnosis in group] for group in found]


def believed(preset: Preset) -> Prior:
    """The prior that a preset starts from, with what it holds held."""
    wider = WIDER if preset.prior == "wide" else 1.0
    return hold(preset, Prior(PACKAGE.mean, PACKAGE.covariance * wider**2, preset.prior))


def hold(preset: Preset, prior: Prior) -> Prior:
    """`prior` with certainty about every parameter that is not free."""
    mean, scale = prior.mean.copy(), np.ones(len(NAMES))
    values = prior.values
    for row, name in enumerate(NAMES):
        if name in preset.held or name not in preset.free:
            wanted = preset.held.get(name, BY_NAME[name].prior)
            values[row] = max(wanted, BY_NAME[name].lower)
            scale[row] = HELD_SD
            mean[row] = to_coordinates(values)[row]
    return Prior(mean, prior.covariance * np.outer(scale, scale), prior.source)


def setting_for(preset: Preset, runs: Sequence[Run], norm: float | None = None) -> Setting:
    """The setting of runs of one model, as the preset sees kernels and their overlap."""
    where = setting_of(runs)
    tables = where.tables
    if preset.datasheet:
        budget = len(tables.gemm) - 1
        tables = component_tables(where.model, where.gpu, where.tp, budget, at_datasheet(load_efficiency(where.gpu)))
    return replace(where, tables=tables._replace(norm=norm))


def seen(preset: Preset, run: Run, reported: Ints) -> Run:
    """The run as a preset takes it; `reported` output tokens (requests,) are those the client counted."""
    if preset.blind_to == "prefix hits":
        return replace(run, server=replace(run.server, prefix_caching=False))
    if preset.blind_to == "pipelining":
        return replace(run, server=replace(run.server, async_scheduling=False))
    if preset.blind_to == "true output lengths":
        return replace(run, output_tokens=np.maximum(reported, 1))
    return run


def part_as_seen(preset: Preset, part: Part, reported: Mapping[str, Ints]) -> Part:
    """The same requests of the run as a preset takes it; `reported`: run name -> output tokens its client counted."""
    run = seen(preset, part.run, reported[part.run.name])
    return replace(part, diagnosis=replace(part.diagnosis, run=run))


def _best(preset: Preset, parts: Sequence[Part], prior: Prior) -> tuple[float | None, Fit]:
    """Order of the norm, and the fit with the smallest misfit over orders and starts."""
    starts = [None, *prior.draws(preset.starts - 1, START_SEED)] if preset.starts > 1 else [None]
    found: list[tuple[float | None, Fit]] = []
    for norm in preset.norms or (None,):
        where = setting_for(preset, [part.run for part in parts], norm)
        masks = [part.requests for part in parts]
        runs = [part.run for part in parts]
        found += [(norm, fit(runs, where.tables, prior=prior, chosen=masks, start=start)) for start in starts]
    return min(found, key=lambda one: one[1].misfit)


def _fit(preset: Preset, parts: Sequence[Part], prior: Prior, known: dict[str, Fit]) -> Fit:
    """One set of parameters for all `parts`, each with the tables of its own model; looked up where it is known."""
    key = " ".join([preset.name, *(f"{part.run.name}:{int(part.requests.sum())}" for part in parts)])
    if key not in known:
        norm = preset.norms[len(preset.norms) // 2] if preset.norms else None
        tables = [setting_for(preset, [part.run], norm).tables for part in parts]
        known[key] = fit([p.run for p in parts], tables, prior=prior, chosen=[p.requests for p in parts])
    return known[key]
