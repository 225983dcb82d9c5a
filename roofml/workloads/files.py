"""Workload files as loads: arrivals and lengths that others recorded, as they came, at another rate, or in a loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roofml.traces.finding import Finding
from roofml.traces.formats.workload import Arrivals, read_arrivals
from roofml.util.errors import InputError
from roofml.workloads.load import Load, closed_load, poisson_load
from roofml.workloads.prefix_tree import prefix_groups

LEAST_FOUND = 0.9
"""Share of the blocks that occur again which groups should hold; below it is told."""


@dataclass(frozen=True, eq=False)
class FileLoad:
    """A load from a file, and what its reader should know about it."""

    load: Load
    findings: tuple[Finding, ...] = ()
    drawn: bool = False
    """Its arrivals are drawn: the file has lengths alone."""


def read_file_load(
    path: Path, *, requests_per_s: float | None = None, clients: int | None = None, seed: int = 0
) -> FileLoad:
    """The load in a workload file (`roofml.traces.formats.workload`): as it arrived, or as the caller wants it.

    With `clients` a closed loop of its requests in their order. With `requests_per_s` its own arrivals stretched to
    that mean rate, or, of a file of lengths alone, as many at random. Raises InputError for what is no workload, for
    lengths alone without either, and for arrivals at one moment that are to have a rate.
    """
    arrivals = read_arrivals(path)
    findings = list(arrivals.findings)
    load = _timed(path, arrivals, requests_per_s, clients, seed)
    if arrivals.blocks is not None:
        load = _sharing(load, arrivals, findings)
    return FileLoad(load, tuple(findings), clients is None and not len(arrivals.arrival_us))


def _timed(path: Path, arrivals: Arrivals, requests_per_s: float | None, clients: int | None, seed: int) -> Load:
    name, prompt, output = arrivals.name, arrivals.prompt_tokens, arrivals.output_tokens
    if clients is not None:
        return closed_load(name, clients, prompt, output)
    if not len(arrivals.arrival_us):
        if requests_per_s is None:
            raise InputError(f"{path}: lengths without arrivals: give a rate or a number of clients")
        return poisson_load(name, requests_per_s, prompt, output, seed)
    load = Load(name, arrivals.arrival_us, prompt, output)
    return load if requests_per_s is None else load.at_rate(requests_per_s)


def _sharing(load: Load, arrivals: Arrivals, findings: list[Finding]) -> Load:
    """The load with the prefixes that its hashes say requests share."""
    blocks = arrivals.blocks
    assert blocks is not None
    found = prefix_groups(blocks.ids, blocks.first)
    if found is None:
        summary = f"{len(blocks.ids)} block hashes are too many to find out which requests share prompts."
        findings.append(Finding("sharing-not-found", "warning", summary, {}, "No prefix is shared in the load."))
        return load
    group, shared, share = found
    if share < LEAST_FOUND:
        findings.append(
            Finding(
                "sharing-cut",
                "info",
                f"Of the blocks that occur again the load holds {100 * share:.0f} %: a request is in one group alone.",
                {"share": round(share, 4)},
                "Prefix hits are that much fewer than in the trace, where nothing is evicted.",
            )
        )
    tokens = np.minimum(shared * blocks.tokens, load.prompt_tokens)
    return replace(load, prefix_group=group, prefix_tokens=tokens)
