"""Piecewise linear laws: components of a step times weights that depend on its regime, never below a floor.

Each regime has weights of its own, and with them the law is linear in (steps, regimes·(components + 1)) columns that
are zero in the other regimes. So all regimes are regressed at once on what requests measured, although hardly a
request waits for steps of one regime alone.
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
"""What the columns of constants and hinges are counted in, so that all columns are µs of about the same meaning."""
RARE = 0.05
"""Columns that spread less than this share of the paces are standardized as if they spread so much: a component that
hardly occurred would else be given any weight at all for a little noise."""

Regression = Callable[[Floats, Floats, Floats], tuple[Floats, float]]
"""Columns (requests, k) of comparable spread, targets and weights (requests,) -> coefficients (k,) and intercept."""


@dataclass(frozen=True)
class Form:
    """The columns of a law."""

    regimes: int
    regime: Callable[[StepSums], Ints]
    """Steps -> which regime each is in, shape (steps,)."""
    hinges: tuple[float, ...] = ()
    """Batch sizes at which the slope by requests may change: columns max(0, requests - hinge)·`REQUEST_US`."""

    def columns_of(self, tables: ComponentTables) -> Callable[[StepSums], Floats]:
        """Steps -> (steps, components + hinges): what a regime's weights multiply."""
        parts, hinges = parts_of(tables), np.array(self.hinges)

        def columns(steps: StepSums) -> Floats:
            if not len(hinges):
                return parts(steps)
            return np.concatenate(
                (parts(steps), REQUEST_US * np.maximum(0.0, steps.requests[:, None] - hinges)), axis=1
            )

        return columns

    def design(self, tables: ComponentTables, steps: StepSums) -> Floats:
        """(steps, regimes·(columns + 1)): each regime's columns and a constant, zero where the step is in another."""
        columns = self.columns_of(tables)(steps)
        columns = np.concatenate((columns, np.full((steps.length, 1), CONSTANT_US)), axis=1)
        inside = self.regime(steps)[:, None] == np.arange(self.regimes)
        return (inside[:, :, None] * columns[:, None, :]).reshape(steps.length, -1)


@dataclass(frozen=True)
class Weights:
    """A learned law: max(floor, weights[regime]·columns + constant[regime]), µs."""

    weights: Floats
    """(regimes, columns)"""
    constant_us: Floats
    """(regimes,)"""
    floor_us: float


def learn(samples: Sequence[Samples], form: Form, regression: Regression) -> Weights:
    """Regress request means, standardized, with errors weighed relative to the pace; the floor is the least pace."""
    means, pace = stacked(samples, [form.design(s.deployment.tables, s.schedule.steps) for s in samples])
    centre, spread = means.mean(axis=0), means.std(axis=0)
    spread = np.maximum(spread, max(1e-9, RARE * float(pace.std())))
    coefficients, intercept = regression((means - centre) / spread, pace, 1 / pace**2)
    raw = coefficients / spread
    by_regime = raw.reshape(form.regimes, -1)
    constant_us = CONSTANT_US * by_regime[:, -1] + intercept - float(centre @ raw)
    return Weights(by_regime[:, :-1], constant_us, float(pace.min()))


def trained(samples: Sequence[Samples], form: Form, regression: Regression) -> Trained:
    """The law with its queueing constant."""
    found = learn(samples, form, regression)

    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        columns_of = form.columns_of(deployment.tables)

        def times(steps: StepSums) -> Floats:
            regime = form.regime(steps)
            linear = (columns_of(steps) * found.weights[regime]).sum(axis=1) + found.constant_us[regime]
            return np.maximum(linear, found.floor_us)

        return times

    return with_queueing(samples, times_of, free=int(np.count_nonzero(found.weights)) + form.regimes + 1)


def mixed(steps: StepSums) -> Ints:
    """0: decodes alone; 1: with prompts."""
    return (steps.prefill_tokens > 0).astype(np.int64)
