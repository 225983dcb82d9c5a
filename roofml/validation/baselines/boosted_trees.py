"""Boosted trees: XGBoost on thirty physics features of a step.

It shows what a learner without a formula makes of the same physics. It learns log step time from the paces of the
requests in a step, so that times are positive. Step time is monotone in every feature that cannot shorten a step. One
more request may also lower the features that are means, which are free, so it may still shorten a step a little.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from roofml.engine.step_time import StepTimes
from roofml.latency.batch import StepSums
from roofml.latency.components import COMPONENTS
from roofml.latency.deployment import Deployment
from roofml.models.operations import AttentionOp
from roofml.traces.run import Run
from roofml.util.arrays import Floats
from roofml.validation.baselines.baseline import Baseline, Trained, library, with_queueing
from roofml.validation.baselines.physics import parts_of
from roofml.validation.baselines.samples import Samples

GROWING = (
    *COMPONENTS,
    "components_sum",
    "components_max",
    "prefill_tokens",
    "decode_tokens",
    "new_tokens",
    "requests",
    "prefill_pairs",
    "prefill_context",
    "decode_context",
    "decode_beyond",
    "mixed",
)
"""Features that cannot shorten a step when they grow."""
MEANS = ("context_per_decode", "tokens_per_prefill", "memory_share")
CONSTANTS = ("layers", "hidden_size", "kv_heads_per_gpu", "active_weight_bytes_per_gpu", "tp", "kv_bytes_per_token")
FEATURES = (*GROWING, *MEANS, *CONSTANTS)

ROUNDS, DEPTH, RATE = 200, 4, 0.1
STEPS_A_RUN = 15_000
"""Steps drawn from each run. Not all are needed: neighbours differ little."""


def features_of(deployment: Deployment) -> Callable[[StepSums], NDArray[np.float32]]:
    """Return a function of steps to features (steps, features), in the order of FEATURES.

    The features are float32, because XGBoost splits in that precision.
    """
    parts_in, model, tp = parts_of(deployment.tables), deployment.model, deployment.tp
    kv_heads = [op.kv_heads for op in model.mixers(tp) if isinstance(op, AttentionOp)]
    constants = (
        float(model.num_layers),
        float(model.hidden_size),
        float(max(kv_heads, default=0)),
        float(model.active_parameters()) * model.dtype_bytes / tp,
        float(tp),
        float(model.kv_bytes_per_token(tp)),
    )
    memory = [COMPONENTS.index(name) for name in ("weights", "expert_weights", "kv_cache")]

    def features(steps: StepSums) -> NDArray[np.float32]:
        parts = parts_in(steps)
        result = np.empty((steps.length, len(FEATURES)), np.float32)
        total = parts.sum(axis=1)
        result[:, : len(COMPONENTS)] = parts
        derived = (
            total,
            parts.max(axis=1),
            steps.prefill_tokens,
            steps.decode_tokens,
            steps.prefill_tokens + steps.decode_tokens,
            steps.requests,
            steps.prefill_pairs,
            steps.prefill_context,
            steps.decode_context,
            steps.decode_beyond,
            steps.prefill_tokens > 0,
            steps.decode_context / np.maximum(steps.decode_tokens, 1.0),
            steps.prefill_tokens / np.maximum(steps.requests - steps.decode_tokens, 1.0),
            parts[:, memory].sum(axis=1) / total,
        )
        for column, values in enumerate(derived, len(COMPONENTS)):
            result[:, column] = values
        result[:, -len(constants) :] = constants
        return result

    return features


class Forest(NamedTuple):
    """Trees as arrays over all their nodes. A node's number is its row."""

    root: NDArray[np.int64]
    """(trees,) first node of each tree."""
    feature: NDArray[np.int64]
    """(nodes,) the feature that an inner node splits by; -1 for a leaf."""
    value: NDArray[np.float32]
    """(nodes,) the value at which an inner node splits, or the amount that a leaf adds."""
    left: NDArray[np.int64]
    """(nodes,) the next node if the feature is less than the value; the other child follows it."""


def forest_of(dumped: Sequence[str]) -> Forest:
    """Build the forest from XGBoost's JSON dump, one string a tree."""
    root: list[int] = []
    feature: list[int] = []
    value: list[float] = []
    left: list[int] = []

    def place(node: Any, row: int) -> None:
        if "leaf" in node:
            feature[row], value[row] = -1, node["leaf"]
            return
        by_id = {child["nodeid"]: child for child in node["children"]}
        feature[row], value[row] = int(node["split"].removeprefix("f")), node["split_condition"]
        left[row] = room(2)
        place(by_id[node["yes"]], left[row])
        place(by_id[node["no"]], left[row] + 1)

    def room(rows: int) -> int:
        start = len(feature)
        feature.extend([-1] * rows)
        value.extend([0.0] * rows)
        left.extend([-1] * rows)
        return start

    for text in dumped:
        root.append(room(1))
        place(json.loads(text), root[-1])
    return Forest(np.array(root), np.array(feature), np.array(value, np.float32), np.array(left))


@njit
def predict(forest: Forest, features: NDArray[np.float32], start: float) -> Floats:
    """Return exp(start + Σ over trees of the leaf's value) of every row, shape (rows,)."""
    result = np.empty(len(features))
    for row in range(len(features)):
        total = start
        for root in forest.root:
            node = root
            while forest.feature[node] >= 0:
                right = features[row, forest.feature[node]] >= forest.value[node]
                node = forest.left[node] + (1 if right else 0)
            total += forest.value[node]
        result[row] = np.exp(total)
    return result


def grow(samples: Sequence[Samples], seed: int) -> tuple[Forest, float]:
    """Boost trees on the steps whose time requests show.

    Returns the forest and the mean log time, of µs, that it starts from. Raises InputError without xgboost.
    """
    xgboost = library("xgboost")
    random = np.random.default_rng(seed)
    rows: list[NDArray[np.float32]] = []
    times: list[Floats] = []
    for s in samples:
        shown = np.flatnonzero(np.isfinite(s.step_us))
        drawn = np.sort(random.permutation(shown)[:STEPS_A_RUN])
        rows.append(features_of(s.deployment)(s.schedule.steps)[drawn])
        times.append(np.log(s.step_us[drawn]))
    target = np.concatenate(times)
    start = float(target.mean())
    monotone = [1 if name in GROWING else 0 for name in FEATURES]
    settings = {
        "objective": "reg:squarederror",
        "base_score": 0.0,
        "tree_method": "hist",
        "max_depth": DEPTH,
        "eta": RATE,
        "min_child_weight": 20,
        "monotone_constraints": f"({','.join(map(str, monotone))})",
        "nthread": 1,
        "seed": seed,
        "verbosity": 0,
    }
    booster = xgboost.train(settings, xgboost.DMatrix(np.vstack(rows), target - start, nthread=1), ROUNDS)
    return forest_of(booster.get_dump(dump_format="json")), start


def times_with(forest: Forest, start: float) -> Callable[[Run, Deployment], StepTimes]:
    """Return the step times of a forest."""

    def times_of(run: Run, deployment: Deployment) -> StepTimes:
        features = features_of(deployment)

        def times(steps: StepSums) -> Floats:
            return predict(forest, features(steps), start)

        return times

    return times_of


def _train(samples: Sequence[Samples], seed: int) -> Trained:
    forest, start = grow(samples, seed)
    return with_queueing(samples, times_with(forest, start), free=int(np.count_nonzero(forest.feature < 0)) + 1)


BOOSTED_TREES = Baseline("boosted-trees", "XGBoost on thirty physics features", _train)
