"""The index of a catalogue: one row a deployment, in a Parquet file that other tools read, and a list of failures."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from typing import Any, cast

import numpy as np

from roofml.catalog.key import Key
from roofml.jobs.places import Place
from roofml.traces.engine_version import parse_version
from roofml.traces.release_dates import RELEASED
from roofml.util.errors import InputError

SCHEMA = "roofml-catalog/1"
MOST_BYTES = 500_000_000
FEW_RUNS, SMALL_SHARE = 2, 0.5
"""Fewer runs than this, or batches that fill a smaller share of the server's seats, are a gap."""


@dataclass(frozen=True, order=True)
class Failure:
    """Something below the runs' place that is not in the catalogue, and why."""

    folder: str
    run: str
    """Empty where it is of the folder as a whole."""
    stage: str
    """read, fit or pool."""
    reason: str
    deployment: str = ""
    """The deployment that has no coefficients because of it."""


@dataclass(frozen=True)
class Row:
    """One deployment. Errors are mean |error| of a run's mean latency over its runs, %; times are µs."""

    name: str
    """Of the coefficients file below `coeffs/`, without its ending."""
    key: str
    """Digest of all that makes the deployment what it is."""
    model: str
    hf_repo: str
    config_sha256: str
    gpu: str
    tp: int
    engine: str
    engine_version: str | None
    kv_dtype: str
    settings: str
    """JSON of what is set otherwise than usual; empty for nothing."""
    runs: int
    saturated_runs: int
    requests: int
    held_out_e2e_pct: float | None
    """On the last 40 % of each run, by a fit of the first 60 %; null where runs are too short for that."""
    held_out_ttft_pct: float | None
    held_out_tpot_pct: float | None
    worst_e2e_pct: float | None
    untraced_e2e_pct: float | None
    """On the same requests, by what other models say, without any trace of this one."""
    in_sample_e2e_pct: float | None
    in_sample_ttft_pct: float | None
    in_sample_tpot_pct: float | None
    not_judged: str | None
    """Why there is no held-out error."""
    converged: bool
    misfit: list[str]
    not_identified: list[str]
    prior: str
    batch: list[int]
    """Smallest and largest batch seen; the same of the next two."""
    context: list[int]
    new_tokens: list[int]
    gaps: list[str]
    """What was not measured, in sentences."""
    recorded: str | None
    """Last date in the names of its runs and their folders; null where they have none."""
    releases_since: int | None
    """Releases of vLLM that are known and newer than its own."""
    drift_pct: float | None
    """How much longer the reference steps take than by the last catalogue's other coefficients; null without any."""
    reference_us: list[float | None]
    """Times of `judged.REFERENCE`."""
    before_us: list[float | None] | None
    """The same by those earlier coefficients."""
    coefficients_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """As `catalog fit --json` and the index have it."""
        return asdict(self)


def row_of(
    key: Key,
    model: str,
    name: str,
    runs: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    before: Row | None,
) -> Row:
    """The row of a deployment's result; `before` is that of the last catalogue."""
    held_out, in_sample = result["held_out_pct"], result["in_sample_pct"]
    reference = list(result["reference_us"].values())
    earlier = None
    if before is not None:  # coefficients that did not change have drifted as far as they had
        same = before.coefficients_sha256 == result["coefficients_sha256"]
        earlier = before.before_us if same else before.reference_us
    recorded = [run["recorded"] for run in runs if run["recorded"] is not None]
    return Row(
        name=name,
        key=key.sha256,
        model=model,
        hf_repo=min(run["hf_repo"] for run in runs),
        config_sha256=key.config_sha256,
        gpu=key.gpu,
        tp=key.tp,
        engine=key.engine,
        engine_version=key.engine_version or None,
        kv_dtype=key.kv_dtype,
        settings=json.dumps(key.settings) if key.settings else "",
        runs=len(runs),
        saturated_runs=sum(bool(run["saturated"]) for run in runs),
        requests=result["requests"],
        held_out_e2e_pct=held_out.get("e2e_mean"),
        held_out_ttft_pct=held_out.get("ttft_mean"),
        held_out_tpot_pct=held_out.get("tpot_mean"),
        worst_e2e_pct=result["held_out_worst_pct"].get("e2e_mean"),
        untraced_e2e_pct=result["untraced_pct"].get("e2e_mean"),
        in_sample_e2e_pct=in_sample.get("e2e_mean"),
        in_sample_ttft_pct=in_sample.get("ttft_mean"),
        in_sample_tpot_pct=in_sample.get("tpot_mean"),
        not_judged=result["not_judged"] or None,
        converged=result["converged"],
        misfit=result["misfit"],
        not_identified=result["not_identified"],
        prior=result["prior"],
        batch=result["valid"]["batch"],
        context=result["valid"]["context"],
        new_tokens=result["valid"]["new_tokens"],
        gaps=_gaps(runs, result),
        recorded=max(recorded) if recorded else None,
        releases_since=_releases_since(key),
        drift_pct=_drift(reference, earlier),
        reference_us=reference,
        before_us=earlier,
        coefficients_sha256=result["coefficients_sha256"],
    )


