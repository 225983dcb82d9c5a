"""A TraceV2 table as `blis replay` reads it, written from BLIS's own description of it: no reader of ours is used."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from roofml.traces.run import Run


def requests_of(table: Path, like: Run, model: str = "") -> Run:
    """The requests that BLIS would make of the rows, on the server of `like`; `model` is its --model.

    A row of another model is never served. The first row of a prefix group sets its length for all, `input_tokens` are
    the rest; without a group the server's count is the prompt. A request enters at `send_time_us` if that is positive.
    """
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] in ("", model)]
    lengths: dict[str, int] = {}
    for row in rows:
        if row["prefix_group"] and int(row["prefix_length"]) > 0:
            lengths.setdefault(row["prefix_group"], int(row["prefix_length"]))
    numbers = {name: number for number, name in enumerate(lengths)}
    group = [numbers.get(row["prefix_group"], -1) for row in rows]
    prefix = [lengths.get(row["prefix_group"], 0) for row in rows]
    own = [int(row["input_tokens"]) if row["prefix_group"] else int(row["server_input_tokens"]) for row in rows]
    arrival = [int(row["send_time_us"]) or int(row["arrival_time_us"]) for row in rows]
    size, nothing = len(rows), np.full(len(rows), np.nan)
    return replace(
        like,
        request_id=np.array([int(row["request_id"]) for row in rows]),
        arrival_us=np.array(arrival, float),
        prompt_tokens=np.array(prefix) + np.array(own),
        output_tokens=np.array([int(row["output_tokens"]) for row in rows]),
        prefix_group=np.array(group),
        prefix_tokens=np.array(prefix),
        ttft_us=nothing,
        e2e_us=nothing,
        ok=np.ones(size, np.bool_),
        late=np.zeros(0, np.bool_),
        priority=np.zeros(0, np.int64),
        counted_tokens=np.zeros(0, np.int64),
        identity="",
    )
