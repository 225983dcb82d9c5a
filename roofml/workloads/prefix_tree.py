"""Which requests of a trace of block hashes share which leading tokens, as groups that the replay can hold.

A replay knows one group a request: two of a group share the shorter of their `prefix_tokens`. Hashes make a tree, which
one number a request cannot describe wherever branches share a root. So the tree is cut: a node is one group, of all
requests below it, whose shared text is the path to the node and on along the branch that most requests take; or it is
none, and its children are. Of the two the one is taken in which more blocks are found again. No group shares more than
its requests do.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from roofml.util.arrays import Floats, Ints

MOST_NODES = 8_000_000
"""Nodes of a tree, some 100 bytes each."""


def prefix_groups(ids: Ints, first: Ints) -> tuple[Ints, Ints, float] | None:
    """(group of each request or -1, shared leading blocks, blocks found again of those that could be, 0 to 1).

    `ids` are the hashes of all requests, those of request i from `first[i]` to `first[i + 1]`. Each array has shape
    (requests,). None where the tree is too large.
    """
    if len(ids) > MOST_NODES:
        return None
    nodes, parents, depths, visits = _tree(ids, first)
    if not len(parents):
        return None
    heavy, along = _heaviest(parents, visits)
    # Blocks found again if all requests below a node are one group, and if the best of its children are.
    alone: Floats = depths * (visits - 1.0) + along
    best, cut = alone.copy(), np.ones(len(parents), np.bool_)
    below: Floats = np.zeros(len(parents))
    for node in range(len(parents) - 1, -1, -1):  # children have higher numbers than their parents
        if below[node] > alone[node]:
            best[node], cut[node] = below[node], False
        if parents[node] >= 0:
            below[parents[node]] += best[node]
    group, shared = np.full(len(first) - 1, -1, np.int64), np.zeros(len(first) - 1, np.int64)
    for request in range(len(first) - 1):
        path = nodes[first[request] : first[request + 1]]
        at = int(np.argmax(cut[path])) if len(path) else 0
        if not len(path) or not cut[path[at]] or visits[path[at]] < 2:
            continue
        group[request] = path[at]
        blocks = at + 1
        while blocks < len(path) and path[blocks] == heavy[path[blocks - 1]] and visits[path[blocks]] > 1:
            blocks += 1
        shared[request] = blocks
    again = float(np.maximum(visits - 1, 0).sum())
    found = float(best[parents < 0].sum())
    return group, shared, found / again if again else 1.0


def _tree(ids: Ints, first: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """(node of each hash; of each node its parent or -1, its depth from 1, the requests that come through it)."""
    known: dict[tuple[int, int], int] = {}
    nodes = np.zeros(len(ids), np.int64)
    parents: list[int] = []
    depths: list[int] = []
    values = ids.tolist()
    starts = first.tolist()
    for begin, end in pairwise(starts):
        node = -1
        for place in range(begin, end):
            key = (node, values[place])
            child = known.get(key)
            if child is None:
                child = known[key] = len(parents)
                parents.append(node)
                depths.append(place - begin + 1)
            nodes[place] = node = child
    visits = np.bincount(nodes, minlength=len(parents)).astype(np.int64)
    return nodes, np.array(parents, np.int64), np.array(depths, np.int64), visits


def _heaviest(parents: Ints, visits: Ints) -> tuple[Ints, Floats]:
    """(the child of each node that most requests take, or -1; blocks found again along such children from it)."""
    heavy = np.full(len(parents), -1, np.int64)
    along = np.zeros(len(parents))
    for node in range(len(parents) - 1, -1, -1):
        child = heavy[node]
        if child >= 0:
            along[node] = visits[child] - 1 + along[child]
        parent = parents[node]
        if parent >= 0 and (heavy[parent] < 0 or visits[node] >= visits[heavy[parent]]):
            heavy[parent] = node
    return heavy, along
