"""Mixtures: a small YAML file for the load that one line cannot say, of several classes with an SLO each.

    arrivals: {kind: poisson, rate: 8}
    classes:
      - name: chat
        share: 3
        input: lognormal(800,0.6)
        output: 200
        shared_prefix: 512
        slo: [p95 ttft < 500ms]
      - name: summary
        share: 1
        input: uniform(4000,8000)
        output: 400

Names and values are those of `spec`; numbers may stand as numbers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Le, Len
from pydantic import Field

from roofml.traces.limits import MOST_REQUESTS
from roofml.util.errors import InputError
from roofml.util.schema import Count, Finite, Name, Strict, validated
from roofml.util.yaml_io import read_mapping
from roofml.workloads.arrivals import Closed, Open
from roofml.workloads.requests import ONCE, Drawn, RequestClass
from roofml.workloads.slo import parse_slos
from roofml.workloads.spec import OF_KIND, OPTIONAL_OF_KIND, class_of, pattern_of, whole
from roofml.workloads.workload import Workload

SUFFIXES = (".yaml", ".yml")
MOST_CLASSES = 100
Said = Name | Finite
"""A number, or words that say one."""


class _Arrivals(Strict):
    kind: Literal["poisson", "gamma", "constant", "closed"]
    rate: Said | None = None
    burstiness: Said | None = None
    concurrency: Said | None = None
    think: Said | None = None


class _Class(Strict):
    name: Name
    input: Said
    output: Said
    share: Annotated[Finite, Gt(0), Le(1e9)] = 1.0
    shared_prefix: Count = 0
    groups: Annotated[Count, Gt(0)] = 1
    turns: Said | None = None
    think: Said | None = None
    slo: Annotated[list[Name], Len(0, 20)] = Field(default_factory=list[Name])


class _File(Strict):
    arrivals: _Arrivals
    classes: Annotated[list[_Class], Len(1, MOST_CLASSES)]
    requests: Annotated[Count, Gt(0)] | None = None


def read_mixture(path: Path) -> Workload:
    """The load in a YAML file. Raises InputError, naming file and field."""
    read = validated(_File, read_mapping(path), path)
    kind = read.arrivals.kind
    said = read.arrivals.model_dump(exclude_none=True, exclude={"kind"})
    known = (*OF_KIND[kind], *(OPTIONAL_OF_KIND[kind] if kind == "closed" else ()))
    for name in said:
        if name not in known:
            raise InputError(f"{path}: arrivals.{name}: not known of {kind}, expected {', '.join(known)}")
    for name in OF_KIND[kind]:
        if name not in said:
            raise InputError(f"{path}: arrivals.{name} is missing, which {kind} needs")
    pattern = pattern_of(kind, {name: _text(value) for name, value in said.items()}, f"{path}: arrivals")
    names = [each.name for each in read.classes]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: classes: a name stands twice, expected one for each")
    classes = tuple(_class(each, f"{path}: classes.{each.name}") for each in read.classes)
    if any(each.turns != ONCE for each in classes):
        if isinstance(pattern, Closed):
            raise InputError(f"{path}: classes: turns in a closed loop, expected sessions that begin at a rate")
        if any(each.shared_prefix for each in classes):
            raise InputError(f"{path}: classes: turns beside a shared_prefix, expected one of them in a load")
    requests = None if read.requests is None else whole(str(read.requests), f"{path}: requests", MOST_REQUESTS)
    if requests is None and isinstance(pattern, Open):
        requests = pattern.requests
    return Workload(path.name, pattern, Drawn(classes), requests)


def _class(each: _Class, source: str) -> RequestClass:
    given = {"input": _text(each.input), "output": _text(each.output), "groups": str(each.groups)}
    given |= {name: _text(value) for name, value in (("turns", each.turns), ("think", each.think)) if value is not None}
    if each.shared_prefix:
        given["shared_prefix"] = str(each.shared_prefix)
    return replace(class_of(given, source, each.name, each.share), slos=parse_slos(each.slo, f"{source}.slo"))


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"
