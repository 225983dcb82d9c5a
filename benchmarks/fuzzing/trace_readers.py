"""Targets: the readers of runs and of sampled steps."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest import mock

import numpy as np

from roofml.traces import inference_perf, read, tracev2
from roofml.traces.steps import otlp, read_steps
from roofml.traces.steps.parquet import MAGIC
from roofml.traces.steps.sampling import sampling_reports
from roofml.traces.steps.table import FIELDS
from roofml.util.yaml_io import parse_mapping

from . import seeds
from .making import Case, mapping_of, mutate_file, need, rendered, work_folder, write
from .mutation import Tree, any_value, mutate_bytes, mutate_tree

RUN_FILES = ("trace.yaml", "trace.csv", "exp-config.yaml", "kv-cache.yaml", "inference-perf.yaml")


def make_run(random: Random, steps: tuple[Random, ...]) -> Case:
    """A small run of which some files are changed."""
    case: Case = {
        **{"trace.yaml": seeds.header(), "trace.csv": seeds.trace(random.choice((2, 5, 12)), random.randrange(4))},
        **{"exp-config.yaml": seeds.exp_config(), "kv-cache.yaml": seeds.kv_cache()},
    }
    if random.random() < 0.5:
        case["inference-perf.yaml"] = seeds.inference_perf()
    for step in steps:
        name = step.choice(list(case)) if step.random() < 0.5 else "trace.csv"
        mutate_file(case, name, step, bytes_share=0.15)
    return case


def take_run(case: Case) -> None:
    """Read a run whose documents are parsed already."""
    folder = work_folder() / "run"
    folder.mkdir(exist_ok=True)
    for name in RUN_FILES:
        if name in case:
            (folder / name).write_bytes(rendered(name, case[name]) if name == "trace.csv" else b"")
        else:
            (folder / name).unlink(missing_ok=True)

    def parsed(path: Path) -> dict[str, Any]:
        content: object = case[path.name]
        if isinstance(content, bytes):
            return parse_mapping(content.decode(errors="replace"), path)
        return mapping_of(content)

    with (
        mock.patch.object(tracev2, "read_mapping", parsed),
        mock.patch.object(inference_perf, "read_mapping", parsed),
    ):
        run = read.read_runs([folder], strict=False)[0]
    json.dumps(run.to_dict(), allow_nan=False)
    need(bool((run.arrival_us >= 0).all() and np.isfinite(run.arrival_us).all()), "an arrival that is no time")
    need(bool((run.prompt_tokens > 0).all() and (run.output_tokens > 0).all()), "a request without tokens")
    need(not bool((run.ttft_us < 0).any() or (run.e2e_us < run.ttft_us).any()), "times in the wrong order")


def take_run_files(case: Case) -> None:
    """Read a run from its files."""
    folder = work_folder() / "whole"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, content in case.items():
        (folder / name).write_bytes(rendered(name, content))
    read.read_runs([folder], strict=False)


def files_of_case(case: Case) -> Mapping[str, bytes]:
    """The files of a case, to be kept."""
    return {name: rendered(name, content) for name, content in case.items()}


def make_otlp(random: Random, steps: tuple[Random, ...]) -> bytes:
    """A few exports of sampled steps: what they say is changed first, then bytes."""
    documents: Tree = seeds.otlp(random.choice((2, 3, 5)))
    while steps and steps[0].random() < 0.8:
        documents, steps = mutate_tree(documents, steps[0]), steps[1:]
    lines = cast("list[Tree]", documents) if isinstance(documents, list) else [documents]
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    for step in steps:
        raw = mutate_bytes(raw, step)
    return raw


def take_otlp(raw: bytes) -> None:
    """Read sampled steps and judge how they were sampled."""
    path = write("steps.jsonl", raw)
    otlp.read(path)
    json.dumps([report.to_dict() for report in sampling_reports([path])], allow_nan=False)


def make_parquet(random: Random, steps: tuple[Random, ...]) -> bytes:
    """A table of sampled steps: columns are changed first, then bytes."""
    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    columns: dict[str, list[Any]] = {FIELDS[name]: [row[name] for row in seeds.step_rows()] for name in FIELDS}
    columns["other"] = ["x"] * 6
    while steps and steps[0].random() < 0.8:
        _mutate_column(columns, steps[0])
        steps = steps[1:]
    length = min((len(cells) for cells in columns.values()), default=0)
    arrays = [_array(arrow, cells[:length]) for cells in columns.values()]
    sink = io.BytesIO()
    try:
        parquet.write_table(arrow.Table.from_arrays(arrays, names=list(columns)), sink)
    except arrow.ArrowException:  # some types cannot be in such a file
        return MAGIC
    raw = sink.getvalue()
    for step in steps:
        raw = mutate_bytes(raw, step)
    return raw


def _array(arrow: Any, cells: list[Any]) -> Any:
    try:
        return arrow.array(cells)
    except (arrow.ArrowException, OverflowError, TypeError, ValueError):
        return arrow.array([str(cell)[:50].encode("utf-8", "replace") for cell in cells])


def _mutate_column(columns: dict[str, list[Any]], random: Random) -> None:
    name = random.choice(list(columns))
    cells = columns[name]
    kind = random.randrange(6)
    if kind == 0:
        del columns[name]
    elif kind == 1:
        columns[random.choice((name.upper(), "x", ""))] = columns.pop(name)
    elif kind == 2:
        columns[name] = [any_value(random)] * len(cells)
    elif kind == 3:
        columns[name] = [random.choice((0, 1, -1, 10**15, 2**62, 7)) for _ in cells]
    elif kind == 4:
        columns[name] = cells[: random.randrange(len(cells) + 1)]
    elif cells:
        cells[random.randrange(len(cells))] = random.choice((None, -1, 0, 2**40, 1, 2**63 - 1))


def take_parquet(raw: bytes) -> None:
    """Read a table of sampled steps."""
    read_steps(write("steps.parquet", raw))