def _gaps(runs: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[str]:
    """What a planner may ask of and no run says."""
    gaps: list[str] = []
    if len(runs) < FEW_RUNS:
        gaps.append("one run: how servers of this kind differ is not seen")
    seats, largest = max(run["seats"] for run in runs), result["valid"]["batch"][1]
    if largest < SMALL_SHARE * seats:
        gaps.append(f"no batch above {largest} of {seats} seats")
    if all(run["saturated"] for run in runs):
        gaps.append("only overloaded runs")
    if result["not_judged"]:
        gaps.append("nothing held out to judge by")
    if not result["converged"]:
        gaps.append("the fit had not settled")
    return gaps


def _releases_since(key: Key) -> int | None:
    if key.engine != "vllm" or not key.engine_version:
        return None
    ours = parse_version(key.engine_version, "engine version")
    return sum(parse_version(version, "release") > ours for version in RELEASED)


def _drift(now: Sequence[float | None], before: Sequence[float | None] | None) -> float | None:
    """Mean change of the reference steps' times, %; None where there is nothing to compare."""
    pairs = [(a, b) for a, b in zip(now, before or (), strict=False) if a is not None and b is not None]
    if not pairs:
        return None
    return round(100 * math.expm1(float(np.mean([math.log(a / b) for a, b in pairs]))), 4)


def _arrow_schema() -> Any:
    pa: Any = import_module("pyarrow")
    kinds: dict[str, Any] = {
        "str": pa.string(),
        "str | None": pa.string(),
        "int": pa.int64(),
        "int | None": pa.int64(),
        "float | None": pa.float64(),
        "bool": pa.bool_(),
        "list[str]": pa.list_(pa.string()),
        "list[int]": pa.list_(pa.int64()),
        "list[float | None]": pa.list_(pa.float64()),
        "list[float | None] | None": pa.list_(pa.float64()),
    }
    columns = [pa.field(field.name, kinds[str(field.type)]) for field in fields(Row)]
    return pa.schema(columns, metadata={"schema": SCHEMA})


def index_bytes(rows: Sequence[Row]) -> bytes:
    """The rows as a Parquet file."""
    pa: Any = import_module("pyarrow")
    pq: Any = import_module("pyarrow.parquet")

    table = pa.Table.from_pylist([row.to_dict() for row in rows], schema=_arrow_schema())
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def read_index(place: Place, name: str) -> list[Row]:
    """The rows of an index. Raises InputError for what is no index of this schema."""
    pa: Any = import_module("pyarrow")
    pq: Any = import_module("pyarrow.parquet")

    where = f"{place.shown}/{name}"
    try:
        table = pq.read_table(io.BytesIO(place.read(name, MOST_BYTES)))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{where}: not a Parquet file: {str(cast('object', error)).splitlines()[0]}") from None
    metadata = cast("dict[bytes, bytes]", table.schema.metadata or {})
    said = metadata.get(b"schema", b"").decode(errors="replace")
    if said != SCHEMA or not table.schema.equals(_arrow_schema()):
        raise InputError(f"{where}: schema {said[:60]!r}, expected the columns of {SCHEMA}")
    return [Row(**row) for row in cast("list[dict[str, Any]]", table.to_pylist())]


def failures_text(failures: Sequence[Failure]) -> str:
    """The failures as a JSON file."""
    document = {"schema": SCHEMA, "failures": [asdict(failure) for failure in failures]}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
