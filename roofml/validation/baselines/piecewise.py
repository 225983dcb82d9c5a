"""Piecewise linear laws: the components of a step times weights that depend on the step's regime, with a floor.

Each regime has its own weights. The law is therefore linear in columns (steps, regimes·(components + 1)) that are zero
in the other regimes. So all regimes are regressed at once on the measured requests, although hardly any request waits
for steps of one regime alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.components import ComponentTables
from roofml.latency.deployment import Deployment
from roofml.traces.run import Run
from roofml.util.arrays import Floats, Ints
from roofml.validation.baselines.baseline import Trained, with_queueing
from roofml.validation.baselines.physics import parts_of
from roofml.validation.baselines.samples import Samples, stacked

CONSTANT_US, REQUEST_US = 10_000.0, 100.0
"""Units, µs, of the columns of constants and hinges: with them all columns are times of about the same size."""
RARE = 0.05
"""A column that spreads less than this share of the paces is standardized as if it spread so much. Otherwise a
component that hardly occurred could get any weight for a little noise."""

Regression = Callable[[Floats, Floats, Floats], tuple[Floats, float]]
"""(columns (requests, k) of comparable spread, targets and weights (requests,)) -> coefficients (k,) and intercept."""


@dataclass(frozen=True)
class Form:
    """The columns of a law."""

    regimes: int
    regime: Callable[[StepSums], Ints]
    """Steps -> the regime of each, shape (steps,)."""
    hinges: tuple[float, ...] = ()
    """Batch sizes at which the slope by requests may change: columns max(0, requests - hinge)·`REQUEST_US`."""

    def columns_of(self, tables: ComponentTables) -> Callable[[StepSums], Floats]:
        """Return a function of steps to columns (steps, components + hinges), which a regime's weights multiply."""
        parts, hinges = parts_of(tables), np.array(self.hinges)

        def columns(steps: StepSums) -> Floats:
            if not len(hinges):
                return parts(steps)
            return np.concatenate(
                (parts(steps), REQUEST_US * np.maximum(0.0, steps.requests[:, None] - hinges)), axis=1
            )

        return columns

    def design(self, tables: ComponentTables, steps: StepSums) -> Floats:
        """Return (steps, regimes·(columns + 1)): each regime's columns and constant, 0 for steps of other regimes."""
        columns = self.columns_of(tables)(steps)
        columns = np.concatenate((columns, np.full((steps.length, 1), CONSTANT_US)), axis=1)
        inside = self.regime(steps)[:, None] == np.arange(self.regimes)
        return (inside[:, :, None] * columns[:, None, :]).reshape(steps.length, -1)


@dataclass(frozen=True, eq=False)
class Weights:
    """A learned law: a step takes max(floor, weights[regime]·columns + constant[regime]), µs."""

    weights: Floats
    """(regimes, columns)"""
    constant_us: Floats
    """(regimes,)"""
    floor_us: float


def learn(samples: Sequence[Samples], form: Form, regression: Regression) -> Weights:
    """Regress standardized request means, with errors relative to the pace. The floor is the least pace."""
    means, pace = stacked(samples, [form.design(s.deployment.tables, s.schedule.steps) for s in samples])
    centre, spread = means.mean(axis=0), means.std(axis=0)
    spread = np.maximum(spread, max(1e-9, RARE * float(pace.std())))
    coefficients, intercept = regression((means - centre) / spread, pace, 1 / pace**2)
    raw = coefficients / spread
    by_regime = raw.reshape(form.regimes, -1)
    constant_us = CONSTANT_US * by_regime[:, -1] + intercept - float(centre @ raw)
    return Weights(by_regime[:, :-1], constant_us, float(pace.min()))


def trained(samples: Sequence[Samples], form: Form, regression: Regression) -> Trained:
    """Learn the law and its queueing constant."""
    law = learn(samples, form, regression)

    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        columns_of = form.columns_of(deployment.tables)

        def times(steps: StepSums) -> Floats:
            regime = form.regime(steps)
            linear = (columns_of(steps) * law.weights[regime]).sum(axis=1) + law.constant_us[regime]
            return np.maximum(linear, law.floor_us)

        return times

    return with_queueing(samples, times_of, free=int(np.count_nonzero(law.weights)) + form.regimes + 1)


def mixed(steps: StepSums) -> Ints:
    """Return the regime of each step: 0 with decodes alone, 1 with prompts."""
    return (steps.prefill_tokens > 0).astype(np.int64)
