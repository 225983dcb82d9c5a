"""Symbolic regression: a search over expressions of a step's components, and not only over numbers.

Expressions evolve from several seeds. The last part of each run's training requests validates them. The Pareto front
holds the expressions that no smaller expression beats in validation. The law is the smallest of them that is nearly as
good as the best, and its weights are then regressed on all requests. It follows AI Feynman and PySR, in small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from scipy.optimize import nnls  # pyright: ignore[reportUnknownVariableType]

from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.deployment import Deployment
from roofml.traces.run import Run
from roofml.util.arrays import Bools, Floats, Ints
from roofml.validation.baselines.baseline import Baseline, Trained, with_queueing
from roofml.validation.baselines.expressions import (
    CONSTANT,
    NAMES,
    POWERS,
    Join,
    Leaf,
    Node,
    Terms,
    evaluate,
    formula,
    size,
)
from roofml.validation.baselines.physics import columns_of, parts_of
from roofml.validation.baselines.samples import Samples, stacked

SEEDS, GENERATIONS, PARENTS, CHILDREN = 3, 25, 12, 36
"""Number of searches; in each search, of rounds, of expressions kept, and of new expressions in a round."""
TERMS, LARGEST = 6, 15
"""Most terms of an expression, and most leaves and joins of all its terms."""
STEPS = 150_000
"""About this many steps are used, in one stretch of each run."""
VALIDATION = 0.3
"""The last share of each run's requests, which chooses between expressions."""
NEARLY = 1.1
"""A smaller expression is preferred if its validation error is at most this many times the least."""
PRICE = 0.01
"""During the search an expression may be worse by this share for each leaf or join less."""
LEAST_US = 1.0
"""Step time if every term of an expression is 0."""


@dataclass(frozen=True)
class Candidate:
    """A judged expression: its weights, size and errors."""

    terms: Terms
    weights: tuple[float, ...]
    """One weight a term, not negative."""
    size: int
    """Number of leaves and joins of all terms."""
    error_pct: float
    """Root mean square error of a request's pace in training, %."""
    validation_error_pct: float
    """The same error over the requests that weights were not regressed on."""

    def __str__(self) -> str:
        """Return the formula, as `0.93·max(decode_gemm, 1.2·weights) + 0.4·1ms`."""
        pairs = zip(self.weights, self.terms, strict=True)
        return " + ".join(f"{weight:.3g}·{formula(term)}" for weight, term in pairs)

    def times_us(self, parts: Floats) -> Floats:
        """Return step times (steps,), µs, from components (steps, components), µs."""
        total = np.full(len(parts), 0.0)
        for weight, term in zip(self.weights, self.terms, strict=True):
            total = total + weight * evaluate(term, parts)
        return np.maximum(total, LEAST_US)


def search(samples: Sequence[Samples], seed: int) -> list[Candidate]:
    """Return the Pareto front of validation error and size, smallest first. It is the same for the same seed."""
    problem = _Problem(samples)
    judged: dict[Terms, Candidate] = {}
    for sequence in np.random.SeedSequence(seed).spawn(SEEDS):
        _evolve(problem, np.random.default_rng(sequence), judged)
    front: list[Candidate] = []
    for candidate in sorted(judged.values(), key=lambda f: (f.size, f.validation_error_pct, str(f))):
        if not front or candidate.validation_error_pct < front[-1].validation_error_pct:
            front.append(candidate)
    return front


def knee(front: Sequence[Candidate]) -> Candidate:
    """Return the smallest expression whose validation error is nearly the least."""
    least = min(candidate.validation_error_pct for candidate in front)
    return next(candidate for candidate in front if candidate.validation_error_pct <= NEARLY * least)


