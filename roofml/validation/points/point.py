"""Point: one measured operating point, a row of a CSV file (`evaluate --points`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from roofml.traces.csv_table import Table, read_table
from roofml.util.errors import InputError

WORDS = ("id", "source", "model", "gpu", "precision", "kv_dtype", "engine", "engine_version", "load_kind", "quality")
COUNTS = ("tp", "pp", "ep", "dp", "concurrency", "n_prompts", "max_num_seqs", "max_num_batched_tokens", "kv_tokens")
NUMBERS = ("rate", "isl", "osl", "isl_mean", "osl_mean", "len_ratio")
MEASURED = {
    "mean_ttft_ms": "ttft_mean",
    "median_ttft_ms": "ttft_median",
    "mean_tpot_ms": "tpot_mean",
    "median_tpot_ms": "tpot_median",
    "mean_e2e_ms": "e2e_mean",
}
"""Column -> metric. In the file ms, here µs."""
THROUGHPUT = "out_tok_per_s"
NEEDED = ("model", "gpu", "load_kind")
LOADS = ("closed", "open")
MOST_POINTS = 200_000
MOST_OF = {
    "tp": 1024,
    "pp": 1024,
    "ep": 4096,
    "dp": 4096,
    "concurrency": 100_000,
    "n_prompts": 1_000_000,
    "max_num_seqs": 100_000,
    "max_num_batched_tokens": 1_000_000,
    "kv_tokens": 1_000_000_000,
}
LARGEST = 1e9
"""No rate, length or time in ms is larger."""
PROMPTS_A_CLIENT = 10
"""Requests of each client of a closed loop where nobody says how many there were: as InferenceX sends."""
OPEN_PROMPTS = 500
"""Requests of an open load where nobody says."""


@dataclass(frozen=True)
class Point:
    """A load on a deployment and what was measured of it. None or 0: the row does not say."""

    id: str
    source: str
    model: str
    gpu: str
    tp: int
    pp: int
    ep: int
    dp: int
    precision: str | None
    """Of the weights; what the model's config says does not count then."""
    kv_dtype: str | None
    engine: str
    engine_version: str
    """A version, a date, or both in words."""
    load_kind: str
    concurrency: int
    rate: float
    """Requests a second of an open load."""
    requests: int
    input_tokens: float
    """Mean of the prompts drawn."""
    output_tokens: float
    input_range: tuple[int, int]
    """Shortest and longest prompt drawn."""
    output_range: tuple[int, int]
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    kv_tokens: int | None
    quality: str
    measured: Mapping[str, float] = field(default_factory=dict[str, float])
    """Metric -> µs, as in `MEASURED`; `output_tokens_per_s` in tokens a second."""

    @property
    def cell(self) -> tuple[str, str, str]:
        """Source, GPU and model: what belongs together is judged together."""
        return self.source, self.gpu, self.model


def _header(path: Path, names: list[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise InputError(f"{path}: missing column {', '.join(missing)}, expected those of a table of points")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: a column stands twice")


def read_points(path: Path) -> list[Point]:
    """The points of a CSV file. Columns that are not known are ignored.

    Raises InputError naming file, line and column for a cell that is not what the column holds.
    """
    columns = (*WORDS, *COUNTS, *NUMBERS, *MEASURED, THROUGHPUT)
    table = read_table(path, _header, (), columns, "a points")
    rows = len(table.lines)
    if rows > MOST_POINTS:
        raise InputError(f"{path}: {rows} points, expected at most {MOST_POINTS}")
    return [_point(table, row) for row in range(rows)]


def _word(table: Table, row: int, name: str) -> str:
    return table.words[name][row].strip() if name in table.words else ""


def _number(table: Table, row: int, name: str) -> float | None:
    text = _word(table, row, name)
    if not text:
        return None
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= LARGEST:
        raise table.refuse(row, name, f"a number from 0 to {LARGEST:g}, or nothing")
    return value


def _count(table: Table, row: int, name: str) -> int | None:
    value = _number(table, row, name)
    if value is None:
        return None
    if value != round(value) or value > MOST_OF[name]:
        raise table.refuse(row, name, f"a whole number up to {MOST_OF[name]}, or nothing")
    return round(value)


def _name(table: Table, row: int, name: str) -> str:
    text = _word(table, row, name)
    if not text or not text.isprintable() or len(text) > 200:
        raise table.refuse(row, name, "a name")
    return text


def _drawn(table: Table, row: int, nominal: str, mean: str) -> tuple[float, tuple[int, int]]:
    """Mean length, and the shortest and longest, of prompts or answers."""
    told, average, ratio = (_number(table, row, name) for name in (nominal, mean, "len_ratio"))
    if not (average or told):
        raise (
            table.refuse(row, nominal, f"a length, here or in {mean}")
            if nominal in table.words
            else InputError(f"{table.path}: missing column {nominal}")
        )
    tokens = float(average or told or 0.0)
    if not 1 <= tokens <= 10_000_000:
        raise table.refuse(row, mean if average else nominal, "a length from 1 to 10,000,000 tokens")
    if ratio is not None and told and 0 < ratio < 1:
        return tokens, (max(1, round(ratio * told)), max(1, round(told)))
    whole = max(1, round(tokens))
    return tokens, (whole, whole)


def _point(table: Table, row: int) -> Point:
    input_tokens, input_range = _drawn(table, row, "isl", "isl_mean")
    output_tokens, output_range = _drawn(table, row, "osl", "osl_mean")
    kind = _word(table, row, "load_kind")
    if kind not in LOADS:
        raise table.refuse(row, "load_kind", f"one of {', '.join(LOADS)}")
    counts = {name: _count(table, row, name) for name in COUNTS}
    rate = _number(table, row, "rate") or 0.0
    if kind == "open" and rate == 0:
        raise (
            table.refuse(row, "rate", "requests a second of an open load")
            if "rate" in table.words
            else InputError(f"{table.path}: line {table.lines[row]}: an open load without a rate")
        )
    concurrency = counts["concurrency"] or (1 if kind == "closed" else 0)
    usual = PROMPTS_A_CLIENT * concurrency if kind == "closed" else OPEN_PROMPTS
    measured = {metric: 1e3 * value for column, metric in MEASURED.items() if (value := _number(table, row, column))}
    throughput = _number(table, row, THROUGHPUT)
    if throughput:
        measured["output_tokens_per_s"] = throughput
    return Point(
        id=_word(table, row, "id") or str(row + 1),
        source=_word(table, row, "source"),
        model=_name(table, row, "model"),
        gpu=_name(table, row, "gpu"),
        tp=counts["tp"] or 1,
        pp=counts["pp"] or 1,
        ep=counts["ep"] or 1,
        dp=counts["dp"] or 1,
        precision=_word(table, row, "precision") or None,
        kv_dtype=_word(table, row, "kv_dtype") or None,
        engine=_word(table, row, "engine").lower() or "vllm",
        engine_version=_word(table, row, "engine_version"),
        load_kind=kind,
        concurrency=concurrency,
        rate=rate,
        requests=counts["n_prompts"] or usual,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        input_range=input_range,
        output_range=output_range,
        max_num_seqs=counts["max_num_seqs"],
        max_num_batched_tokens=counts["max_num_batched_tokens"],
        kv_tokens=counts["kv_tokens"],
        quality=_word(table, row, "quality") or "good",
        measured=measured,
    )
