"""Expressions: step times made from components with +, max and p-norms, and with numbers that are not negative.

A join weighs its right side against its left: join(a, ratio·b). Least squares gives the factor of a whole term, so that
the search has to find shapes and ratios alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from roofml.latency.components import COMPONENTS
from roofml.util.arrays import Floats

POWERS: Mapping[str, float] = {"sum": 1.0, "norm2": 2.0, "norm4": 4.0, "max": np.inf}
"""Ways to join two times, (a^p + b^p)^(1/p): from their sum (p = 1) to the longer of the two (p = ∞)."""
CONSTANT = len(COMPONENTS)
"""The leaf after the components: 1 ms in every step."""
NAMES = (*COMPONENTS, "1ms")


@dataclass(frozen=True)
class Leaf:
    """A component, or `CONSTANT`."""

    index: int


@dataclass(frozen=True)
class Join:
    """join(left, ratio·right)."""

    how: str
    """A key of `POWERS`."""
    left: Node
    right: Node
    ratio: float


Node = Leaf | Join
Terms = tuple[Node, ...]
"""The terms of a sum, each with its own weight."""


def size(node: Node) -> int:
    """Return the number of leaves and joins."""
    return 1 if isinstance(node, Leaf) else 1 + size(node.left) + size(node.right)


def evaluate(node: Node, parts: Floats) -> Floats:
    """Return values (steps,), µs, from components (steps, components), µs. They rise with every component."""
    if isinstance(node, Leaf):
        return np.full(len(parts), 1000.0) if node.index == CONSTANT else parts[:, node.index]
    left, right = evaluate(node.left, parts), node.ratio * evaluate(node.right, parts)
    match node.how:
        case "sum":
            return left + right
        case "max":
            return np.maximum(left, right)
        case "norm2":
            return np.sqrt(left * left + right * right)
        case _:
            return np.sqrt(np.sqrt(left**4 + right**4))


def formula(node: Node) -> str:
    """Return the expression for people to read: `max(decode_gemm, 0.8·weights)`."""
    if isinstance(node, Leaf):
        return NAMES[node.index]
    right = formula(node.right)
    right = f"{node.ratio:.3g}·({right})" if " + " in right and right[0] not in "mn" else f"{node.ratio:.3g}·{right}"
    return f"({formula(node.left)} + {right})" if node.how == "sum" else f"{node.how}({formula(node.left)}, {right})"