def refitted(candidate: Candidate, samples: Sequence[Samples]) -> Candidate:
    """Return the same terms with weights regressed on all requests."""
    columns = [
        np.stack(
            [evaluate(term, columns_of(s.deployment.tables, s.schedule.steps)) for term in candidate.terms], axis=1
        )
        for s in samples
    ]
    means, pace = stacked(samples, columns)
    relative = means / pace[:, None]
    weights, _ = cast("tuple[Floats, float]", nnls(relative, np.ones(len(pace))))
    return replace(candidate, weights=tuple(weights.tolist()), error_pct=_rms_pct(relative, weights))


class _Problem:
    """The data that judges expressions: components of a stretch of steps, and the paces measured in it."""

    def __init__(self, samples: Sequence[Samples]) -> None:
        shown = [s for s in samples if s.paced.any()]
        self.parts: list[Floats] = []
        self.ends: list[tuple[Ints, Ints]] = []
        learned: list[Bools] = []
        paces: list[Floats] = []
        for s in shown:
            rows = np.flatnonzero(s.paced)
            first, last = s.schedule.first_step[rows] + 1, s.schedule.last_step[rows] + 1
            start, end = _stretch(first, last, STEPS // len(shown))
            inside = (first >= start) & (last <= end)
            self.parts.append(columns_of(s.deployment.tables, s.schedule.steps)[start:end])
            self.ends.append((first[inside] - start, last[inside] - start))
            paces.append(s.pace_us[inside])
            count = int(inside.sum())
            learned.append(np.arange(count) < (1 - VALIDATION) * count)
        self.learned = np.concatenate(learned)
        self.pace = np.concatenate(paces)
        self._columns: dict[Node, Floats] = {}

    def column(self, node: Node) -> Floats:
        """Return the mean value over each request's steps, relative to the request's pace: (requests,)."""
        if node not in self._columns:
            means: list[Floats] = []
            for parts, (first, last) in zip(self.parts, self.ends, strict=True):
                total = np.concatenate(([0.0], np.cumsum(evaluate(node, parts))))
                means.append((total[last] - total[first]) / (last - first))
            self._columns[node] = np.concatenate(means) / self.pace
        return self._columns[node]

    def judge(self, terms: Terms) -> Candidate:
        """Regress the weights, and drop the terms whose weight is 0."""
        matrix = np.stack([self.column(term) for term in terms], axis=1)
        train = matrix[self.learned]
        # The triangle has the same least squares in a few rows.
        augmented = np.column_stack((train, np.ones(len(train))))
        triangle = np.asarray(np.linalg.qr(augmented, mode="r"), np.float64)
        weights, _ = cast("tuple[Floats, float]", nnls(triangle[:, :-1], triangle[:, -1]))
        used = np.flatnonzero(weights > 0)
        rest = matrix[~self.learned] if not self.learned.all() else train
        kept = tuple(terms[i] for i in used)
        return Candidate(
            terms=kept,
            weights=tuple(weights[used].tolist()),
            size=sum(map(size, kept)),
            error_pct=_rms_pct(train, weights),
            validation_error_pct=_rms_pct(rest, weights),
        )


def _stretch(first: Ints, last: Ints, steps: int) -> tuple[int, int]:
    """Return start and end of about `steps` steps in the middle of the run, with all steps of at least one request."""
    low, high = int(first.min()), int(last.max())
    start = max(low, (low + high - steps) // 2)
    nearest = int(np.argmin(np.where(first >= start, first, np.iinfo(np.int64).max)))
    return start, max(start + steps, int(last[nearest]))


def _rms_pct(relative: Floats, weights: Floats) -> float:
    """Return the RMS, %, of predicted/measured - 1, for columns (requests, terms) relative to the pace."""
    return 100 * float(np.sqrt(np.mean((relative @ weights - 1) ** 2)))


def _evolve(problem: _Problem, random: np.random.Generator, judged: dict[Terms, Candidate]) -> None:
    """Search once. Every judged expression goes into `judged`."""

    def fitness(candidate: Candidate) -> tuple[float, str]:
        return candidate.error_pct * (1 + PRICE * candidate.size), str(candidate)

    # The search starts from every component alone, and from the plain sum of all.
    starts: list[Terms] = [(Leaf(i), Leaf(CONSTANT)) for i in range(CONSTANT)]
    starts.append(_trimmed(tuple(Leaf(int(i)) for i in random.permutation(CONSTANT + 1))))
    children = [problem.judge(terms) for terms in starts]
    parents: list[Candidate] = []
    for _ in range(GENERATIONS + 1):
        for candidate in children:
            if candidate.terms:
                judged.setdefault(candidate.terms, candidate)
        # Keep one candidate of each value: copies that differ in an unused number would fill the list.
        best: dict[float, Candidate] = {}
        for candidate in sorted((f for f in (*parents, *children) if f.terms), key=fitness):
            best.setdefault(round(candidate.error_pct, 6), candidate)
        parents = list(best.values())[:PARENTS]
        children = [problem.judge(_child(parents, random)) for _ in range(CHILDREN)]


def _child(parents: Sequence[Candidate], random: np.random.Generator) -> Terms:
    """Return a changed copy of a parent, of better parents more often, or the mixed terms of two parents."""
    first, second = (parents[int(len(parents) * random.random() ** 2)] for _ in range(2))
    terms = list(first.terms)
    choice = random.random()
    if choice < 0.15:
        terms.append(Leaf(int(random.integers(len(NAMES)))))
    elif choice < 0.3 and len(terms) > 1:
        # Two terms may hide behind each other: their weights say in which proportion.
        i, j = (int(k) for k in random.permutation(len(terms))[:2])
        ratio = first.weights[j] / first.weights[i]
        joined = Join(_way(random), terms[i], terms[j], ratio)
        terms = [term for k, term in enumerate(terms) if k not in (i, j)] + [joined]
    elif choice < 0.4 and len(terms) > 1:
        terms.pop(int(random.integers(len(terms))))
    elif choice < 0.5:
        terms += [term for term in second.terms if random.random() < 0.5]
    else:
        i = int(random.integers(len(terms)))
        terms[i] = _changed(terms[i], random)
    return _trimmed(tuple(terms))


def _changed(node: Node, random: np.random.Generator) -> Node:
    """Return the term with one change: of a ratio, a way to join or a leaf, or with a join more or less."""
    choice = random.random()
    if isinstance(node, Leaf):
        leaf = Leaf(int(random.integers(len(NAMES))))
        return leaf if choice < 0.4 else Join(_way(random), node, leaf, float(np.exp(random.normal())))
    if choice < 0.4:
        return replace(node, ratio=node.ratio * float(np.exp(random.normal() * random.choice([0.05, 0.2, 1.0]))))
    if choice < 0.55:
        return replace(node, how=_way(random))
    if choice < 0.7:
        return replace(node, left=_changed(node.left, random))
    if choice < 0.85:
        return replace(node, right=_changed(node.right, random))
    return node.left if random.random() < 0.5 else node.right


def _way(random: np.random.Generator) -> str:
    return list(POWERS)[int(random.integers(len(POWERS)))]


def _trimmed(terms: Terms) -> Terms:
    """Return each term once, up to the limits of terms and size, in a fixed order."""
    kept: list[Node] = []
    for term in dict.fromkeys(terms):
        if len(kept) < TERMS and sum(map(size, kept)) + size(term) <= LARGEST:
            kept.append(term)
    return tuple(sorted(kept or [Leaf(CONSTANT)], key=formula))


def train(samples: Sequence[Samples], seed: int) -> Trained:
    """Search, take the knee of the front, and regress its weights on all requests."""
    shown = [s for s in samples if s.paced.any()]
    candidate = refitted(knee(search(shown, seed)), shown)

    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        parts = parts_of(deployment.tables)

        def times(steps: StepSums) -> Floats:
            return candidate.times_us(parts(steps))

        return times

    joins = (candidate.size - len(candidate.terms)) // 2
    return with_queueing(samples, times_of, free=len(candidate.weights) + joins, note=str(candidate))


SYMBOLIC = Baseline("symbolic", "an expression found by search", train)
